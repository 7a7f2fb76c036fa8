"""Traces of the research code: event lists without the conversation itself, which is put together again here.

`keepstate.traces.read_trace` and `keepstate dataset build` read such files directly; `keepstate traces import` also
writes them in keepstate's schema. The published code (github.com/mrcabbage972/agents-learn-runtime, and its successor
with ReAct and recorded observations) puts what an event tells into its `data` and the goal's text into `task`; flat
events and whole tasks are read too. Several system prompts, legacy `tool_calls`, events out of order and files that
break off are all met. What cannot be carried over is named in the trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from keepstate.closed import explain
from keepstate.errors import UserError
from keepstate.files import content_hash
from keepstate.models.base import Message, TokenUsage, known_sum, token_count
from keepstate.tasks import environment_for
from keepstate.tasks.base import RESEARCH_TASK_SCHEMA, Task, Verdict
from keepstate.traces.importing import UNKNOWN, Imported, canonical, file_word, mapping
from keepstate.traces.observations import render_observation
from keepstate.traces.record import (
    CAP_HIT,
    FORMAT_ERROR,
    ActionResult,
    StepEvent,
    TaskRef,
    ToolCall,
    Trace,
    TraceError,
)
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
    (FinishReason.CONTEXT_LIMIT, re.compile("context")),
    (FinishReason.TIME_LIMIT, re.compile("(?<!run)time|deadline")),
    (FinishReason.FAILED, re.compile("error|fail|exception|crash|abort|cancel|interrupt|kill|incomplete|unfinished")),
    (FinishReason.TURN_LIMIT, re.compile("turn|step|max|limit|budget|exceed|length|truncat")),
)
"""Our reason for a reason in which this is found; anything else means that the agent finished."""
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
KINDS = {
    *("StartEvent", "SystemPromptEvent", "ModelCallEvent", "ModelResponseEvent", "StepEvent", "UserObservationEvent"),
    *("ErrorEvent", "FinishEvent"),
}
"""Events that are understood; others are named as not carried over."""
TOLD = re.compile(r"LLM (?:call failed|ended unexpectedly)", re.IGNORECASE)
"""How the published agents begin what they tell the model, as the user, of an answer that did not come."""
DOUBLED = re.compile(r"(?:^|[-_.])([A-Za-z_]+)-(\1[-_][\w.-]+)$")
"""The end of a file's name where the id repeats the family, as the published code writes it, whatever stands before."""
LEAST_SOLVED = 0.5  # solved with less is told to whoever imports it
CAPPED = re.compile("Tool call limit exceeded")
FORMAT = re.compile("Error: (?:You emitted multiple code blocks|No code block found)")
"""How the published agents begin what they tell of the cap, and of an answer that they cannot read."""
ERROR_CLASS = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))\b", re.MULTILINE)

Json = Mapping[str, Any]


def research_trace(value: Json, stem: str = "", beside: Json | None = None) -> Trace:
    """The trace in a file of the research code.

    Args:
        value: The file's content.
        stem: `<family>-<task id>`, the file's name, which tells the task where its content does not.
        beside: The verdict in the file beside it.

    Raises:
        TraceError: It holds no step, does not tell what the agent was asked, or its verdict is none.
    """
    summary = mapping(value.get("summary"))
    by_kind = _by_kind(value["events"])
    if not by_kind.get("StepEvent"):
        raise TraceError("no StepEvent: the agent never answered")
    task = _first(by_kind, "StartEvent", "task") or summary.get("task")
    task = {"nl": task} if isinstance(task, str) else mapping(task)
    prompts = _texts(_first(by_kind, "SystemPromptEvent", "prompts") or summary.get("system_prompts"))
    runtime, assumed = _runtime(value, summary, prompts, by_kind["StepEvent"])
    imported = Imported(SOURCE, _task_ref(task, stem), runtime, [], runtime_assumed=assumed)
    if assumed:
        imported.not_carried.append("which CodeAct runtime it was, which the file does not tell")
    if others := sorted(by_kind.keys() - KINDS):
        imported.not_carried.append(f"events of kind {', '.join(others)}")
    turns, imported.errors = _turns(value["events"])
    _open(imported, prompts, task, turns[0].before)
    _add_steps(imported, turns)
    reason = _first(by_kind, "FinishEvent", "reason") or summary.get("finish_reason")
    imported.finish = None if reason is None else _reason(str(reason))
    if beside is not None:
        _grade(imported, beside)
    imported.model = str(value.get("model") or summary.get("model") or UNKNOWN)
    imported.started_at = str(value.get("started") or value.get("started_at") or "")
    imported.finished_at = str(value.get("finished") or value.get("finished_at") or "")
    imported.usage = _usage(summary.get("token_usage"))
    return imported.trace()


