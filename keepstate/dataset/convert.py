"""One trace file to one proven row, or to the reason why not. Runs in every worker process; knows no other file."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from keepstate import guard
from keepstate.dataset.manifest import BuildOptions, Length
from keepstate.dataset.sample import REFUSALS, Refused, Sample, prove
from keepstate.dataset.templates import ChatTemplate
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.dataset.turns import TRAINING_KEY, counted, masked_answers, training_flags
from keepstate.models.base import Message
from keepstate.traces.importing import ASSUMED, PLACE, stripped
from keepstate.traces.reader import load_trace
from keepstate.traces.record import ModelResponseEvent, Trace, TraceError
from keepstate.vocabulary import FinishReason, RuntimeName

SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}
ROLES = {told: role for role, told in SHAREGPT_ROLES.items()}
NOT_A_TRACE = "not a trace"
UNREADABLE = frozenset({NOT_A_TRACE, *REFUSALS})
"""Reasons that tell of something wrong with a file; the others tell of something not wanted."""
TOO_LONG = "too long"
CUT_TO_LENGTH = "cut to max_tokens"
NO_LAST_ANSWER = "ended without an answer"
NOTHING_TRAINED = "no turn to train"
CUT_OFF = "answer cut off"
"""The limit on new tokens ended it: the model never wrote the end of turn that would be trained."""
HASH_BYTES = 16
"""Of SHA-256, to tell tasks and conversations apart; 128 bits, since memory grows with every row."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that becomes no row."""

    path: str
    """As its folder was given to the build."""
    reason: str
    """In a few words: `too long`, `not finished`, `special token in text`, ..."""
    detail: str
    """What exactly is wrong; empty where the reason says all."""
    source: str = ""
    """File and line that an imported trace comes from."""


@dataclass(frozen=True, slots=True)
class Row:
    """A proven row."""

    path: str
    task: str
    """Name of the task."""
    task_hash: bytes
    content_hash: bytes
    """Of the conversation."""
    line: str
    """The ShareGPT JSON."""
    turns: int
    tokens: int
    trained: int
    shortened: tuple[str, ...] = ()
    """Why it holds less than its trace."""
    masked: dict[str, int] = field(default_factory=dict)
    """How many of its answers are not trained, by reason."""
    source: str = ""
    """File and line that an imported trace comes from."""


