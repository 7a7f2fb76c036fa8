"""Conversations from elsewhere: JSONL of OpenAI `messages` or of ShareGPT `conversations`, one episode a line.

Run `keepstate traces import file.jsonl --runtime persistent --out data/traces`. What a row holds beside its texts
(tool calls, names, images) is not carried over and named in each trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from keepstate.agents.record import InterpreterResult, StepEvent, TaskRef, TokenUsage, Trace
from keepstate.files import content_hash
from keepstate.models.base import Message
from keepstate.traces.imported import UNKNOWN, Imported
from keepstate.traces.reader import BadTrace, TraceError
from keepstate.vocabulary import RuntimeName

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "tool": "user",
    "function": "user",
    "observation": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
FAMILY = "imported"


def iter_conversations(path: Path, runtime: RuntimeName) -> Iterator[tuple[str, Trace | BadTrace]]:
    """Every line of a JSONL file as a trace of `runtime`, with its place `<path>:<line>`; bad lines are named.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                yield place, conversation_trace(json.loads(line), runtime)
            except (TraceError, ValueError, RecursionError) as error:
                yield place, BadTrace(Path(place), str(error))


def conversation_trace(row: Any, runtime: RuntimeName) -> Trace:
    """The trace of one row.

    Raises:
        TraceError: It holds no conversation.
    """
    if not isinstance(row, Mapping):
        raise TraceError("the line holds no JSON object")
    for key, role, text in (("messages", "role", "content"), ("conversations", "from", "value")):
        if isinstance(row.get(key), list):
            messages, lost = _messages(row[key], role, text)
            break
    else:
        raise TraceError("neither `messages` nor `conversations` is a list")
    if not any(message["role"] == "assistant" for message in messages):
        raise TraceError("nobody answers in it")
    if extra := sorted(set(map(str, row)) - {key, "id", "task_id"}):
        lost.append(f"keys {', '.join(extra)}")
    goal = next((message["content"] for message in messages if message["role"] == "user"), "")
    told = row.get("task_id") or row.get("id")
    task = TaskRef(
        task_id=content_hash(told if told is not None else goal)[:12],
        family=FAMILY,
        difficulty=UNKNOWN,
        seed=0,
        content_hash=content_hash(goal),
    )
    lost.append("verdict, times, tokens and limits, which the row does not tell")
    imported = Imported(f"JSONL of {key}", task, runtime, messages, not_carried=lost)
    imported.steps = [_step(turn, number, messages) for turn, number in enumerate(_answers(messages))]
    return imported.trace()


def _messages(rows: Sequence[Any], role_key: str, text_key: str) -> tuple[list[Message], list[str]]:
    messages: list[Message] = []
    lost: set[str] = set()
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TraceError(f"message {number} is no JSON object")
        told = row.get(role_key)
        if not isinstance(told, str) or told not in ROLES:
            raise TraceError(f"message {number}: role {told!r} is none of {', '.join(ROLES)}")
        role = ROLES[told]
        if told in {"tool", "function", "observation"}:
            lost.add(f"role {told}, read as user")
        if row.get(text_key) is None and (row.get("tool_calls") or row.get("function_call")):
            raise TraceError(f"message {number} only calls tools: agents here act in text, which it does not hold")
        messages.append(Message(role=role, content=_text(row.get(text_key), number, lost)))
        lost |= {f"key {key} of a message" for key in set(row) - {role_key, text_key} if row[key]}
    return messages, sorted(lost)


def _text(content: Any, number: int, lost: set[str]) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        lost |= {f"parts of type {part.get('type')}" for part in content if not isinstance(part.get("text"), str)}
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise TraceError(f"message {number} holds no text")


def _answers(messages: Sequence[Message]) -> list[int]:
    return [number for number, message in enumerate(messages) if message["role"] == "assistant"]


def _step(turn: int, number: int, messages: Sequence[Message]) -> StepEvent:
    after = messages[number + 1] if number + 1 < len(messages) else None
    nothing = InterpreterResult(output="", error=None, error_type=None, globals=None, results=())
    return StepEvent(
        turn=turn,
        assistant_text=messages[number]["content"],
        code=None,
        interpreter_result=nothing,
        observation=after["content"] if after and after["role"] == "user" else None,
        token_usage=TokenUsage(),
    )
