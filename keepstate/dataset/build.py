"""Building data sets: traces in, ShareGPT JSONL with a manifest out, one folder an arm.

Run `keepstate dataset build`. Every row was proven (`keepstate.dataset.sample`); `keepstate dataset check` proves the
written files once more, with Axolotl's own tokens. Starts no training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import accumulate, chain, takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from keepstate import __version__
from keepstate.dataset.convert import TOO_LONG, LeftOut
from keepstate.dataset.fitting import fitting_template, require_append_only
from keepstate.dataset.manifest import (
    INDEX,
    LEFT_OUT,
    MANIFEST,
    TEMPLATE,
    Balance,
    BuildOptions,
    IndexLine,
    Length,
    Manifest,
    RowCount,
    Source,
    SplitCount,
)
from keepstate.dataset.sample import REMEDIES
from keepstate.dataset.scan import Arm, Entry, OnProgress, scan
from keepstate.dataset.templates import ChatTemplate, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.files import atomic_file, scratch_folder, write_atomic
from keepstate.vocabulary import RuntimeName

if TYPE_CHECKING:
    from keepstate.play.cluster import Cluster

DUPLICATE = "duplicate"
UNPAIRED = "task missing in another arm"
BALANCED = "over the balance of tokens"


@dataclass(slots=True)
class ChosenRows:
    """The rows of one arm."""

    train: list[Entry] = field(default_factory=list)
    val: list[Entry] = field(default_factory=list)
    left_out: list[tuple[Entry, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one runtime in a data set."""

    runtime: RuntimeName
    arm: Arm
    choice: ChosenRows


def build_datasets(
    arms: Mapping[RuntimeName, Path],
    out: Mapping[RuntimeName, Path],
    *,
    template: str | Path | None,
    tokenizer_path: Path,
    options: BuildOptions,
    jobs: int | None = None,
    cluster: Cluster | None = None,
    on_progress: OnProgress | None = None,
) -> dict[RuntimeName, Manifest]:
    """Build the data sets of several arms whose rows are chosen together.

    Args:
        arms: Folders of traces by the runtime that they were recorded in. All are read, for pairing and balance.
        out: Folders to write `train.jsonl`, `val.jsonl`, `manifest.json` and `chat_template.jinja` into, by runtime.
        template: A built-in chat template's name, a Jinja file or `own`, the model's; None: what fits the tokenizer.
        tokenizer_path: A model folder or `tokenizer.json`.
        options: Which traces become rows.
        jobs: Processes; by default one a core.
        cluster: Convert on its nodes instead.
        on_progress: Told the files done and the files in all, arm by arm.

    Returns:
        What was written, by runtime.

    Raises:
        UserError: The template rewrites history, nothing to read, nothing left to train on, a conversation too long
            under `length="raise"`.
    """
    sets = {runtime: ((runtime,), folder) for runtime, folder in out.items()}
    built = _build(arms, [*sets.values()], template, tokenizer_path, options, jobs, cluster, on_progress)
    return dict(zip(sets, built, strict=True))


def build_mixed(
    arms: Mapping[RuntimeName, Path],
    out: Path,
    *,
    template: str | Path | None,
    tokenizer_path: Path,
    options: BuildOptions,
    jobs: int | None = None,
    cluster: Cluster | None = None,
    on_progress: OnProgress | None = None,
) -> Manifest:
    """Build one data set of the rows of several arms, in one order of tasks; see `build_datasets`.

    A held-out task is held out in every runtime. An arm that has no row to train on is refused.
    """
    (manifest,) = _build(arms, [(tuple(arms), out)], template, tokenizer_path, options, jobs, cluster, on_progress)
    return manifest


def _build(
    arms: Mapping[RuntimeName, Path],
    sets: Sequence[tuple[tuple[RuntimeName, ...], Path]],
    template: str | Path | None,
    tokenizer_path: Path,
    options: BuildOptions,
    jobs: int | None,
    cluster: Cluster | None,
    on_progress: OnProgress | None,
) -> list[Manifest]:
    """Read all arms, choose their rows together, and write the sets: the runtimes in each, and its folder."""
    if len(arms) < 2 and (options.paired or options.balance is not Balance.NONE):
        raise UserError(
            f"pairing and balance compare two arms or more; here is only {', '.join(arms)}",
            "name more: --runtime persistent --runtime forget, or leave --paired and --balance out",
        )
    tokenizer = TextTokenizer(tokenizer_path)
    chat_template = load_template(template or fitting_template(tokenizer), tokenizer.path.parent)
    require_append_only(chat_template)
    sources = {
        "template": Source(name=chat_template.name, sha256=chat_template.sha256),
        "tokenizer": Source(name=str(tokenizer_path), sha256=tokenizer.sha256),
    }
    with scratch_folder(sets[0][1], ".build.") as work:
        read: dict[RuntimeName, Arm] = {}
        for runtime, root in arms.items():
            read[runtime] = scan(
                root,
                runtime,
                work / runtime,
                template=chat_template,
                tokenizer_path=tokenizer_path,
                options=options,
                jobs=jobs,
                cluster=cluster,
                on_progress=on_progress,
            )
            if options.length is Length.RAISE:
                _refuse_long(read[runtime])
        choices = choose({runtime: arm.entries for runtime, arm in read.items()}, options)
        parted = [
            (folder, [Part(runtime, read[runtime], choices[runtime]) for runtime in runtimes])
            for runtimes, folder in sets
        ]
        for folder, parts in parted:
            for part in parts:
                _require_rows(folder, part)
        return [_write(folder, parts, chat_template, sources, options) for folder, parts in parted]


