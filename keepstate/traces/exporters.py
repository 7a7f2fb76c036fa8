"""Traces for other programs: ShareGPT, OpenAI `messages`, ATIF (the trajectory format of harbor).

Run `keepstate traces import ... --to atif`. Each format carries less than a trace; `NOT_CARRIED` says what it loses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from keepstate.models.base import TokenUsage
from keepstate.traces.importing import untrained_answers
from keepstate.traces.record import StepEvent, Trace

ATIF_VERSION = "ATIF-v1.8"
"""harborframework.com/docs/trajectory-format; what is written validates against the models of harbor 0.26.0."""

NOT_CARRIED = {
    "sharegpt": "everything but the texts: task, verdict, executed code, tool calls, tokens, times, limits, sampling",
    "messages": "everything but the texts: task, verdict, executed code, tool calls, tokens, times, limits, sampling",
    "atif": "hashes of prompts, errors of ours and their tracebacks, names of globals, answers not to train",
}
SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


def to_sharegpt(trace: Trace) -> dict[str, Any]:
    """A ShareGPT row: `conversations` of `from` and `value`."""
    turns = [{"from": SHAREGPT_ROLES[message["role"]], "value": message["content"]} for message in trace.messages]
    return {"id": trace.task.name, "conversations": _weighed(trace, turns)}


def to_messages(trace: Trace) -> dict[str, Any]:
    """A row of OpenAI `messages`."""
    return {"id": trace.task.name, "messages": _weighed(trace, [dict(message) for message in trace.messages])}


def _weighed(trace: Trace, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`turns`, those of answers that are not to be trained with OpenAI's weight 0."""
    answers = [turn for turn, message in zip(turns, trace.messages, strict=True) if message["role"] == "assistant"]
    for number in untrained_answers(trace):
        answers[number]["weight"] = 0
    return turns


def to_atif(trace: Trace) -> dict[str, Any]:
    """An ATIF trajectory: an observation belongs to the step of the agent that it answers."""
    steps: list[dict[str, Any]] = []
    recorded = iter(trace.steps)
    for place, message in enumerate(trace.messages):
        answered = place and trace.messages[place - 1]["role"] == "assistant"
        if message["role"] == "assistant":
            steps.append(_agent_step(message["content"], next(recorded, None)))
        elif message["role"] == "user" and answered:
            steps[-1]["observation"] = {"results": [{"content": message["content"]}]}
        else:
            steps.append({"source": message["role"], "message": message["content"]})
    numbered = [{"step_id": number, **step} for number, step in enumerate(steps, start=1)]
    return {
        "schema_version": ATIF_VERSION,
        "session_id": f"{trace.task.name}-{trace.runtime}-{trace.seed}",
        "agent": {
            "name": f"keepstate-{trace.agent}",
            "version": trace.versions.get("keepstate", "imported"),
            "model_name": trace.model,
            "extra": {"runtime": trace.runtime, "rung": trace.rung},
        },
        "steps": numbered,
        "final_metrics": _counted(trace.summary.token_usage, "total_") | {"total_steps": len(numbered)},
        "extra": {
            "task": trace.task.model_dump(),
            "finish_reason": trace.finish_reason,
            "verdict": trace.verdict.model_dump() if trace.verdict else None,
            "sampling": trace.sampling,
            "limits": trace.limits.model_dump() if trace.limits else None,
            "started_at": trace.started_at,
            "finished_at": trace.finished_at,
        },
    }


def _agent_step(text: str, step: StepEvent | None) -> dict[str, Any]:
    found: dict[str, Any] = {"source": "agent", "message": text}
    if step is None:
        return found
    if counted := _counted(step.token_usage):
        found["metrics"] = counted
    if step.code is not None:
        found["extra"] = {
            "code": step.code,
            "error_type": step.interpreter_result.error_type,
            "tool_calls": [asdict(call) for call in step.interpreter_result.results],
        }
    return found


def _counted(usage: TokenUsage, prefix: str = "") -> dict[str, int]:
    """The counts that are known, where anybody counted; 0 in all is how older traces say that nobody did."""
    if usage.total_tokens == 0:
        return {}
    kinds = ("prompt_tokens", "completion_tokens", "cached_tokens")
    return {f"{prefix}{kind}": count for kind in kinds if (count := getattr(usage, kind)) is not None}


EXPORTERS: dict[str, Callable[[Trace], dict[str, Any]]] = {
    "sharegpt": to_sharegpt,
    "messages": to_messages,
    "atif": to_atif,
}
