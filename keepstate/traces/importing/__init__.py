"""Episodes that others recorded, as traces: `keepstate traces import`, and every reader where it meets their files.

`sources` takes the JSON values out of a file; `formats` is the registry: it says what a value is and which module reads
it (`research`, `atif`, `inspect_logs`, `smolagents`, `verifiers`, `harbor`, and `conversations` for rows of messages).
All but the first tell an episode as OpenAI messages (`Told`), which `conversations` makes a trace of. `folders`, above
`keepstate.traces.reader`, imports whole folders. `Imported` is the one way in which what they found becomes a trace: it
names its source and what could not be carried over in `versions`. Nothing is invented: limits, sampling, seeds and
times that the source does not tell stay empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from keepstate.files import content_hash
from keepstate.models.base import Message, TokenUsage, known_sum, token_count
from keepstate.tasks.base import MOST, Verdict
from keepstate.traces.record import (
    ErrorEvent,
    Event,
    Failure,
    FinishEvent,
    ModelCallEvent,
    StartEvent,
    StepEvent,
    Summary,
    SystemPromptEvent,
    TaskRef,
    Trace,
)
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

SOURCE = "imported from"
NOT_CARRIED = "not carried over"
PLACE = "imported from place"
"""Key of `versions`: file and line, as given to the import."""
ASSUMED = "runtime assumed"
"""Key of `versions`: the source does not tell in which CodeAct runtime it was recorded."""
UNTRAINED = "answers not to be trained"
"""Key of `versions`: their numbers from 0, with spaces between, where the source says so (OpenAI's weight 0)."""
UNKNOWN = "unknown"
FAMILY = "imported"
SHOWN_KEYS = 8
EMPTY_THINKING = "the empty think block before answers, which the chat template writes"
_EMPTY_THINKING = re.compile(r"\s*(?:<think>\s*</think>\s*)+")
_BRACES = re.compile(r"\{([^{}]*)\}")
_COMMA = re.compile(r"\s*,\s*")
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


def mapping(value: Any) -> Mapping[str, Any]:
    """`value`, if it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def keys_of(row: Mapping[Any, Any]) -> str:
    """The first keys of a JSON object that is not understood, for the message that says so."""
    return ", ".join(sorted(map(str, row))[:SHOWN_KEYS]) or "none"


def untrained_answers(trace: Trace) -> list[int]:
    """Numbers from 0 of the answers that its source wants left out of training."""
    count = sum(message["role"] == "assistant" for message in trace.messages)
    return [number for number in range(count) if str(number) in trace.versions.get(UNTRAINED, "").split()]


def file_word(told: str) -> str:
    """`told`, if it can be part of a file name as it is, else a word made from its hash."""
    return told if _SAFE.fullmatch(told) else f"x{content_hash(told)[:12]}"


def without_empty_thinking(answer: str) -> str:
    """`answer` without the empty think block that the template of a model that thinks writes before it."""
    found = _EMPTY_THINKING.match(answer)
    return answer[found.end() :] if found else answer


def stripped(trace: Trace) -> Trace:
    """The trace without empty think blocks before its answers; itself where there are none.

    What was sent held them, so a trace of our own loses the hashes of that, and counts as imported.
    """

    def spoken(event: Event) -> Event:
        if not isinstance(event, StepEvent):
            return event
        return event.model_copy(update={"assistant_text": without_empty_thinking(event.assistant_text)})

    def said(message: Message) -> Message:
        answers = message["role"] == "assistant"
        return Message(role="assistant", content=without_empty_thinking(message["content"])) if answers else message

    messages = tuple(map(said, trace.messages))
    if messages == trace.messages:
        return trace
    lost = [trace.versions.get(NOT_CARRIED), EMPTY_THINKING]
    lost += [] if SOURCE in trace.versions else ["hashes of what was sent, which held it"]
    versions = {SOURCE: "a trace of keepstate", **trace.versions, NOT_CARRIED: "; ".join(filter(None, lost))}
    events = tuple(spoken(event) for event in trace.events if not isinstance(event, ModelCallEvent))
    return trace.model_copy(update={"messages": messages, "events": events, "versions": versions})


def canonical(value: Any) -> Any:
    """`value` as it is hashed: what a text holds between braces is sorted, as each process prints a set otherwise."""
    if isinstance(value, str):
        return _BRACES.sub(lambda found: f"{{{', '.join(sorted(_COMMA.split(found[1])))}}}", value)
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    return [canonical(item) for item in value] if isinstance(value, list) else value


def graded(score: Any, lost: set[str], metrics: Mapping[str, Any] | None = None) -> Verdict | None:
    """The verdict of a source that tells one number: 1 is solved. What is none in [0, 1] is named as lost.

    Args:
        score: What the source tells.
        lost: What is not carried over, which takes what is no number.
        metrics: What else it counts.
    """
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        if score is not None:
            lost.add("a score that is no number from 0 to 1")
        return None
    told = metrics or {}
    numbers = {name: float(value) for name, value in told.items() if type(value) in {int, float} and abs(value) <= MOST}
    if odd := sorted(told.keys() - numbers.keys()):
        lost.add(f"metrics that are no numbers: {', '.join(odd)}")
    return Verdict(is_solved=score == 1, score=float(score), metrics=numbers)


def time_of(seconds: Any) -> str:
    """Seconds since 1970 as traces write times; "" where the source tells none."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds") if seconds else ""
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