def choose(arms: Mapping[RuntimeName, Sequence[Entry]], options: BuildOptions) -> dict[RuntimeName, ChosenRows]:
    """Choose and order the rows of every arm.

    In this order: equal conversations once, pairing, the split by task, the balance of tokens in the train splits.
    Rows are ordered by a hash of seed, task and content: the same tasks come in the same order in every arm.
    """
    choices = {name: ChosenRows() for name in arms}
    kept = {name: _without_duplicates(arms[name], choices[name]) for name in arms}
    if options.paired:
        common = set.intersection(*({entry.task for entry in entries} for entries in kept.values()))
        for name, entries in kept.items():
            choices[name].left_out += [(entry, UNPAIRED) for entry in entries if entry.task not in common]
            kept[name] = [entry for entry in entries if entry.task in common]
    held_out = _held_out({entry.task for entries in kept.values() for entry in entries}, options)
    for name, entries in kept.items():
        ordered = sorted(entries, key=lambda entry: (_rank(entry.task, options.seed), entry.content))
        choices[name].val = [entry for entry in ordered if entry.task in held_out]
        choices[name].train = [entry for entry in ordered if entry.task not in held_out]
    if options.balance is not Balance.NONE:
        _balance(choices, options.balance)
    return choices


def _rank(task: bytes, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + task).digest()


def _without_duplicates(entries: Sequence[Entry], choice: ChosenRows) -> list[Entry]:
    seen: set[bytes] = set()
    kept = []
    for entry in entries:
        if entry.content in seen:
            choice.left_out.append((entry, DUPLICATE))
        else:
            seen.add(entry.content)
            kept.append(entry)
    return kept


def _held_out(tasks: set[bytes], options: BuildOptions) -> set[bytes]:
    """The tasks of the validation split: at least one where a share is asked for and two tasks exist."""
    if not options.val_fraction or len(tasks) < 2:
        return set()
    count = min(max(1, round(options.val_fraction * len(tasks))), len(tasks) - 1)
    return set(sorted(tasks, key=lambda task: _rank(task, options.seed))[:count])


def _balance(choices: Mapping[RuntimeName, ChosenRows], balance: Balance) -> None:
    """Drop rows from the end of the larger arms until none has more tokens than the smallest."""

    def size(entry: Entry) -> int:
        return entry.trained if balance is Balance.TRAINED else entry.tokens

    budget = min(sum(map(size, choice.train)) for choice in choices.values())
    for choice in choices.values():
        totals = accumulate(map(size, choice.train))
        kept = sum(1 for _ in takewhile(lambda total: total <= budget, totals))  # shorter ones behind would be a bias
        choice.left_out += [(entry, BALANCED) for entry in choice.train[kept:]]
        choice.train = choice.train[:kept]


def _refuse_long(arm: Arm) -> None:
    for left_out in arm.left_out:
        if left_out.reason == TOO_LONG:
            raise UserError(
                f"{left_out.path}: {left_out.detail}", "choose --length drop or cut, or a larger --max-tokens"
            )


def _require_rows(folder: Path, part: Part) -> None:
    """Refuse to write an arm without rows, before a data set that lies there is touched."""
    if part.choice.train:
        return
    left_out = _write_left_out(folder, [part])
    held_out = Counter({"held out": len(part.choice.val)} if part.choice.val else {})
    raise UserError(
        f"{part.runtime}: none of {part.arm.read} traces is left to train on: {_counts(held_out + left_out)}",
        "hold no task out: --val-fraction 0" if part.choice.val else _way_out(part.arm, left_out, folder),
    )


