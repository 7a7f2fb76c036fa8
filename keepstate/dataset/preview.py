"""Looking at one row of a data set: what is trained, what is masked, how many tokens each turn has.

Run `keepstate dataset preview FOLDER`, with `--html FILE` for a page. The text shown is decoded from the token ids, so
it is what the model sees, special tokens included. Proves nothing: that is `keepstate dataset check`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from keepstate.dataset.convert import SHAREGPT_ROLES, messages_of
from keepstate.dataset.manifest import INDEX, TEMPLATE, read_manifest
from keepstate.dataset.sample import prove
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.dataset.turns import TRAINING_KEY
from keepstate.errors import UserError
from keepstate.models.base import Message
from keepstate.traces.view import printable

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that are all trained or all masked."""

    turn: int
    trained: bool
    tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Preview:
    """One row."""

    title: str
    trace: str
    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(segment.tokens for segment in self.segments)

    @property
    def trained(self) -> int:
        """Trained tokens."""
        return sum(segment.tokens for segment in self.segments if segment.trained)


def preview(folder: Path, split: str, row: int, tokenizer_path: Path | None = None) -> Preview:
    """Row `row` (from 0) of `split` of the data set in `folder`.

    Raises:
        UserError: No such data set, split, row or tokenizer.
    """
    manifest = read_manifest(folder)
    if split not in manifest.splits or not 0 <= row < manifest.splits[split].rows:
        rows = ", ".join(f"{name} has {found.rows} rows" for name, found in manifest.splits.items())
        raise UserError(f"{folder} has no row {row} in split {split!r}", f"rows count from 0: {rows}")
    tokenizer = TextTokenizer(tokenizer_path or Path(manifest.tokenizer.name))
    before = sum(manifest.splits[name].rows for name in list(manifest.splits)[: list(manifest.splits).index(split)])
    about = json.loads(_line(folder / INDEX, before + row))
    line = _line(folder / f"{split}.jsonl", row)
    turns = [turn for turn in json.loads(line)["conversations"] if turn["from"] == SHAREGPT_ROLES["assistant"]]
    trained = [turn.get(TRAINING_KEY, True) for turn in turns]
    segments = _segments(messages_of(line), trained, folder, tokenizer)
    return Preview(printable(f"{folder} {split} {row}"), printable(about["path"]), tuple(segments))


def _line(path: Path, number: int) -> str:
    with path.open(encoding="utf-8") as lines:
        return next(islice(lines, number, None))


def _segments(
    messages: Sequence[Message], answers: Sequence[bool], folder: Path, tokenizer: TextTokenizer
) -> Iterator[Segment]:
    sample = prove(messages, load_template(folder / TEMPLATE), tokenizer)
    done = 0
    for turn, span in enumerate(sample.answers):
        for trained, start, end in ((False, done, span.start), (answers[turn], span.start, span.end)):
            yield Segment(turn, trained, end - start, tokenizer.decode(sample.ids[start:end]))
        done = span.end
    if rest := sample.ids[done:]:
        yield Segment(len(sample.answers) - 1, False, len(rest), tokenizer.decode(rest))


def as_text(shown: Preview) -> Text:
    """The row for a terminal: trained text in green, masked text dim, a line of counts before each run."""
    from rich.text import Text

    text = Text()
    text.append(f"{shown.title}: {_counts(shown)}\n{shown.trace}\n", "bold")
    for segment in shown.segments:
        text.append(f"\n--- turn {segment.turn}: {_size(segment)} ---\n", "cyan")
        text.append(printable(segment.text), "green" if segment.trained else "bright_black")
    return text


def as_html(shown: Preview) -> str:
    """The row as one page that needs nothing else."""
    runs = "\n".join(
        f'<section class="{_word(segment)}"><h2>turn {segment.turn} · {_size(segment)}</h2>'
        f"<pre>\n{html.escape(printable(segment.text))}</pre></section>"  # HTML drops the first newline of a pre
        for segment in shown.segments
    )
    title, counts, trace = (html.escape(text) for text in (shown.title, _counts(shown), shown.trace))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n<style>{STYLE}</style>'
        f"</head><body>\n<h1>{title}</h1>\n<p>{counts}</p>\n<p>{trace}</p>\n{runs}\n</body></html>\n"
    )


def _counts(shown: Preview) -> str:
    return f"{shown.tokens:,} tokens, {shown.trained:,} trained ({shown.trained / shown.tokens:.0%})"


def _size(segment: Segment) -> str:
    return f"{segment.tokens} token{'s' if segment.tokens != 1 else ''} {_word(segment)}"


def _word(segment: Segment) -> str:
    return "trained" if segment.trained else "masked"


STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.2rem; } h2 { font-size: .8rem; font-weight: 600; margin: 0; padding: .3rem .8rem; }
section { border-left: 4px solid; margin: .5rem 0; }
pre { margin: 0; padding: .2rem .8rem .6rem; white-space: pre-wrap; overflow-wrap: anywhere;
      font: 13px/1.45 ui-monospace, monospace; }
.trained { border-color: light-dark(#1a7f37, #3fb950); background: light-dark(#dafbe1, #12361d);
           color: light-dark(#0a3d1a, #b6f2c4); }
.masked { border-color: light-dark(#d0d7de, #444c56); color: light-dark(#656d76, #8b949e); }
"""