def usage_of(prompt: Any, completion: Any, cached: Any = None) -> TokenUsage:
    """Tokens as a source counts them; some write whole numbers as fractions."""
    counts = [
        token_count(int(told) if isinstance(told, float) and told == int(told) else told)
        for told in (prompt, completion, cached)
    ]
    return TokenUsage(
        prompt_tokens=counts[0],
        completion_tokens=counts[1],
        total_tokens=known_sum(counts[:2]),
        cached_tokens=counts[2],
    )


@dataclass(slots=True)
class Told:
    """What a format tells of one episode, its conversation as OpenAI messages. `conversations` makes it a trace."""

    source: str
    """The format, as traces name it."""
    messages: list[Any]
    task_id: Any = None
    """What tells this task from others; None: its goal does."""
    family: str = FAMILY
    name: str | None = None
    """The task's id as a file's name may hold it, where the format has one."""
    task: TaskRef | None = None
    """The task itself, where it is keepstate's."""
    runtime: RuntimeName | None = None
    """None where the format does not tell."""
    model: str = UNKNOWN
    started_at: str = ""
    finished_at: str = ""
    finish: FinishReason = FinishReason.FINISHED
    errors: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    usages: list[TokenUsage] = field(default_factory=list)
    """Of each answer, in order, where it tells."""
    lost: set[str] = field(default_factory=set)
    """What is not carried over."""


@dataclass(slots=True)
class Imported:
    """What a source tells about one episode."""

    source: str
    task: TaskRef
    runtime: RuntimeName
    messages: list[Message]
    steps: list[StepEvent] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Of ours, not of the agent's actions: they become events only where the episode failed."""
    finish: FinishReason | None = FinishReason.FINISHED
    """None where the recording breaks off."""
    model: str = UNKNOWN
    started_at: str = ""
    finished_at: str = ""
    usage: TokenUsage = field(default_factory=TokenUsage)
    verdict: Verdict | None = None
    runtime_assumed: bool = False
    not_carried: list[str] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)
    """Numbers of answers that are not to be trained."""
    place: str = ""
    """Where it stands: file and line."""

    def trace(self) -> Trace:
        """The trace."""
        failure = None
        if self.finish is None:
            failure = Failure(origin=Origin.RUNTIME, message="the recording breaks off before the episode's end")
        elif self.finish is FinishReason.FAILED:
            failure = Failure(origin=Origin.RUNTIME, message=(self.errors or ["the source does not tell why"])[-1])
        elif self.errors:
            self.not_carried.append("errors that did not end it and stand in no step")
        reason = self.finish or FinishReason.FAILED
        prompts = tuple(message["content"] for message in self.messages if message["role"] == "system")
        counts: dict[str, int] = {}
        for step in self.steps:
            if name := step.interpreter_result.error_type:
                counts[name] = counts.get(name, 0) + 1
        summary = Summary(
            task=self.task,
            system_prompts=prompts,
            num_steps=len(self.steps),
            finish_reason=reason,
            errors=counts,
            token_usage=self.usage,
        )
        versions = {SOURCE: self.source}
        if self.place:
            versions[PLACE] = self.place
        if self.not_carried:
            versions[NOT_CARRIED] = "; ".join(told.replace(";", ",") for told in self.not_carried)
        if self.untrained:
            versions[UNTRAINED] = " ".join(map(str, self.untrained))
        if self.runtime_assumed:
            versions[ASSUMED] = "yes"
        return Trace(
            started_at=self.started_at,
            finished_at=self.finished_at,
            summary=summary,
            runtime=self.runtime,
            rung=None,
            agent=self.runtime.agent,
            model=self.model,
            sampling=None,
            seed=0,
            limits=None,
            versions=versions,
            failure=failure,
            verdict=self.verdict,
            messages=tuple(self.messages),
            events=tuple(self._events(prompts, reason, failed=failure is not None)),
        )

    def _events(self, prompts: Sequence[str], reason: FinishReason, *, failed: bool) -> list[Event]:
        events: list[Event] = [StartEvent(task=self.task), SystemPromptEvent(prompts=tuple(prompts))]
        events += self.steps
        if failed:
            events += [ErrorEvent(origin=Origin.RUNTIME, message=message) for message in self.errors]
        return [*events, FinishEvent(reason=reason)]
