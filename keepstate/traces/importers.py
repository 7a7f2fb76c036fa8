"""Traces of the research code: event lists without the conversation itself, which is put together again here.

`keepstate.traces.read_trace` and `keepstate dataset build` read such files directly; `keepstate traces import` also
writes them in keepstate's schema. The published code (github.com/mrcabbage972/agents-learn-runtime, and its successor
with ReAct and recorded observations) puts what an event tells into its `data` and the goal's text into `task`; flat
events and whole tasks are read too. Several system prompts, legacy `tool_calls`, events out of order and files that
break off are all met. What cannot be carried over is named in the trace (`keepstate.traces.imported`). JSONL of
messages or ShareGPT is read by `keepstate.traces.conversations`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from keepstate.agents.observations import render_observation
from keepstate.agents.record import (
    InterpreterResult,
    StepEvent,
    TaskRef,
    TokenUsage,
    ToolCallRecord,
    Trace,
    known_sum,
)
from keepstate.errors import UserError
from keepstate.files import content_hash
from keepstate.models.base import Message, token_count
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
PROMPTS = {
    RuntimeName.REACT: "react-style",
    RuntimeName.FORGET: "variables do not persist",
    RuntimeName.PERSISTENT: "globals persist",
}
"""What the system prompts of the published agents say of their runtime, in small letters."""
ERROR_CLASS = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))\b", re.MULTILINE)

Json = Mapping[str, Any]


def research_trace(value: Json, stem: str = "") -> Trace:
    """The trace in a file of the research code.

    Args:
        value: The file's content.
        stem: `<family>-<task id>`, the file's name, which tells the task where its content does not.

    Raises:
        TraceError: It holds no step, or does not tell what the agent was asked.
    """
    summary = _object(value.get("summary"))
    by_kind = _by_kind(value["events"])
    steps = sorted(by_kind.get("StepEvent", []), key=lambda step: _whole(step.get("turn")))
    if not steps:
        raise TraceError("no StepEvent: the agent never answered")
    task = _first(by_kind, "StartEvent", "task") or summary.get("task")
    task = {"nl": task} if isinstance(task, str) else _object(task)
    prompts = _texts(_first(by_kind, "SystemPromptEvent", "prompts") or summary.get("system_prompts"))
    runtime, assumed = _runtime(value, summary, prompts, steps)
    imported = Imported(SOURCE, _task_ref(task, stem), runtime, [], runtime_assumed=assumed)
    if assumed:
        imported.not_carried.append("which CodeAct runtime it was, which the file does not tell")
    _open(imported, prompts, task)
    _add_steps(imported, steps, by_kind.get("UserObservationEvent", []))
    imported.errors = [
        str(event.get("message") or event.get("error") or event) for event in by_kind.get("ErrorEvent", [])
    ]
    reason = _first(by_kind, "FinishEvent", "reason") or summary.get("finish_reason")
    imported.finish = None if reason is None else _reason(str(reason))
    imported.model = str(value.get("model") or summary.get("model") or UNKNOWN)
    imported.started_at = str(value.get("started") or value.get("started_at") or "")
    imported.finished_at = str(value.get("finished") or value.get("finished_at") or "")
    imported.usage = _usage(summary.get("token_usage"))
    return imported.trace()


def _by_kind(events: Sequence[Any]) -> dict[str, list[Json]]:
    """What the events tell, by their class; each tells it in `data` or in itself."""
    by_kind: dict[str, list[Json]] = {}
    for event in map(_object, events):
        told = _object(event.get("data")) or event
        named = (event[key] for key in TYPE_KEYS if isinstance(event.get(key), str))
        kind = next(named, None) or next((kind for key, kind in TELLING_KEYS.items() if key in told), UNKNOWN)
        by_kind.setdefault(kind, []).append(told)
    return by_kind


def _open(imported: Imported, prompts: Sequence[str], task: Json) -> None:
    """The system message and the goal.

    Raises:
        TraceError: There is no goal.
    """
    goal = _goal(task)
    if goal is None:
        raise TraceError("it does not tell the goal: no task with a text in a StartEvent or the summary")
    if len(prompts) > 1:
        imported.not_carried.append(f"that there were {len(prompts)} system messages: they are joined")
    if prompts:
        imported.messages.append(Message(role="system", content="\n\n".join(prompts)))
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


def _add_steps(imported: Imported, steps: Sequence[Json], observed: Sequence[Json]) -> None:
    """Each answer with what the agent saw of its action: as recorded, or else as keepstate renders it."""
    recorded = {_whole(event.get("turn")): event.get("content") for event in observed}
    rendered = 0
    for place, step in enumerate(steps):
        text = step.get("assistant_text")
        if not isinstance(text, str):
            raise TraceError(f"turn {step.get('turn')}: its answer is no text")
        raw = step.get("interpreter_result")
        result = _result({"output": raw} if isinstance(raw, str) else _object(raw), step)
        imported.messages.append(Message(role="assistant", content=text))
        observation = None
        if place < len(steps) - 1:
            told = recorded.get(_whole(step.get("turn")))
            rendered += not isinstance(told, str)
            observation = told if isinstance(told, str) else render_observation(imported.runtime, result)
            imported.messages.append(Message(role="user", content=observation))
        imported.steps.append(_step(len(imported.steps), step, result, observation))
    lost = "the messages as sent: they are put together from events"
    imported.not_carried.append(f"{lost}, observations by keepstate" if rendered else lost)


def _step(turn: int, step: Json, result: ActionResult, observation: str | None) -> StepEvent:
    code = step.get("code")
    return StepEvent(
        turn=turn,
        assistant_text=step["assistant_text"],
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
    arguments = call.get("args") or call.get("arguments") or call.get("input") or {}
    output = call.get("output", call.get("result"))
    arguments = dict(arguments) if isinstance(arguments, Mapping) else {"args": arguments}
    error = call.get("error")
    return ToolCall(str(call.get("tool") or call.get("name")), arguments, output, str(error) if error else None)


def _runtime(value: Json, summary: Json, prompts: Sequence[str], steps: Sequence[Json]) -> tuple[RuntimeName, bool]:
    """The runtime, and whether it is only assumed."""
    told = " ".join(str(source.get(key, "")) for source in (value, summary) for key in ("runtime", "agent", "mode"))
    for runtime, words in RUNTIMES.items():
        if any(word in told.lower() for word in words):
            return runtime, False
    results = (_object(step.get("interpreter_result")) for step in steps)
    if any("results" in result or "tool_calls" in result for result in results) or "tool_calls" in steps[0]:
        return RuntimeName.REACT, False
    prompt = " ".join(prompts).lower()
    for runtime, note in PROMPTS.items():
        if note in prompt:
            return runtime, False
    return RuntimeName.PERSISTENT, True


def _task_ref(task: Json, stem: str) -> TaskRef:
    told = {key: task.get(key) for key in ("family", "public", "private")}
    known = dict(task)
    if not {"task_id", "id"} & known.keys() and "-" in stem:
        known["family"], known["task_id"] = stem.split("-", 1)
    return TaskRef(
        task_id=file_word(str(known.get("task_id") or known.get("id") or content_hash(known)[:12])),
        family=file_word(str(known.get("family") or UNKNOWN)),
        difficulty=_difficulty(task),
        seed=_whole(task.get("seed")),
        content_hash=str(task.get("content_hash") or content_hash(told if task.get("public") else known)),
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
    prompt, completion, total = (token_count(told.get(f"{kind}_tokens")) for kind in ("prompt", "completion", "total"))
    if total is None:
        total = known_sum((prompt, completion))
    return TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(map(str, value)) if isinstance(value, list) else []


def _first(by_kind: Mapping[str, Sequence[Json]], kind: str, key: str) -> Any:
    return next((event[key] for event in by_kind.get(kind, ()) if event.get(key) is not None), None)


def _object(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