def _write(
    folder: Path, parts: Sequence[Part], template: ChatTemplate, sources: Mapping[str, Source], options: BuildOptions
) -> Manifest:
    """Write one data set; its manifest comes last."""
    (folder / MANIFEST).unlink(missing_ok=True)  # a half-written data set has none
    shortened: Counter[str] = Counter()
    masked: Counter[str] = Counter()
    left_out = _write_left_out(folder, parts)
    chosen = {
        "train": [(entry, part) for part in parts for entry in part.choice.train],
        "val": [(entry, part) for part in parts for entry in part.choice.val],
    }
    with atomic_file(folder / INDEX) as index:
        splits = {
            name: _write_split(folder, name, rows, len(parts) > 1, options, index, (shortened, masked))
            for name, rows in chosen.items()
        }
    write_atomic(folder / TEMPLATE, template.text)
    by_runtime = {
        part.runtime: {"train": _count(part.choice.train), "val": _count(part.choice.val)}
        for part in parts
        if len(parts) > 1
    }
    manifest = Manifest(
        keepstate=__version__,
        runtimes=tuple(part.runtime for part in parts),
        template=sources["template"],
        tokenizer=sources["tokenizer"],
        options=options.model_dump(mode="json"),
        read=sum(part.arm.read for part in parts),
        splits=splits,
        by_runtime=by_runtime,
        left_out=dict(sorted(left_out.items())),
        shortened=dict(sorted(shortened.items())),
        masked=dict(sorted(masked.items())),
    )
    manifest.write(folder)
    return manifest


def _write_left_out(folder: Path, parts: Sequence[Part]) -> Counter[str]:
    """Name every trace that is in no split."""
    counts: Counter[str] = Counter()
    with atomic_file(folder / LEFT_OUT) as file:
        for part in parts:
            with part.arm.spool.open("rb") as spool:
                chosen_out = ((part.arm.row(spool, entry)[0], reason) for entry, reason in part.choice.left_out)
                told = (LeftOut(about["path"], reason, "", about.get("source", "")) for about, reason in chosen_out)
                for out in chain(part.arm.left_out, told):
                    counts[out.reason] += 1
                    file.write(json.dumps(asdict(out)).encode() + b"\n")
    return counts


def _write_split(
    folder: Path,
    name: str,
    rows: Sequence[tuple[Entry, Part]],
    mixed: bool,
    options: BuildOptions,
    index: IO[bytes],
    counts: tuple[Counter[str], Counter[str]],
) -> SplitCount:
    """Write `<name>.jsonl` and its lines of the index; count what is shortened and what is masked.

    Rows of several runtimes are put in the order of those of one.
    """
    shortened, masked = counts
    digest = hashlib.sha256()
    ordered = sorted(rows, key=lambda row: (_rank(row[0].task, options.seed), row[0].content))
    arms = {part.runtime: part.arm for _, part in rows}
    with ExitStack() as stack, atomic_file(folder / f"{name}.jsonl") as file:
        spools = {runtime: stack.enter_context(arm.spool.open("rb")) for runtime, arm in arms.items()}
        for place, (entry, part) in enumerate(ordered):
            about, line = part.arm.row(spools[part.runtime], entry)
            if mixed:
                about["runtime"] = part.runtime
            file.write(line)
            digest.update(line)
            shortened.update(about["shortened"])
            masked.update(about.get("masked", {}))
            line_of_index: IndexLine = {
                "split": name,
                "row": place,
                **about,
                "content_hash": entry.content.hex(),
                "turns": entry.turns,
                "tokens": entry.tokens,
                "trained_tokens": entry.trained,
            }
            index.write(json.dumps(line_of_index).encode() + b"\n")
    count = _count([entry for entry, _ in ordered])
    return SplitCount(**count.model_dump(), sha256=digest.hexdigest())


def _count(entries: Sequence[Entry]) -> RowCount:
    """What is in some rows."""
    return RowCount(
        rows=len(entries),
        tasks=len({entry.task for entry in entries}),
        turns=sum(entry.turns for entry in entries),
        tokens=sum(entry.tokens for entry in entries),
        trained_tokens=sum(entry.trained for entry in entries),
        longest=max((entry.tokens for entry in entries), default=0),
    )


def _way_out(arm: Arm, left_out: Counter[str], folder: Path) -> str:
    """What to do where nothing is left: the remedy of the commonest reason, and where it was met first."""
    reason = left_out.most_common(1)[0][0]
    if reason not in REMEDIES:
        return f"see {folder / LEFT_OUT}, or choose other options: keepstate dataset build --help"
    first = next(out for out in arm.left_out if out.reason == reason)
    return f"{REMEDIES[reason]}\nfirst: {first.source or first.path}: {first.detail}; {folder / LEFT_OUT} names all"


def _counts(left_out: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in left_out.most_common()) or "no trace was found"