def _grade(imported: Imported, beside: Json) -> None:
    """Take over the verdict, if we did not fail.

    A run that was cut by its clock, say, has no end in its trace, and is graded all the same: its status tells.
    """
    status = _reason(str(beside.get("status") or ""))
    if status is FinishReason.FAILED:
        imported.finish = status
        imported.errors = [*imported.errors, str(beside.get("error") or "the verdict beside it calls it failed")]
        return
    verdict, lost = verdict_of(beside)
    imported.not_carried += lost
    if imported.finish is None and status is not FinishReason.FINISHED and verdict:
        imported.finish = status
    if imported.finish is not None and imported.finish is not FinishReason.FAILED:
        imported.verdict = verdict
    elif verdict:
        imported.not_carried.append("the verdict beside it, as it breaks off or ends by an error")


def verdict_of(beside: Json) -> tuple[Verdict | None, list[str]]:
    """The verdict in the file beside a trace, None where nothing was graded, and what it does not carry or explain.

    Raises:
        TraceError: Its score is none.
    """
    result = mapping(beside.get("result"))
    if result.get("score") is None:
        return None, []
    metrics = mapping(result.get("metrics"))
    numbers = {name: value for name, value in metrics.items() if type(value) in {int, float}}
    told = {"is_solved": result.get("is_solved"), "score": result["score"], "metrics": numbers}
    try:
        verdict = Verdict.model_validate(told)
    except ValidationError as error:
        raise TraceError(f"the verdict beside it is none: {explain(error, Verdict).message}") from error
    odd = sorted(metrics.keys() - numbers.keys())
    lost = [f"metrics that are no numbers: {', '.join(odd)}"] if odd else []
    if (verdict.is_solved and verdict.score < LEAST_SOLVED) or (not verdict.is_solved and verdict.score == 1):
        words = f"is_solved {str(verdict.is_solved).lower()}, score {verdict.score:g}"
        lost.append(f"why its verdict contradicts itself ({words}), which is kept as told")
    return verdict, lost


def _told(events: Sequence[Any]) -> Iterator[tuple[str, Json]]:
    """The class of each event, and what it tells in `data` or in itself."""
    for event in map(mapping, events):
        data = mapping(event.get("data")) or event
        named = (event[key] for key in TYPE_KEYS if isinstance(event.get(key), str))
        yield next(named, None) or next((kind for key, kind in TELLING_KEYS.items() if key in data), UNKNOWN), data


def _by_kind(events: Sequence[Any]) -> dict[str, list[Json]]:
    by_kind: dict[str, list[Json]] = {}
    for kind, told in _told(events):
        by_kind.setdefault(kind, []).append(told)
    return by_kind


