"""Conversations from elsewhere: rows of OpenAI `messages` or of ShareGPT `conversations`, one episode a row.

Run `keepstate traces import file.jsonl --runtime persistent --out data/traces`. A row that would lose a tool call or an
image is refused; for the react runtime tool calls become the actions they are. What else it holds beside its texts
(names, reasoning, tools) is not carried over and named in each trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from keepstate.errors import UserError
from keepstate.files import content_hash, parse_json
from keepstate.models.base import Message, TokenUsage
from keepstate.traces.importing import EMPTY_THINKING, UNKNOWN, Imported, canonical, without_empty_thinking
from keepstate.traces.importing.sources import foreign
from keepstate.traces.observations import MAX_RESULT_CHARS, render_observation
from keepstate.traces.parsing import parse_answer
from keepstate.traces.record import (
    ActionResult,
    StepEvent,
    TaskRef,
    ToolCall,
    Trace,
    TraceError,
)
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
    "function_call": "assistant",
}
RESULTS = frozenset({"tool", "function", "observation"})
"""Who tells what came of an action."""
NAMES = ("name", "tool_name")
"""Where a result may name the tool that gave it."""
CALL_KEYS = ("tool_calls", "function_call")
OTHER_CALLS = re.compile(r"(tool|function)_?(call|use|invocation)s?|actions?", re.IGNORECASE)
"""Keys of messages in which other programs keep calls: not read, so that nothing is made of a call that is misread."""
ARGUMENT_KEYS = ("arguments", "args", "input", "parameters")
KEYS_OF_CALL = {"name", "id", "type", "index", "call_id", "tool_call_id", *ARGUMENT_KEYS}
TEXTS = frozenset({"text", "input_text", "output_text"})
THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
"""Parts of a message by their type: those that are its text, and those that are named and left out as thinking."""
MEDIA = re.compile(
    r"(input_)?(image|video|audio|picture|photo)s?(_(url|path|file|data|id)s?)?|.*attachments?", re.IGNORECASE
)
FAMILY = "imported"


def conversation_trace(row: Any, runtime: RuntimeName | None, place: str = "") -> Trace:
    """The trace of one row.

    Args:
        row: `{"messages": [...]}`, `{"conversations": [...]}`, each also with a `system` text, or the list alone.
        runtime: Where its agent acted.
        place: Where the row comes from, recorded in the trace.

    Raises:
        TraceError: It holds no conversation, or more than text can hold.
        UserError: The runtime is not told.
    """
    row = {"messages": row} if isinstance(row, list) else row
    if not isinstance(row, Mapping):
        raise TraceError(f"a JSON {type(row).__name__}, where a row of messages is needed")
    key = next((key for key in ("messages", "conversations") if isinstance(row.get(key), list)), None)
    if key is None:
        raise TraceError(foreign(row) or "neither `messages` nor `conversations` is a list")
    if runtime is None:
        raise UserError(f"{place}: a row does not tell its runtime", f"add --runtime {'|'.join(RuntimeName)}")
    _refuse_media(row, "it")
    talk = _Talk(runtime)
    read = {key, "id", "task_id"}
    if row.get("system") and isinstance(row["system"], str):  # where others keep the first message
        talk.messages.append(Message(role="system", content=row["system"]))
        read.add("system")
    for number, message in enumerate(row[key]):
        talk.add(number, message)
    talk.end()
    if not any(message["role"] == "assistant" for message in talk.messages):
        raise TraceError("nobody answers in it")
    if extra := sorted(set(map(str, row)) - read):
        talk.lost.add(f"keys {', '.join(extra)}")
    goal = canonical(next((message["content"] for message in talk.messages if message["role"] == "user"), ""))
    told = row.get("task_id") or row.get("id")
    task = TaskRef(
        task_id=content_hash(told if told is not None else goal)[:12],
        family=FAMILY,
        difficulty=UNKNOWN,
        seed=0,
        content_hash=content_hash(goal),
    )
    lost = [*sorted(talk.lost), "verdict, times, tokens and limits, which the row does not tell"]
    imported = Imported(f"rows of {key}", task, runtime, talk.messages, not_carried=lost, place=place)
    imported.steps = talk.steps()
    return imported.trace()


@dataclass(slots=True)
class _Call:
    """A tool call of an answer, and its result when that has come."""

    name: str
    arguments: dict[str, Any]
    id: Any
    result: str | None = None


class _Talk:
    """One conversation while its messages are read."""

    def __init__(self, runtime: RuntimeName) -> None:
        self.messages: list[Message] = []
        self.lost: set[str] = set()
        self._runtime = runtime
        self._actions: dict[int, list[_Call]] = {}
        """Calls by the place of the answer that makes them."""
        self._open: list[_Call] = []
        """Those of the last answer, until each has its result."""

    def add(self, number: int, row: Any) -> None:
        """Read message `number`.

        Raises:
            TraceError: It is none, or holds more than text can.
        """
        if not isinstance(row, Mapping):
            raise TraceError(f"message {number} is no JSON object")
        role_key, text_key = "role" if "role" in row else "from", "content" if "content" in row else "value"
        told = row.get(role_key)
        if not isinstance(told, str) or told not in ROLES:
            raise TraceError(f"message {number}: role {told!r} is none of {', '.join(ROLES)}")
        _refuse_media(row, f"message {number}")
        calls = _calls(row, told, row.get(text_key), number)
        text = "" if told == "function_call" else self._text(row.get(text_key), number)
        if ROLES[told] == "assistant" and (said := without_empty_thinking(text)) != text:
            text = said
            self.lost.add(EMPTY_THINKING)
        self._name_keys(row, {role_key, text_key})
        if calls:
            self._act(number, ROLES[told], text, calls)
        elif told in RESULTS and self._open:
            self._observe(number, row, text)
        elif told in RESULTS and row.get("tool_call_id"):
            raise TraceError(f"message {number} is the result of a tool call, and no answer before it makes one")
        elif not text and row.get(text_key) != "" and told not in RESULTS and ROLES[told] != "assistant":
            raise TraceError(f"message {number} ({told}) holds no text")
        else:
            self._say(number, told, text)

    def end(self) -> None:
        """The conversation is over. Its last answer may act without being told what came of it.

        Raises:
            TraceError: Some results of it are there and others not.
        """
        if any(call.result is not None for call in self._open):
            self._require_results(len(self.messages))

    def steps(self) -> list[StepEvent]:
        """A step for every answer."""
        answers = [place for place, message in enumerate(self.messages) if message["role"] == "assistant"]
        return [self._step(turn, place) for turn, place in enumerate(answers)]

    def _name_keys(self, row: Mapping[str, Any], read: set[str]) -> None:
        """Name what a message holds and nobody reads; the name in a tool's result is its call's."""
        for key in set(map(str, row)) - read - {"tool_call_id", *CALL_KEYS}:
            if row.get(key) not in (None, "", [], {}) and not (key in NAMES and self._open):
                self.lost.add(f"key {key} of a message")

    def _say(self, number: int, told: str, text: str) -> None:
        """A message of text alone."""
        self._require_results(number)
        if ROLES[told] == "assistant" and not text:
            raise TraceError(f"message {number} is an answer without text: there is nothing to train")
        if told in RESULTS:
            self.lost.add(f"role {told}, read as user")
        self.messages.append(Message(role=ROLES[told], content=text))

    def _act(self, number: int, role: str, text: str, calls: list[_Call]) -> None:
        """An answer that calls tools."""
        self._require_results(number)
        names = ", ".join(call.name for call in calls)
        if role != "assistant":
            raise TraceError(f"message {number} calls tools ({names}) and is the {role}'s")
        if self._runtime is not RuntimeName.REACT:
            raise TraceError(
                f"message {number} calls tools ({names}), which a {self._runtime} agent does by code in its text: "
                "import it with --runtime react, or write the calls into the text"
            )
        action = json.dumps([{"tool": call.name, "args": call.arguments} for call in calls], ensure_ascii=False)
        thought = text.strip()
        if thought and not thought.startswith("Thought:"):
            thought = f"Thought: {thought}"
        answer = f"{thought}\nAction: {action}" if thought else f"Action: {action}"
        if parse_answer(self._runtime, answer).action != action:
            raise TraceError(f"message {number} calls tools ({names}), and its text spells an action as well")
        self.lost.add("tool calls as the server had them: they are written as actions, their results as observations")
        self._actions[len(self.messages)] = self._open = calls
        self.messages.append(Message(role="assistant", content=answer))

    def _observe(self, number: int, row: Mapping[str, Any], text: str) -> None:
        """The result of a call; when all have come, the agent sees them."""
        told = row.get("tool_call_id")
        waiting = [call for call in self._open if call.result is None]
        if told is None:
            told = next((row[key] for key in NAMES if row.get(key)), None)
            call = next((call for call in waiting if told in (None, call.name)), None)
        else:
            call = next((call for call in waiting if call.id == told), None)
        if call is None:
            raise TraceError(f"message {number} is the result of call {told!r}, which the answer before does not make")
        call.result = text
        if len(text) > MAX_RESULT_CHARS:
            self.lost.add(
                f"results of tools beyond {MAX_RESULT_CHARS:,} characters, which keepstate's agent is not shown"
            )
        if len(waiting) == 1:
            result = ActionResult(
                output="", error=None, error_type=None, globals=None, results=tuple(map(_tool_call, self._open))
            )
            self.messages.append(Message(role="user", content=render_observation(self._runtime, result)))
            self._open = []

    def _require_results(self, number: int) -> None:
        missing = [call.name for call in self._open if call.result is None]
        if missing:
            raise TraceError(f"before message {number}, calls have no result: {', '.join(missing)}")

    def _text(self, content: Any, number: int) -> str:
        """The text of a message: a string, or the text parts of a list; "" where it has none."""
        if content is None or isinstance(content, str):
            return content or ""
        if not isinstance(content, list):
            raise TraceError(f"message {number} holds a JSON {type(content).__name__} where its text is due")
        texts = []
        for part in content:
            kind = str(part.get("type", "text")) if isinstance(part, Mapping) else "text"
            text = part.get("text") if isinstance(part, Mapping) else part
            if kind in THOUGHTS:
                self.lost.add(f"parts of type {kind}")
            elif kind in TEXTS and isinstance(text, str):
                texts.append(text)
            else:
                raise TraceError(f"message {number} holds a part of type {kind}, which text cannot carry")
        return "".join(texts)

    def _step(self, turn: int, place: int) -> StepEvent:
        after = self.messages[place + 1] if place + 1 < len(self.messages) else None
        text, calls = self.messages[place]["content"], self._actions.get(place, [])
        done = tuple(_tool_call(call) for call in calls if call.result is not None)
        return StepEvent(
            turn=turn,
            assistant_text=text,
            code=parse_answer(self._runtime, text).action if calls else None,
            interpreter_result=ActionResult(output="", error=None, error_type=None, globals=None, results=done),
            observation=after["content"] if after and after["role"] == "user" else None,
            token_usage=TokenUsage(),
        )


def _refuse_media(told: Mapping[str, Any], what: str) -> None:
    if media := sorted(name for name in map(str, told) if told.get(name) and MEDIA.fullmatch(name)):
        raise TraceError(f"{what} holds {', '.join(media)}, which text cannot carry: leave the row out")


def _tool_call(call: _Call) -> ToolCall:
    return ToolCall(call.name, call.arguments, call.result)


def _calls(row: Mapping[str, Any], told: str, content: Any, number: int) -> list[_Call]:
    """The tool calls in a message, in any of the three ways to write them.

    Raises:
        TraceError: One of them is none, or it has calls that are written in a fourth way.
    """
    others = [key for key in map(str, row) if key not in CALL_KEYS and OTHER_CALLS.fullmatch(key)]
    if lost := [key for key in others if row.get(key) and str(row[key]).strip() not in str(content)]:
        raise TraceError(f"message {number} holds `{lost[0]}`: write its tool calls as `tool_calls`, or into its text")
    raw = row.get("tool_calls") or row.get("function_call") or []
    if told == "function_call":
        raw = _json(content) if isinstance(content, str) else content
    return [_call(each, number) for each in (raw if isinstance(raw, list) else [raw])]


def _call(told: Any, number: int) -> _Call:
    call = told.get("function", told) if isinstance(told, Mapping) else None
    name = call.get("name") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(name, str) or not name:
        raise TraceError(f"message {number} holds a tool call without a name")
    if odd := sorted(key for key in map(str, call) if key not in KEYS_OF_CALL and call.get(key)):
        raise TraceError(f"message {number}: its call of {name} holds {', '.join(odd)}: write `name` and `arguments`")
    arguments: Any = next((call[key] for key in ARGUMENT_KEYS if call.get(key)), {})
    arguments = _json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise TraceError(f"message {number}: the arguments of its call of {name} are no JSON object")
    return _Call(name, arguments, told.get("id"))


def _json(text: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return None
