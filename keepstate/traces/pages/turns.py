"""What a page shows of a trace: its turns, and the names that the interpreter held at the end of each.

Computes what the trace tells; makes no HTML.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from keepstate.state import StateRule
from keepstate.traces.names import read_block
from keepstate.traces.record import (
    FORMAT_ERROR,
    MISSING_VARIABLE,
    NO_PYTHON,
    ModelResponseEvent,
    StepEvent,
    ToolCall,
    Trace,
)

MOST_TURNS = 1_000
"""On one page; what is left out is told. 40 is the usual limit of an episode."""
_FENCE = re.compile(r"\n?```[\w-]*[ \t]*\n?\Z")
_END_OF_FENCE = re.compile(r"\A[ \t]*\n?```[ \t]*\n?")
_NAME = re.compile(r"(?:name|variable) '([^'\n]{1,60})'")


@dataclass(frozen=True, slots=True)
class HeldNames:
    """The names of the agent's at the end of a turn, against the turn before."""

    new: tuple[str, ...]
    kept: tuple[str, ...]
    gone: tuple[str, ...]
    """Of the turn before, or bound by this one's code, and not held any more."""


@dataclass(frozen=True, slots=True)
class MissingName:
    """The name that an action relied on and that had no value."""

    name: str
    defined: int | None
    """The last turn before that had defined it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn, as a page shows it."""

    number: int
    """Counted from 0, as in the trace."""
    before: str
    """What the model wrote ahead of its action."""
    code: str | None
    """What was executed; None where the answer held no single action, and `before` is all of it."""
    after: str
    calls: tuple[ToolCall, ...]
    seen: tuple[tuple[str, str], ...]
    """Parts of the observation, each with its name."""
    shown: bool
    """Whether the agent saw them: not where the episode ended with this turn."""
    error_type: str | None
    names: HeldNames | None
    """None where there is no interpreter, or the trace does not tell."""
    missing: MissingName | None
    tokens: int | None
    """Of the answer."""
    prompt_tokens: int | None
    model_seconds: float | None
    action_seconds: float
    truncated: bool
    """The answer was cut at its token limit."""

    @property
    def missed_variable(self) -> bool:
        """Whether it ended in one of `MISSING_VARIABLE`."""
        return self.error_type in MISSING_VARIABLE

    @property
    def seconds(self) -> float | None:
        """Of answer and action; None where the answer's are not known."""
        return None if self.model_seconds is None else self.model_seconds + self.action_seconds

    @property
    def tools(self) -> str:
        """Which tools were called, and how often."""
        return ", ".join(f"{count} {name}" for name, count in Counter(call.tool for call in self.calls).most_common(8))

    @property
    def words(self) -> str:
        """Its figures, as a bar tells them."""
        tokens = "unknown" if self.tokens is None else f"{self.tokens:,}"
        seconds = "unknown" if self.seconds is None else f"{self.seconds:.2f}"
        return f"{self.error_type[:60] + ', ' if self.error_type else ''}{tokens} tokens, {seconds} s"


def turns_of(trace: Trace) -> list[Turn]:
    """The first `MOST_TURNS` turns of an episode."""
    answers = {event.turn: event for event in trace.events if isinstance(event, ModelResponseEvent)}
    return [
        _turn(step, answers.get(step.turn), names, missing)
        for step, (names, missing) in zip(trace.steps[:MOST_TURNS], _names(trace), strict=False)
    ]


def opening(trace: Trace) -> list[tuple[str, str]]:
    """Role and text of what stands before the first answer."""
    found = []
    for message in trace.messages:
        if message["role"] == "assistant":
            break
        found.append((str(message["role"]), str(message["content"])))
    return found


def _turn(
    step: StepEvent, answer: ModelResponseEvent | None, names: HeldNames | None, missing: MissingName | None
) -> Turn:
    before, code, after = _parts(step)
    result = step.interpreter_result
    return Turn(
        number=step.turn,
        before=before,
        code=code,
        after=after,
        calls=result.results,
        seen=_seen(step),
        shown=step.observation is not None,
        error_type=result.error_type,
        names=names,
        missing=missing,
        tokens=step.token_usage.completion_tokens,
        prompt_tokens=step.token_usage.prompt_tokens,
        model_seconds=answer.seconds if answer else None,
        action_seconds=result.seconds,
        truncated=answer is not None and answer.truncated,
    )


def _parts(step: StepEvent) -> tuple[str, str | None, str]:
    """What stands before the code, the code, what stands after it; without the marks of a code block."""
    text = step.assistant_text
    if step.code is None:
        return text, None, ""
    before, found, after = text.partition(step.code)
    if not found or not step.code:  # the parser may have changed its white space: both are shown
        return text, step.code, ""
    return _FENCE.sub("", before), step.code, _END_OF_FENCE.sub("", after)


def _seen(step: StepEvent) -> tuple[tuple[str, str], ...]:
    """The parts of a JSON observation by name; any other as it is. Names of variables stand elsewhere."""
    result = step.interpreter_result
    if step.observation is None:
        parts = (("output", result.output), ("error", result.error))
        return tuple((name, text) for name, text in parts if text)
    try:
        told = json.loads(step.observation)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not told:
        return (("observation", step.observation),)
    return tuple((str(name), as_text(value)) for name, value in told.items() if name != "globals" and value != "")


def as_text(value: object) -> str:
    """A JSON value in a line; text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _names(trace: Trace) -> Iterator[tuple[HeldNames | None, MissingName | None]]:
    """Of each step: the names that are held after it, and the one that it missed."""
    loses = trace.agent == "codeact" and StateRule.of(trace.runtime) != StateRule.of(trace.runtime.PERSISTENT)
    held: set[str] = set()
    defined: dict[str, int] = {}
    for step in trace.steps:
        result = step.interpreter_result
        missing = _missing(step, defined)
        bound: frozenset[str] = frozenset()
        if loses and step.code and result.error_type is None:  # of a block that failed nobody knows how far it came
            block = read_block(step.code)
            bound = block.bound if block else bound
        if result.globals is None or result.error_type in (FORMAT_ERROR, *NO_PYTHON):
            names = None
        else:
            now = set(result.globals)
            names = HeldNames(
                new=tuple(sorted(now - held)), kept=tuple(sorted(now & held)), gone=tuple(sorted((held | bound) - now))
            )
            defined |= dict.fromkeys((now - held) | bound, step.turn)
            held = now
        yield names, missing


def _missing(step: StepEvent, defined: dict[str, int]) -> MissingName | None:
    if step.interpreter_result.error_type not in MISSING_VARIABLE:
        return None
    found = _NAME.findall((step.interpreter_result.error or "")[-2_000:])
    return MissingName(found[-1], defined.get(found[-1])) if found else None
