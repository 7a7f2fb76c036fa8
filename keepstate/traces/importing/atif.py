"""ATIF, the trajectory format of harbor (harborframework.com/docs/trajectory-format), versions 1.0 to 1.8.

What keepstate exports comes back with its texts, task, verdict and tokens. A step that no model made, or that was
copied from another trajectory, is an answer that is not to be trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from keepstate.models.base import TokenUsage
from keepstate.tasks.base import Verdict
from keepstate.traces.importing import UNKNOWN, Told, mapping, usage_of
from keepstate.traces.record import TaskRef, TraceError
from keepstate.vocabulary import FinishReason, RuntimeName

VERSION = re.compile(r"ATIF-v1\.[0-8]")
ROLES = {"system": "system", "user": "user", "agent": "assistant"}
READ = {"schema_version", "session_id", "trajectory_id", "agent", "steps", "final_metrics", "extra"}
READ_OF_STEP = {"step_id", "source", "message", "tool_calls", "observation", "metrics", "timestamp", "extra"}
SILENT_OF_STEP = {"model_name", "llm_call_count", "is_copied_context"}
"""Told otherwise."""


def is_trajectory(value: Any) -> bool:
    """Whether a value calls itself one, of whatever version."""
    version = value.get("schema_version") if isinstance(value, Mapping) else None
    return isinstance(version, str) and version.startswith("ATIF")


def told_of(value: Mapping[str, Any]) -> Told:
    """What a trajectory tells.

    Raises:
        TraceError: It is of a version that is not read, has no steps, or holds what is not to be trained.
    """
    version = value["schema_version"]
    if not VERSION.fullmatch(version):
        raise TraceError(f"this is an ATIF trajectory of version {version}, which is not read yet: 1.0 to 1.8 are")
    steps, agent = value.get("steps"), mapping(value.get("agent"))
    if not isinstance(steps, list) or not steps or not all(isinstance(step, Mapping) for step in steps):
        raise TraceError("this is an ATIF trajectory without steps")
    numbers = [step["step_id"] for step in steps if isinstance(step.get("step_id"), int)]
    for before, number in pairwise(numbers):
        if number <= before:
            raise TraceError(f"its steps are out of order: step {number} comes after step {before}")
    told = Told("ATIF trajectories", [], model=str(agent.get("model_name") or UNKNOWN))
    told.lost |= {f"key {key}" for key in map(str, value) if key not in READ and value[key]}
    told.lost |= {f"key {key} of the agent" for key in ("tool_definitions",) if agent.get(key)}
    for step in steps:
        _add(told, step)
    times = [step["timestamp"] for step in steps if isinstance(step.get("timestamp"), str)]
    told.started_at, told.finished_at = (times[0], times[-1]) if times else ("", "")
    told.usage = _usage(mapping(value.get("final_metrics")), "total_")
    _ours(told, agent, mapping(value.get("extra")))
    return told


def _add(told: Told, step: Mapping[str, Any]) -> None:
    """The messages of one step: what was said, and what was seen of it."""
    number, source = step.get("step_id"), step.get("source")
    if source not in ROLES:
        raise TraceError(f"step {number}: source {source!r} is none of {', '.join(ROLES)}")
    message: dict[str, Any] = {"role": ROLES[source], "content": step.get("message")}
    told.messages.append(message)
    told.lost |= {
        f"key {key} of a step"
        for key in map(str, step)
        if key not in READ_OF_STEP | SILENT_OF_STEP and step[key] not in (None, "", [], {})
    }
    if source == "agent":
        if step.get("is_copied_context") or step.get("llm_call_count") == 0:
            message["weight"] = 0
        told.usages.append(_usage(mapping(step.get("metrics"))))
    calls = [_call(call, number) for call in step.get("tool_calls") or ()]
    if calls:
        message["tool_calls"] = calls
    results = mapping(step.get("observation")).get("results")
    if not isinstance(results, list):
        return
    for result in map(mapping, results):
        if result.get("subagent_trajectory_ref"):
            told.lost.add("trajectories of subagents")
    told.messages += _seen(calls, [mapping(result) for result in results], number)


def _call(call: Any, number: Any) -> dict[str, Any]:
    told = mapping(call)
    if not isinstance(told.get("function_name"), str):
        raise TraceError(f"step {number} holds a tool call without a function_name")
    return {
        "id": told.get("tool_call_id"),
        "function": {"name": told["function_name"], "arguments": told.get("arguments") or {}},
    }


def _seen(calls: list[dict[str, Any]], results: list[Mapping[str, Any]], number: Any) -> Iterator[dict[str, Any]]:
    """Results as those of the calls that they name, in order where they name none; without calls the user says them."""
    named = any(result.get("source_call_id") is not None for result in results)
    if not calls:
        texts = [text for result in results if (text := _text(result.get("content"), number))]
        if texts:
            yield {"role": "user", "content": "\n".join(texts)}
        return
    if not named and len(results) != len(calls):
        if len(calls) > 1:
            raise TraceError(
                f"step {number}: {len(results)} results do not tell which of {len(calls)} calls they answer"
            )
        yield {
            "role": "tool",
            "tool_call_id": calls[0]["id"],
            "content": "\n".join(_text(result.get("content"), number) for result in results),
        }
        return
    for place, result in enumerate(results):
        told = result.get("source_call_id") if named else calls[place]["id"]
        if told is None:
            raise TraceError(f"step {number}: a result names no call, and others do")
        yield {"role": "tool", "tool_call_id": told, "content": result.get("content") or ""}


def _text(content: Any, number: Any) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    if not all(isinstance(mapping(part).get("text"), str) for part in parts):
        raise TraceError(f"step {number}: its observation holds more than text")
    return "".join(part["text"] for part in parts)


def _ours(told: Told, agent: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """What keepstate's own export tells beside the conversation."""
    if not str(agent.get("name", "")).startswith("keepstate-"):
        if extra:
            told.lost.add("key extra")
        told.lost.add("limits, and task and verdict where none lie beside it, which a trajectory does not tell")
        return
    try:
        runtime = mapping(agent.get("extra")).get("runtime")
        told.runtime = RuntimeName(runtime) if runtime else None
        told.task = TaskRef.model_validate(extra["task"]) if extra.get("task") else None
        told.verdict = Verdict.model_validate(extra["verdict"]) if extra.get("verdict") else None
        told.finish = FinishReason(extra.get("finish_reason") or FinishReason.FINISHED)
    except (ValidationError, ValueError) as error:
        raise TraceError(f"it says that keepstate wrote it, and its extra cannot be read: {error}") from error
    told.started_at = str(extra.get("started_at") or "") or told.started_at
    told.finished_at = str(extra.get("finished_at") or "") or told.finished_at
    told.lost.add("code and results of each step, sampling and limits, which are in the export's extra")


def _usage(metrics: Mapping[str, Any], prefix: str = "") -> TokenUsage:
    return usage_of(*(metrics.get(f"{prefix}{kind}_tokens") for kind in ("prompt", "completion", "cached")))
