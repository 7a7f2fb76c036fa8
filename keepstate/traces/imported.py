"""The one way an imported conversation becomes a trace, whatever it was imported from.

A trace so made names its source and what could not be carried over in `versions`. Nothing is invented: limits,
sampling, seeds and times that the source does not tell stay empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keepstate.agents.record import (
    ErrorEvent,
    Event,
    Failure,
    FinishEvent,
    StartEvent,
    StepEvent,
    Summary,
    SystemPromptEvent,
    TaskRef,
    TokenUsage,
    Trace,
)
from keepstate.files import content_hash
from keepstate.models.base import Message
from keepstate.tasks.base import Verdict
from keepstate.traces.writer import TRACE_SUFFIX, verdict_path
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

SOURCE = "imported from"
NOT_CARRIED = "not carried over"
ASSUMED = "runtime assumed"
"""Key of `versions`: the source does not tell in which CodeAct runtime it was recorded."""
UNKNOWN = "unknown"
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


def file_word(told: str) -> str:
    """`told`, if it can be part of a file name as it is, else a word made from its hash."""
    return told if _SAFE.fullmatch(told) else f"x{content_hash(told)[:12]}"


@dataclass(slots=True)
class Imported:
    """What a source tells about one episode."""

    source: str
    task: TaskRef
    runtime: RuntimeName
    messages: list[Message]
    steps: list[StepEvent] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    finish: FinishReason | None = FinishReason.FINISHED
    """None where the recording breaks off."""
    model: str = UNKNOWN
    started_at: str = ""
    finished_at: str = ""
    usage: TokenUsage = field(default_factory=TokenUsage)
    verdict: Verdict | None = None
    runtime_assumed: bool = False
    not_carried: list[str] = field(default_factory=list)

    def trace(self) -> Trace:
        """The trace."""
        failure = None
        if self.finish is None:
            failure = Failure(origin=Origin.RUNTIME, message="the recording breaks off before the episode's end")
        elif self.finish is FinishReason.FAILED:
            failure = Failure(origin=Origin.RUNTIME, message=(self.errors or ["the source does not tell why"])[-1])
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
        if self.not_carried:
            versions[NOT_CARRIED] = "; ".join(self.not_carried)
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
            events=tuple(self._events(prompts, reason)),
        )

    def _events(self, prompts: Sequence[str], reason: FinishReason) -> list[Event]:
        events: list[Event] = [StartEvent(task=self.task), SystemPromptEvent(prompts=tuple(prompts))]
        events += self.steps
        events += [ErrorEvent(origin=Origin.RUNTIME, message=message) for message in self.errors]
        return [*events, FinishEvent(reason=reason)]


def with_verdict(path: Path, trace: Trace) -> Trace:
    """An imported trace with the verdict in the file beside it, as the research code writes it; ours holds its own.

    Metrics that are no numbers are not carried over.
    """
    if trace.verdict is not None or trace.failure is not None or SOURCE not in trace.versions:
        return trace
    try:
        result = json.loads(verdict_path(path.parent, path.name.removesuffix(TRACE_SUFFIX)).read_bytes())["result"]
        metrics = {key: value for key, value in result["metrics"].items() if isinstance(value, int | float)}
        verdict = Verdict(is_solved=result["is_solved"], score=result["score"], metrics=metrics)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return trace
    return trace.model_copy(update={"verdict": verdict})
