"""Traces of the research code: event lists without the conversation itself, which is put together again here.

`keepstate.traces.read_trace` and `keepstate dataset build` read such files directly; `keepstate traces import` also
writes them in keepstate's schema. Several system prompts, legacy `tool_calls`, events out of order and files that break
off are all met. What cannot be carried over is named in the trace (`keepstate.traces.imported`). JSONL of messages or
ShareGPT is read by `keepstate.traces.conversations`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from keepstate.agents.observations import render_observation
from keepstate.agents.record import InterpreterResult, StepEvent, TaskRef, TokenUsage, ToolCallRecord, Trace
from keepstate.errors import UserError
from keepstate.files import content_hash
from keepstate.models.base import Message
from keepstate.runtimes.base import ActionResult, ToolCall
from keepstate.tasks import environment_for
from keepstate.tasks.base import RESEARCH_TASK_SCHEMA, Task
from keepstate.traces.imported import UNKNOWN, Imported, file_word
from keepstate.traces.reader import TraceError
from keepstate.vocabulary import FinishReason, RuntimeName

SOURCE = "research events"
TYPE_KEYS = ("type", "event", "event_type", "kind")
"""Where an event may name its class."""
TELLING_KEYS = {
    "assistant_text": "StepEvent",
    "prompts": "SystemPromptEvent",
    "task": "StartEvent",
    "reason": "FinishEvent",
}
"""Keys that tell the class of an event that does not name it."""
REASONS = (
    (FinishReason.CONTEXT_LIMIT, ("context",)),
    (FinishReason.TIME_LIMIT, ("time", "deadline")),
    (FinishReason.TURN_LIMIT, ("turn", "step", "max", "limit", "budget")),
    (FinishReason.FAILED, ("error", "fail", "exception", "crash")),
)
"""Our reason for a reason that contains one of these words; anything else means that the agent finished."""
RUNTIMES = {
    RuntimeName.REACT: ("react",),
    RuntimeName.FORGET: ("forget", "reset", "stateless"),
    RuntimeName.PERSISTENT: ("persist", "stateful"),
}
ERROR_CLASS = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))\b", re.MULTILINE)

Json = Mapping[str, Any]


def research_trace(value: Json) -> Trace:
    """The trace in a file of the research code.

    Raises:
        TraceError: It holds no step, or does not tell what the agent was asked.
    """
    summary = _object(value.get("summary"))
    events = [_object(event) for event in value["events"]]
    by_kind: dict[str, list[Json]] = {}
    for event in events:
        by_kind.setdefault(_kind(event), []).append(event)
    steps = sorted(by_kind.get("StepEvent", []), key=lambda step: _whole(step.get("turn")))
    if not steps:
        raise TraceError("no StepEvent: the agent never answered")
    raw_task = _object(_first(by_kind, "StartEvent", "task") or summary.get("task"))
    runtime, assumed = _runtime(value, summary, steps)
    imported = Imported(SOURCE, _task_ref(raw_task), runtime, [], runtime_assumed=assumed)
    if assumed:
        imported.not_carried.append("which CodeAct runtime it was, which the file does not tell")
    _open(imported, _first(by_kind, "SystemPromptEvent", "prompts") or summary.get("system_prompts"), raw_task)
    for place, step in enumerate(steps):
        _add_step(imported, step, last=place == len(steps) - 1)
    imported.errors = [
        str(event.get("message") or event.get("error") or event) for event in by_kind.get("ErrorEvent", [])
    ]
    reason = _first(by_kind, "FinishEvent", "reason") or summary.get("finish_reason")
    imported.finish = None if reason is None else _reason(str(reason))
    imported.model = str(value.get("model") or summary.get("model") or UNKNOWN)
    imported.started_at = str(value.get("started") or value.get("started_at") or "")
    imported.finished_at = str(value.get("finished") or value.get("finished_at") or "")
    imported.usage = _usage(summary.get("token_usage"))
    imported.not_carried.append("the messages as sent: they are put together from events, observations by keepstate")
    return imported.trace()


def _open(imported: Imported, prompts: Any, task: Json) -> None:
    """The system message and the goal.

    Raises:
        TraceError: There is no goal.
    """
    texts = list(map(str, prompts)) if isinstance(prompts, list) else [prompts] if isinstance(prompts, str) else []
    goal = _goal(task)
    if goal is None and len(texts) > 1:
        goal = texts.pop()
        imported.not_carried.append("the goal's place: the last system prompt stands as the user's message")
    if goal is None:
        raise TraceError("it does not tell the goal: neither the task's text nor a second system prompt")
    if len(texts) > 1:
        imported.not_carried.append(f"that there were {len(texts)} system messages: they are joined")
    if texts:
        imported.messages.append(Message(role="system", content="\n\n".join(texts)))
    imported.messages.append(Message(role="user", content=goal))


def _goal(task: Json) -> str | None:
    """What the agent was asked: the task's own words, or those of its family."""
    words = task.get("nl")
    if isinstance(words, Mapping):
        words = next((words[key] for key in ("goal", "prompt", "text", "description") if words.get(key)), None)
    if isinstance(words, str) and words:
        return words
    try:
        known = {key: task[key] for key in Task.model_fields if key in task} | {"schema": RESEARCH_TASK_SCHEMA}
        known["difficulty"] = _difficulty(task)
        return environment_for(Task.model_validate(known)).goal
    except (ValidationError, UserError, KeyError, TypeError, ValueError):
        return None