def _open(imported: Imported, prompts: Sequence[str], task: Json, told: Sequence[str]) -> None:
    """The system message and the goal, with what else the agent was told before its first answer.

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
    imported.messages.append(Message(role="user", content="\n\n".join([goal, *told])))


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


@dataclass(slots=True)
class _Turn:
    """An answer, and what the agent was told around it."""

    step: Json
    before: list[str]
    """Told since the answer before, beside what is seen of its action."""
    observed: str | None
    """What it was shown of its action, where that is recorded."""


def _turns(events: Sequence[Any]) -> tuple[list[_Turn], list[str]]:
    """Every answer in order, and the errors that no answer explains: they may tell why we failed.

    An error of the agent's own action stands in its step as well; one that it was told as the user stands nowhere else.
    """
    turns: list[_Turn] = []
    waiting: list[str] = []
    observed: dict[int, str] = {}
    for kind, told in _told(events):
        if kind == "UserObservationEvent" and isinstance(told.get("content"), str):
            observed[_whole(told.get("turn"))] = told["content"]
        elif kind == "ErrorEvent":
            waiting.append(str(told.get("message") or told.get("error") or dict(told)))
        elif kind == "StepEvent":
            turns.append(_Turn(told, waiting, None))
            waiting = []
    turns.sort(key=lambda turn: _whole(turn.step.get("turn")))
    own = {text for turn in turns for text in _own_errors(turn.step)}
    failures = [text for text in waiting if text not in own]
    for turn in turns:
        failures[:0] = [text for text in turn.before if text not in own and not TOLD.match(text)]
        turn.before = [text for text in turn.before if TOLD.match(text)]
        number = _whole(turn.step.get("turn"))
        turn.observed = observed.pop(number, None)
        unanswered = [observed.pop(n) for n in sorted(observed) if n < number]
        turn.before += [text for text in unanswered if text not in turn.before]
    return turns, failures


def _own_errors(step: Json) -> Iterator[str]:
    """The errors of an agent's action: the block's, or those of its tool calls."""
    result = mapping(step.get("interpreter_result"))
    calls = result.get("results") or result.get("tool_calls") or step.get("tool_calls")
    for told in (result, *(map(mapping, calls) if isinstance(calls, list) else ())):
        if error := told.get("error") or told.get("exception"):
            yield str(error)


def _add_steps(imported: Imported, turns: Sequence[_Turn]) -> None:
    """Each answer with what the agent saw of its action: as recorded, or else as keepstate renders it."""
    rendered = joined = 0
    for place, turn in enumerate(turns):
        text = turn.step.get("assistant_text")
        if not isinstance(text, str):
            raise TraceError(f"turn {turn.step.get('turn')}: its answer is no text")
        raw = turn.step.get("interpreter_result")
        result = _result({"output": raw} if isinstance(raw, str) else mapping(raw), turn.step)
        imported.messages.append(Message(role="assistant", content=text))
        observation = None
        if place < len(turns) - 1:
            rendered += turn.observed is None
            shown = _shown(imported.runtime, turn.step, result) if turn.observed is None else turn.observed
            observation = "\n\n".join([shown, *turns[place + 1].before])
            imported.messages.append(Message(role="user", content=observation))
        joined += len(turn.before)
        imported.steps.append(_step(len(imported.steps), text, turn.step, result, observation))
    lost = "the messages as sent: they are put together from events"
    imported.not_carried.append(f"{lost}, observations by keepstate" if rendered else lost)
    if joined:
        imported.not_carried.append(
            "that what the agent was told of answers that did not come were user messages of their own: they are joined"
        )
    prompts = " ".join(message["content"] for message in imported.messages if message["role"] == "system").lower()
    if rendered and PROMPTS[RuntimeName.PERSISTENT] in prompts:
        imported.not_carried.append("the note on the interpreter's globals, sent before each answer and not recorded")


def _shown(runtime: RuntimeName, step: Json, result: ActionResult) -> str:
    """What the agent saw, where it is not recorded. Of an answer without an action it was told the error alone."""
    alone = step.get("code") is None and result.error and runtime is not RuntimeName.REACT
    return result.error if alone and result.error else render_observation(runtime, result)


def _step(turn: int, said: str, step: Json, result: ActionResult, observation: str | None) -> StepEvent:
    code = step.get("code")
    return StepEvent(
        turn=turn,
        assistant_text=said,
        code=code if isinstance(code, str) else None,
        interpreter_result=result,
        observation=observation,
        token_usage=_usage(step.get("token_usage")),
    )


def _result(raw: Json, step: Json) -> ActionResult:
    calls = raw.get("results") or raw.get("tool_calls") or step.get("tool_calls")
    error = raw.get("error") or raw.get("exception")
    names = raw.get("globals")
    return ActionResult(
        output=str(raw.get("output") or raw.get("stdout") or ""),
        error=str(error) if error else None,
        error_type=_error_type(str(error), step) if error else None,
        globals=tuple(sorted(map(str, names))) if isinstance(names, list | tuple | dict) else None,
        results=tuple(_call(call) for call in calls if isinstance(call, Mapping)) if isinstance(calls, list) else (),
    )


def _error_type(error: str, step: Json) -> str:
    """Its class; the cap and an answer without a single action are told in words alone."""
    if CAPPED.match(error):
        return CAP_HIT
    if step.get("code") is None and FORMAT.match(error):
        return FORMAT_ERROR
    found = ERROR_CLASS.findall(error)
    return found[-1].rpartition(".")[2] if found else "Error"


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
    results = (mapping(step.get("interpreter_result")) for step in steps)
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
        doubled = DOUBLED.search(stem)
        known["family"], known["task_id"] = doubled.groups() if doubled else stem.split("-", 1)
    problem = content_hash(canonical(told if task.get("public") else known))
    return TaskRef(
        task_id=file_word(str(known.get("task_id") or known.get("id") or problem[:12])),
        family=file_word(str(known.get("family") or UNKNOWN)),
        difficulty=_difficulty(task),
        seed=_whole(task.get("seed")),
        content_hash=str(task.get("content_hash") or problem),
    )


def _difficulty(task: Json) -> str:
    told = task.get("difficulty")
    return str(told.get("name", UNKNOWN)) if isinstance(told, Mapping) else str(told or UNKNOWN)


def _reason(told: str) -> FinishReason:
    return next((reason for reason, words in REASONS if words.search(told.lower())), FinishReason.FINISHED)


def _usage(raw: Any) -> TokenUsage:
    told = mapping(raw)
    prompt, completion, total = (token_count(told.get(f"{kind}_tokens")) for kind in ("prompt", "completion", "total"))
    if total is None:
        total = known_sum((prompt, completion))
    return TokenUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(map(str, value)) if isinstance(value, list) else []


def _first(by_kind: Mapping[str, Sequence[Json]], kind: str, key: str) -> Any:
    return next((event[key] for event in by_kind.get(kind, ()) if event.get(key) is not None), None)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0
