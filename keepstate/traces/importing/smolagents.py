"""The memory of smolagents' agents: `agent.memory.get_full_steps()`, `get_succinct_steps()`, or `RunResult.dict()`.

A `CodeAgent` acts by code in one interpreter that stays, so it is persistent; a `ToolCallingAgent` is react. The text
form of an action is ours: the thought, then a Python block, or `Action:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from keepstate.files import parse_json
from keepstate.traces.importing import UNKNOWN, Told, mapping, time_of, usage_of
from keepstate.traces.parsing import parse_answer
from keepstate.traces.record import TraceError
from keepstate.vocabulary import FinishReason, RuntimeName

INTERPRETER = "python_interpreter"
"""The tool that a CodeAgent's code is said to call."""
OPENING = re.compile(r"(?:\s*(?:<code>|```(?:python|py)?|^Code:))+\s*", re.IGNORECASE | re.MULTILINE)
"""What a CodeAgent's model wrote between its thought and its code."""
CODE = re.compile(r"<code>|^[ \t]*(?:```|Code:)", re.IGNORECASE | re.MULTILINE)
"""Where its code begins, where that is put together from several blocks."""
LONGEST_FENCE = 8
FULL_STATE = "max_steps_error"


def is_memory(value: Any) -> bool:
    """Whether a value is a list of steps, or a result of a run that holds one."""
    steps = _steps(value)
    return any("step_number" in step and ("model_output" in step or "code_action" in step) for step in steps)


def _steps(value: Any) -> list[Mapping[str, Any]]:
    steps = value.get("steps") if isinstance(value, Mapping) else value
    return list(map(mapping, steps)) if isinstance(steps, list) else []


def told_of(value: Any) -> Told:
    """What a memory tells: one episode.

    Raises:
        TraceError: It holds images, several tasks, or results that do not tell which call they answer.
    """
    steps = _steps(value)
    acting = [step for step in steps if "step_number" in step]
    coding = any(step.get("code_action") for step in acting)
    told = Told("smolagents memories", [], runtime=RuntimeName.PERSISTENT if coding else RuntimeName.REACT)
    told.lost |= {
        "the text form of actions and observations: they are written as keepstate's agents write them",
        "verdict, limits and sampling, which a memory does not tell",
    }
    _open(told, value, steps, acting)
    for place, step in enumerate(acting):
        last = place == len(acting) - 1
        told.messages += _coded(step, told, last=last) if coding else _called(step, told, last=last)
        used = mapping(step.get("token_usage"))
        told.usages.append(usage_of(used.get("input_tokens"), used.get("output_tokens")))
    if any("plan" in step and "step_number" not in step for step in steps):
        raise TraceError("it holds steps of planning, which are no actions: run the agent without planning_interval")
    if isinstance(value, Mapping):
        used = mapping(value.get("token_usage"))
        told.usage = usage_of(used.get("input_tokens"), used.get("output_tokens"))
        told.finish = FinishReason.TURN_LIMIT if value.get("state") == FULL_STATE else FinishReason.FINISHED
    told.started_at = time_of(mapping(acting[0].get("timing")).get("start_time"))
    told.finished_at = time_of(mapping(acting[-1].get("timing")).get("end_time"))
    told.model = next((name for step in acting if (name := _model(step))), UNKNOWN)
    return told


def _open(told: Told, value: Any, steps: list[Mapping[str, Any]], acting: list[Mapping[str, Any]]) -> None:
    """The system prompt, which only the full steps hold, and the task."""
    tasks = [step for step in steps if "task" in step]
    if len(tasks) != 1 or not isinstance(tasks[0]["task"], str):
        raise TraceError(f"it holds {len(tasks)} tasks, where an episode has one")
    if tasks[0].get("task_images") or any(step.get("observations_images") for step in acting):
        raise TraceError("it holds images, which text cannot carry: leave it out")
    prompt = value.get("system_prompt") if isinstance(value, Mapping) else None
    sent = acting[0].get("model_input_messages")
    system = next((message for message in map(mapping, sent or ()) if message.get("role") == "system"), None)
    if system or isinstance(prompt, str):
        told.messages.append({"role": "system", "content": system.get("content") if system else prompt})
    else:
        told.lost.add("the system prompt, which only the full steps hold")
    told.messages.append({"role": "user", "content": tasks[0]["task"]})


def _coded(step: Mapping[str, Any], told: Told, *, last: bool) -> Iterator[dict[str, Any]]:
    """An answer with its code, and what the agent saw of it."""
    output, code = _text(step.get("model_output")), step.get("code_action")
    if isinstance(code, str):
        output = _answer(output, code.strip())
    yield {"role": "assistant", "content": output}
    if not last:
        yield {"role": "user", "content": _seen(step), "is_error": bool(step.get("error"))}
    elif _seen(step):
        told.lost.add("what was seen of the last action")


def _answer(output: str, code: str) -> str:
    """The thought before the code, and the code as a block, fenced by more marks where it holds such lines itself."""
    thought = _thought(output, code)
    for count in range(3, LONGEST_FENCE):
        fence = "`" * count
        answer = f"{thought}\n{fence}python\n{code}\n{fence}".lstrip()
        if parse_answer(RuntimeName.PERSISTENT, answer).action == code:
            return answer
    raise TraceError(
        "a thought or code of it holds fences, so that no answer can be written in which the code is one block"
    )


def _thought(output: str, code: str) -> str:
    """What stands before the code in a model's output; of an output with a schema (JSON), its `thought`."""
    opened = (found for found in OPENING.finditer(output) if output.startswith(code, found.end()))
    if start := next(opened, None) or CODE.search(output):
        return output[: start.start()].strip()
    try:
        told = mapping(parse_json(output)).get("thought")
    except (ValueError, RecursionError):
        told = output.rpartition(code)[0]
    return told.strip() if isinstance(told, str) else ""


def _called(step: Mapping[str, Any], told: Told, *, last: bool) -> Iterator[dict[str, Any]]:
    """An answer with its calls, and their result."""
    calls = [mapping(call) for call in step.get("tool_calls") or ()]
    if any(mapping(call.get("function")).get("name") == INTERPRETER for call in calls):
        raise TraceError("it holds code as a call of the interpreter, and no code_action: it is of another version")
    output = _text(step.get("model_output"))
    yield {
        "role": "assistant",
        "content": output,
        "tool_calls": [{"id": call.get("id"), "function": call.get("function")} for call in calls],
    }
    if last:
        if _seen(step):
            told.lost.add("what was seen of the last action")
    elif not calls:
        yield {"role": "user", "content": _seen(step), "is_error": bool(step.get("error"))}
    elif len(calls) == 1:
        failed = bool(step.get("error"))
        yield {"role": "tool", "tool_call_id": calls[0].get("id"), "content": _seen(step), "is_error": failed}
    else:
        raise TraceError(f"step {step.get('step_number')}: the results of its {len(calls)} calls are one text")


def _seen(step: Mapping[str, Any]) -> str:
    error = mapping(step.get("error")).get("message")
    return "\n".join(filter(None, (_text(step.get("observations")), f"Error: {error}" if error else "")))


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(mapping(part).get("text") or "") for part in content)
    return str(content) if content else ""


def _model(step: Mapping[str, Any]) -> str | None:
    raw = mapping(mapping(step.get("model_output_message")).get("raw"))
    return str(raw["model"]) if raw.get("model") else None