def _add_step(imported: Imported, step: Json, *, last: bool) -> None:
    text = step.get("assistant_text")
    if not isinstance(text, str):
        raise TraceError(f"turn {step.get('turn')}: its answer is no text")
    raw = step.get("interpreter_result")
    result = _result({"output": raw} if isinstance(raw, str) else _object(raw), step)
    imported.messages.append(Message(role="assistant", content=text))
    observation = None
    if not last:
        observation = render_observation(imported.runtime, result)
        imported.messages.append(Message(role="user", content=observation))
    code = step.get("code")
    imported.steps.append(
        StepEvent(
            turn=len(imported.steps),
            assistant_text=text,
            code=code if isinstance(code, str) else None,
            interpreter_result=InterpreterResult(
                output=result.output,
                error=result.error,
                error_type=result.error_type,
                globals=result.globals,
                results=tuple(
                    ToolCallRecord(tool=call.tool, arguments=call.arguments, output=call.output, error=call.error)
                    for call in result.tool_calls
                ),
            ),
            observation=observation,
            token_usage=_usage(step.get("token_usage")),
        )
    )


def _result(raw: Json, step: Json) -> ActionResult:
    calls = raw.get("results") or raw.get("tool_calls") or step.get("tool_calls")
    error = raw.get("error") or raw.get("exception")
    names = raw.get("globals")
    found = ERROR_CLASS.findall(str(error)) if error else []
    return ActionResult(
        output=str(raw.get("output") or raw.get("stdout") or ""),
        error=str(error) if error else None,
        error_type=found[-1] if found else ("Error" if error else None),
        globals=tuple(sorted(map(str, names))) if isinstance(names, list | tuple | dict) else None,
        tool_calls=tuple(_call(call) for call in calls if isinstance(call, Mapping)) if isinstance(calls, list) else (),
    )


def _call(call: Json) -> ToolCall:
    arguments = call.get("args") or call.get("arguments") or {}
    output = call.get("output", call.get("result"))
    arguments = dict(arguments) if isinstance(arguments, Mapping) else {"args": arguments}
    error = call.get("error")
    return ToolCall(str(call.get("tool") or call.get("name")), arguments, output, str(error) if error else None)


def _runtime(value: Json, summary: Json, steps: Sequence[Json]) -> tuple[RuntimeName, bool]:
    """The runtime, and whether it is only assumed."""
    told = " ".join(str(source.get(key, "")) for source in (value, summary) for key in ("runtime", "agent", "mode"))
    for runtime, words in RUNTIMES.items():
        if any(word in told.lower() for word in words):
            return runtime, False
    results = (_object(step.get("interpreter_result")) for step in steps)
    if any("results" in result or "tool_calls" in result for result in results) or "tool_calls" in steps[0]:
        return RuntimeName.REACT, False
    return RuntimeName.PERSISTENT, True


def _task_ref(task: Json) -> TaskRef:
    told = {key: task.get(key) for key in ("family", "public", "private")}
    return TaskRef(
        task_id=file_word(str(task.get("task_id") or task.get("id") or content_hash(told)[:12])),
        family=file_word(str(task.get("family") or UNKNOWN)),
        difficulty=_difficulty(task),
        seed=_whole(task.get("seed")),
        content_hash=str(task.get("content_hash") or content_hash(told if task.get("public") else dict(task))),
    )


def _difficulty(task: Json) -> str:
    told = task.get("difficulty")
    return str(told.get("name", UNKNOWN)) if isinstance(told, Mapping) else str(told or UNKNOWN)


def _reason(told: str) -> FinishReason:
    for reason, words in REASONS:
        if any(word in told.lower() for word in words):
            return reason
    return FinishReason.FINISHED


def _usage(raw: Any) -> TokenUsage:
    told = _object(raw)
    prompt, completion = (_whole(told.get(key)) for key in ("prompt_tokens", "completion_tokens"))
    total = _whole(told.get("total_tokens")) or prompt + completion
    return TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _kind(event: Json) -> str:
    for key in TYPE_KEYS:
        if isinstance(event.get(key), str):
            return str(event[key])
    return next((kind for key, kind in TELLING_KEYS.items() if key in event), UNKNOWN)


def _first(by_kind: Mapping[str, Sequence[Json]], kind: str, key: str) -> Any:
    return next((event[key] for event in by_kind.get(kind, ()) if event.get(key) is not None), None)


def _object(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