class Converter:
    """Turns trace files into rows with one template, one tokenizer and one choice of options."""

    def __init__(
        self, template: ChatTemplate, tokenizer: TextTokenizer, options: BuildOptions, runtime: RuntimeName
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        self.options = options
        self.runtime = runtime

    def convert(self, path: Path) -> Row | LeftOut:
        """The row of the trace in the file at `path`, or why there is none."""
        source = ""
        try:
            trace = load_trace(path)
            if self.options.strip_empty_think:
                trace = stripped(trace)
            source = trace.versions.get(PLACE, "")
            for reason, detail in self._objections(trace):
                return LeftOut(str(path), reason, detail, source)
            return self._row(path, trace)
        except TraceError as error:
            return LeftOut(str(path), NOT_A_TRACE, str(error))
        except OSError as error:
            return LeftOut(str(path), NOT_A_TRACE, error.strerror or str(error))
        except Refused as error:
            return LeftOut(str(path), error.reason, str(error), source)

    def _objections(self, trace: Trace) -> Iterator[tuple[str, str]]:
        """Reason and detail of everything for which the options do not want this trace."""
        wanted, verdict, failure = self.options, trace.verdict, trace.failure
        assumed = ASSUMED in trace.versions and trace.agent == self.runtime.agent
        if trace.runtime is not self.runtime and not assumed:
            yield "another runtime", f"recorded in {trace.runtime}"
        if failure is not None and not wanted.failed:
            yield "failure of ours", f"{failure.origin}: {failure.message}"
        for event in trace.events:
            if isinstance(event, ModelResponseEvent) and event.truncated:
                yield CUT_OFF, f"turn {event.turn}: the limit on new tokens ended it"
        if failure is not None:
            return
        if wanted.finished and trace.finish_reason is not FinishReason.FINISHED:
            yield "not finished", f"ended by {trace.finish_reason}"
        if verdict is None:
            if wanted.solved or wanted.min_score:
                yield "not graded", "it has no verdict"
        elif (wanted.solved and not verdict.is_solved) or not verdict.score >= wanted.min_score:  # NaN is not good
            yield "not good enough", f"score {verdict.score:.3f}"

    def _row(self, path: Path, trace: Trace) -> Row:
        messages: Sequence[Message] = trace.messages
        shortened: list[str] = []
        if messages and messages[-1]["role"] == "user":
            messages = messages[:-1]
            shortened.append(NO_LAST_ANSWER)
        sample = prove(messages, self.template, self.tokenizer)
        if len(sample.ids) > self.options.max_tokens:
            messages, sample = self._shorten(messages, sample)
            shortened.append(CUT_TO_LENGTH)
        masked = masked_answers(trace, messages, self.options.train_turns)
        if len(masked) == len(sample.answers):
            raise Refused(NOTHING_TRAINED, f"{next(iter(masked.values()))}: so of all {len(masked)} answers")
        line = sharegpt_line(messages, training_flags(messages, masked, self.options.train_turns))
        return Row(
            path=str(path),
            task=trace.task.name,
            task_hash=_digest(trace.task.content_hash),
            content_hash=_digest(line),
            line=line,
            turns=len(sample.answers),
            tokens=len(sample.ids),
            trained=sum(span.end - span.start for turn, span in enumerate(sample.answers) if turn not in masked),
            shortened=tuple(shortened),
            masked=counted(masked),
            source=trace.versions.get(PLACE, ""),
        )

    def _shorten(self, messages: Sequence[Message], sample: Sample) -> tuple[Sequence[Message], Sample]:
        """Cut after the last answer that fits.

        Raises:
            Refused: The policy is to drop or to stop, or not even one turn fits.
        """
        limit = self.options.max_tokens
        detail = f"{len(sample.ids)} tokens, {limit} allowed"
        if self.options.length is Length.CUT:
            for span in reversed(sample.answers):
                if span.end > limit:
                    continue
                shorter = prove(messages[: span.message + 1], self.template, self.tokenizer)
                if len(shorter.ids) <= limit:
                    return messages[: span.message + 1], shorter
            detail = f"its first turn alone is longer than {limit} tokens"
        raise Refused(TOO_LONG, detail)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:HASH_BYTES]


def sharegpt_line(messages: Sequence[Message], trained: Sequence[bool] | None = None) -> str:
    """The conversation as one line of ShareGPT JSONL; `trained` says of every answer whether it is, None: all are."""
    turns: list[dict[str, str | bool]] = [
        {"from": SHAREGPT_ROLES[message["role"]], "value": message["content"]} for message in messages
    ]
    if trained is not None:
        answers = (turn for turn, message in zip(turns, messages, strict=True) if message["role"] == "assistant")
        for turn, is_trained in zip(answers, trained, strict=True):
            turn[TRAINING_KEY] = is_trained
    return json.dumps({"conversations": turns}, ensure_ascii=False)


def messages_of(line: str) -> list[Message]:
    """The conversation in a line of ShareGPT JSONL that a build wrote."""
    turns = json.loads(line)["conversations"]
    return [Message(role=ROLES[turn["from"]], content=turn["value"]) for turn in turns]  # type: ignore[typeddict-item]


def open_converter(
    template: ChatTemplate, tokenizer_path: Path, options: BuildOptions, runtime: RuntimeName
) -> Converter:
    """A converter with its tokenizer read here: a process hands the path to another one, not the tokenizer."""
    return Converter(template, TextTokenizer(tokenizer_path), options, runtime)


def convert_share(pipe: Connection, share: Sequence[Sequence[str]], converter: Callable[[], Converter]) -> None:
    """What a worker process does: convert some chunks of files, send the results, and never outlive its parent."""
    guard.prctl(guard.PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        return
    convert = converter().convert
    for chunk in share:
        pipe.send([convert(Path(path)) for path in chunk])
