"""Collects what happens in an episode and makes its trace. Takes notes only: decides nothing, writes no file."""

from __future__ import annotations

import math
import platform
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keepstate import __version__
from keepstate.errors import EpisodeFailure
from keepstate.files import ListHash
from keepstate.models.base import Message, Model, Reply, Sampling, TokenUsage
from keepstate.tasks.base import Task, Verdict
from keepstate.tasks.families import family_of
from keepstate.traces.record import (
    ActionResult,
    ErrorEvent,
    Event,
    Failure,
    FinishEvent,
    Limits,
    ModelCallEvent,
    ModelResponseEvent,
    StartEvent,
    StepEvent,
    Summary,
    SystemPromptEvent,
    TaskRef,
    ToolCall,
    Trace,
)
from keepstate.vocabulary import FinishReason, Rung, RuntimeName

MAX_DEPTH = 20
MAX_ARGUMENT_CHARS = 10_000
MAX_STEP_VALUES, MAX_STEP_CHARS = 20_000, 500_000
"""Of all arguments and outputs of one step together: more than honest calls need, and written in milliseconds."""
MAX_INT_BITS = 4_096
MAX_TRACEBACK_CHARS = 8_000


class Recorder:
    """The notes of one episode. `messages` is the conversation itself: the loop appends to it only through here."""

    def __init__(self, task: Task, runtime: RuntimeName, model: Model, limits: Limits, seed: int) -> None:
        self.messages: list[Message] = []
        self.rung: Rung | None = None
        self.task, self.seed = TaskRef.of(task), seed
        self._runtime, self._model, self._limits = runtime, model, limits
        self._versions = {"keepstate": __version__, "python": platform.python_version()}
        if source := family_of(task).source:
            self._versions["family"] = source
        self._started_at, self._started = datetime.now(UTC), time.monotonic()
        self._conversation = ListHash()
        self._events: list[Event] = [StartEvent(task=self.task)]

    def opened(self, system: str, goal: str) -> None:
        """The conversation starts."""
        self.messages += [{"role": "system", "content": system}, {"role": "user", "content": goal}]
        self._events.append(SystemPromptEvent(prompts=(system,)))

    def asked(self, turn: int, seed: int) -> None:
        """The whole conversation so far is about to be sent."""
        digest = self._conversation.of(self.messages)
        self._events.append(ModelCallEvent(turn=turn, seed=seed, num_messages=len(self.messages), prompt_hash=digest))

    def answered(self, turn: int, reply: Reply, seconds: float) -> None:
        """The model answered."""
        self.messages.append({"role": "assistant", "content": reply.text})
        self._events.append(
            ModelResponseEvent(turn=turn, token_usage=reply.usage, truncated=reply.truncated, seconds=round(seconds, 6))
        )

    def stepped(
        self, turn: int, reply: Reply, action: str | None, result: ActionResult, observation: str | None
    ) -> None:
        """The action was executed; `observation` is what the agent will see of it, None if nothing follows."""
        if observation is not None:
            self.messages.append({"role": "user", "content": observation})
        self._events.append(
            StepEvent(
                turn=turn,
                assistant_text=reply.text,
                code=action,
                interpreter_result=_bounded_result(result),
                observation=observation,
                token_usage=reply.usage,
            )
        )

    def graded(self, reason: FinishReason, verdict: Verdict) -> Trace:
        """The trace of an episode that ended and was graded."""
        return self._trace(reason, verdict=verdict, failure=None)

    def failed(self, failure: EpisodeFailure) -> Trace:
        """The trace of an episode that failed by our doing: without a verdict."""
        text = "".join(traceback.format_exception(failure))[-MAX_TRACEBACK_CHARS:]
        self._events.append(ErrorEvent(origin=failure.origin, message=failure.message, traceback=text))
        record = Failure(origin=failure.origin, message=failure.message)
        return self._trace(FinishReason.FAILED, verdict=None, failure=record)

    def _trace(self, reason: FinishReason, verdict: Verdict | None, failure: Failure | None) -> Trace:
        self._events.append(FinishEvent(reason=reason))
        took = timedelta(seconds=time.monotonic() - self._started)  # the clock may have been set meanwhile
        return Trace(
            started_at=_text(self._started_at),
            finished_at=_text(self._started_at + took),
            summary=_summary(self.task, self._events, reason),
            runtime=self._runtime,
            rung=self.rung,
            agent=self._runtime.agent,
            model=self._model.name,
            sampling=sampling_record(self._model),
            seed=self.seed,
            limits=self._limits,
            versions=self._versions,
            failure=failure,
            verdict=verdict,
            messages=tuple(self.messages),
            events=tuple(self._events),
        )


@dataclass
class Allowance:
    """What may still be recorded of one step."""

    values: int = MAX_STEP_VALUES
    chars: int = MAX_STEP_CHARS


def jsonable(value: Any, allowance: Allowance, depth: int = MAX_DEPTH) -> Any:
    """`value` as JSON of bounded size: what model-written code passed to a tool may be anything.

    Text beyond 10,000 characters, nesting beyond 20 levels, integers beyond 4,096 bits, non-finite numbers and what
    exceeds `allowance`, which becomes less by it, are replaced by text that says so.
    """
    if not isinstance(value, dict | list | tuple):
        return _bounded(value, allowance)
    if not depth:
        return "<nested too deep>"
    if isinstance(value, dict):
        kept: dict[str, Any] = {}
        for key, item in value.items():
            if allowance.values <= 0:
                return {**kept, "<left out>": f"{len(value) - len(kept)} more"}
            kept[str(_bounded(key, allowance))] = jsonable(item, allowance, depth - 1)
        return kept
    items: list[Any] = []
    for item in value:
        if allowance.values <= 0:
            return [*items, f"<{len(value) - len(items)} more left out>"]
        items.append(jsonable(item, allowance, depth - 1))
    return items


def _bounded(value: Any, allowance: Allowance) -> Any:
    allowance.values -= 1
    if isinstance(value, str):
        kept = min(MAX_ARGUMENT_CHARS, max(0, allowance.chars))
        allowance.chars -= min(kept, len(value))
        return value if len(value) <= kept else f"{value[:kept]}[... {len(value) - kept} characters left out]"
    if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
        return f"<integer of {value.bit_length()} bits>"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value if value is None or isinstance(value, str | int | float) else f"<{type(value).__name__}>"


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def _bounded_result(result: ActionResult) -> ActionResult:
    """`result` with what its calls were given and gave back as bounded JSON."""
    allowance = Allowance()
    calls = tuple(
        ToolCall(call.tool, jsonable(call.arguments, allowance), jsonable(call.output, allowance), call.error)
        for call in result.results
    )
    return result.model_copy(update={"results": calls, "seconds": round(result.seconds, 6)})


def _summary(task: TaskRef, events: list[Event], reason: FinishReason) -> Summary:
    steps = [event for event in events if isinstance(event, StepEvent)]
    usages = [event.token_usage for event in events if isinstance(event, ModelResponseEvent)]
    kinds = Counter(step.interpreter_result.error_type or "Error" for step in steps if step.interpreter_result.error)
    return Summary(
        task=task,
        system_prompts=tuple(p for event in events if isinstance(event, SystemPromptEvent) for p in event.prompts),
        num_steps=len(steps),
        finish_reason=reason,
        errors=dict(sorted(kinds.items())),
        token_usage=TokenUsage.over(usages),
    )


def sampling_record(model: Model) -> dict[str, Any] | None:
    """How a trace records the sampling of this model."""
    sampling = getattr(model, "sampling", None)
    return sampling.model_dump() if isinstance(sampling, Sampling) else None
