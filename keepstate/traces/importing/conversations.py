"""Conversations from elsewhere: rows of OpenAI `messages` or of ShareGPT `conversations`, one episode a row.

All other formats tell their episodes as such messages too, so what is said here of calls and results holds for them.

Run `keepstate traces import file.jsonl --runtime persistent --out data/traces`. A row that would lose a tool call or an
image is refused; for the react runtime tool calls become the actions they are. What else it holds beside its texts
(names, reasoning, tools) is not carried over and named in each trace.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from keepstate.errors import UserError
from keepstate.files import content_hash
from keepstate.models.base import Message, TokenUsage
from keepstate.traces.importing import UNKNOWN, Imported, Told, canonical, keys_of, without_empty_thinking
from keepstate.traces.importing.calls import CALL_KEYS, TalkCall, calls_in
from keepstate.traces.observations import MAX_RESULT_CHARS, render_observation
from keepstate.traces.parsing import parse_answer
from keepstate.traces.record import (
    ActionResult,
    StepEvent,
    TaskRef,
    Trace,
    TraceError,
    json_kind,
)
from keepstate.vocabulary import FinishReason, RuntimeName

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
AS_TEXT = "write each message as its `role` and its `content`"
LANGCHAIN_TYPES = frozenset({"human", "ai", "system", "tool", "function", "chat"})
LANGCHAIN = "write them by langchain_core.messages.convert_to_openai_messages first"
FAILED_KEYS = {"is_error": True, "status": "error"}
"""By which Anthropic, LangChain and our other readers say that a message tells of an action that went wrong."""
RESULTS = frozenset({"tool", "function", "observation"})
"""Who tells what came of an action."""
NAMES = ("name", "tool_name")
"""Where a result may name the tool that gave it."""
TEXTS = frozenset({"text", "input_text", "output_text"})
THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
CALL_PARTS = frozenset({"tool_use", "server_tool_use", "tool_result", "tool-call", "tool-result", "functionCall"})
"""Parts of a message by their type: its text, thinking (named and left out), and calls of Anthropic's and others' APIs.
"""
MEDIA = re.compile(
    r"(input_)?(image|video|audio|picture|photo)s?(_(url|path|file|data|id)s?)?|.*attachments?", re.IGNORECASE
)
UNTRAINED_KEYS = ("weight", "train", "training", "trainable", "loss", "loss_weight")
"""Keys by which OpenAI, Axolotl, tinker, ms-swift and others leave an answer out of training: 0 or false; 1 trains."""


def is_row(value: Any) -> bool:
    """Whether a value is a row of messages, or the list of them alone."""
    return isinstance(value, list) or (isinstance(value, Mapping) and _key(value) is not None)


def told_of(row: Any) -> Told:
    """What a row tells: `{"messages": [...]}` or `{"conversations": [...]}`, each perhaps with a `system`, or the list.

    Raises:
        TraceError: It holds an image, or is not to be trained.
    """
    row = {"messages": row} if isinstance(row, list) else row
    key = _key(row) or "messages"
    _refuse_media(row, "it")
    if not _is_trained(row, "the row"):
        raise TraceError("the row is not to be trained: leave it out")
    messages, read = list(row[key]), {key, "id", "task_id"}
    if row.get("system") and isinstance(row["system"], str | list):  # where others keep the first message
        opening = {"role": "system", "content": row["system"]}
        messages = messages if messages[:1] == [opening] else [opening, *messages]
        read.add("system")
    lost = {"verdict, times, tokens and limits, which the row does not tell"}
    if extra := sorted(set(map(str, row)) - read):
        lost.add(f"keys {', '.join(extra)}")
    told = row.get("task_id") or row.get("id")
    return Told(f"rows of {key}", messages, task_id=told, lost=lost)


def _key(row: Mapping[str, Any]) -> str | None:
    return next((key for key in ("messages", "conversations") if isinstance(row.get(key), list)), None)


def talk_trace(told: Told, runtime: RuntimeName | None, place: str = "") -> Trace:
    """The trace of one episode.

    Args:
        told: The episode.
        runtime: Where its agent acted, of one that does not tell.
        place: Where it comes from, recorded in the trace.

    Raises:
        TraceError: It holds no conversation, or more than text can hold.
        UserError: The runtime is not told.
    """
    runtime = told.runtime or runtime
    if runtime is None:
        raise UserError(f"{place}: {told.source} do not tell the runtime", f"add --runtime {'|'.join(RuntimeName)}")
    talk = _Talk(runtime)
    for number, message in enumerate(told.messages):
        try:
            talk.add(number, message)
        except TraceError:
            if not all(map(_asks, told.messages[number:])):
                raise
            talk.lost.add("what the user says after the last answer, which is more than text")
            break
    talk.end()
    if not any(message["role"] == "assistant" for message in talk.messages):
        raise TraceError("nobody answers in it")
    goal = canonical(next((message["content"] for message in talk.messages if message["role"] == "user"), ""))
    task = told.task or TaskRef(
        task_id=told.name or content_hash(goal if told.task_id is None else told.task_id)[:12],
        family=told.family,
        difficulty=UNKNOWN,
        seed=0,
        content_hash=content_hash(goal),
    )
    steps, usage = talk.steps(), told.usage
    if len(told.usages) == len(steps):
        usage = TokenUsage.over(told.usages) if usage.total_tokens is None else usage
        steps = [step.model_copy(update={"token_usage": usage}) for step, usage in zip(steps, told.usages, strict=True)]
    return Imported(
        told.source,
        task,
        runtime,
        talk.messages,
        steps=steps,
        errors=told.errors,
        finish=told.finish,
        model=told.model,
        started_at=told.started_at,
        finished_at=told.finished_at,
        usage=usage,
        verdict=told.verdict if told.finish is not FinishReason.FAILED else None,
        not_carried=sorted(talk.lost | told.lost),
        untrained=talk.untrained,
        place=place,
    ).trace()


class _Talk:
    """One conversation while its messages are read."""

    def __init__(self, runtime: RuntimeName) -> None:
        self.messages: list[Message] = []
        self.lost: set[str] = set()
        self.untrained: list[int] = []
        """Answers that are not to be trained, by number."""
        self._runtime = runtime
        self._actions: dict[int, list[TalkCall]] = {}
        """Calls by the place of the answer that makes them."""
        self._failures: set[int] = set()
        """Places of messages that tell of an action that went wrong, where it is no call."""
        self._open: list[TalkCall] = []
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
        if told is None:
            raise TraceError(f"message {number} {_without_role(row)}")
        if not isinstance(told, str) or told not in ROLES:
            raise TraceError(f"message {number}: role {told!r} is none of {', '.join(ROLES)}")
        _refuse_media(row, f"message {number}")
        if row.get("parts") and not row.get(text_key):
            raise TraceError(f"message {number} holds `parts`, as Gemini's and Vercel's APIs write them: {AS_TEXT}")
        calls = calls_in(row, told, row.get(text_key), number)
        text = "" if told == "function_call" else self._text(row.get(text_key), number)
        if ROLES[told] == "assistant" and not _is_trained(row, f"message {number}"):
            self.untrained.append(sum(message["role"] == "assistant" for message in self.messages))
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
            self._say(number, told, text, failed=ROLES[told] == "user" and _tells_of_failure(row))

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
            if key in UNTRAINED_KEYS and ROLES[row.get("role") or row["from"]] == "assistant":
                continue
            if key in FAILED_KEYS and row[key] in (FAILED_KEYS[key], False, "success"):
                continue
            if row.get(key) not in (None, "", [], {}) and not (key in NAMES and self._open):
                self.lost.add(f"key {key} of a message")

    def _say(self, number: int, told: str, text: str, *, failed: bool) -> None:
        """A message of text alone."""
        self._require_results(number)
        if ROLES[told] == "assistant" and not text:
            raise TraceError(f"message {number} is an answer without text: there is nothing to train")
        if told in RESULTS:
            self.lost.add(f"role {told}, read as user")
        self._append(ROLES[told], text)
        if failed:
            self._failures.add(len(self.messages) - 1)

    def _append(self, role: Literal["system", "user", "assistant"], text: str) -> None:
        """A message; of the user's that follow one another one is made, since no agent here is told two at once."""
        if role == "user" and self.messages and self.messages[-1]["role"] == "user":
            self.lost.add("that user messages which follow one another were several: they are joined")
            text = f"{self.messages.pop()['content']}\n\n{text}"
        self.messages.append(Message(role=role, content=text))

    def _act(self, number: int, role: str, text: str, calls: list[TalkCall]) -> None:
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
        thought = without_empty_thinking(text).strip()
        opening = text[: len(text) - len(without_empty_thinking(text))]
        label = "Thought: " if thought and not thought.startswith("Thought:") else ""
        answer = opening + (f"{label}{thought}\nAction: {action}" if thought else f"Action: {action}")
        if parse_answer(self._runtime, thought).action or parse_answer(self._runtime, answer).action != action:
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
        call.result, call.failed = text, _tells_of_failure(row)
        if len(text) > MAX_RESULT_CHARS:
            self.lost.add(
                f"results of tools beyond {MAX_RESULT_CHARS:,} characters, which keepstate's agent is not shown"
            )
        if len(waiting) == 1:
            result = ActionResult(
                output="", error=None, error_type=None, globals=None, results=tuple(call.done for call in self._open)
            )
            self._append("user", render_observation(self._runtime, result))
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
            raise TraceError(f"message {number} holds {json_kind(content)} where its text is due")
        texts = []
        for part in content:
            kind = _kind(part)
            text = part.get("text") if isinstance(part, Mapping) else part
            if kind in THOUGHTS:
                self.lost.add(f"parts of type {kind}")
            elif kind in TEXTS and isinstance(text, str):
                texts.append(text)
            elif kind in CALL_PARTS:
                raise TraceError(
                    f"message {number} holds a part of type {kind}, as Anthropic's and other APIs write tool calls, "
                    "which is not read yet: write them as OpenAI's `tool_calls` and `tool` messages"
                )
            else:
                raise TraceError(f"message {number} holds a part of type {kind}, which text cannot carry")
        return "".join(texts)

    def _step(self, turn: int, place: int) -> StepEvent:
        after = self.messages[place + 1] if place + 1 < len(self.messages) else None
        text, calls = self.messages[place]["content"], self._actions.get(place, [])
        error = after["content"] if after and place + 1 in self._failures else None
        done = tuple(call.done for call in calls if call.result is not None)
        return StepEvent(
            turn=turn,
            assistant_text=text,
            code=parse_answer(self._runtime, text).action if calls else None,
            interpreter_result=ActionResult(
                output="", error=error, error_type=error and "Error", globals=None, results=done
            ),
            observation=after["content"] if after and after["role"] == "user" else None,
            token_usage=TokenUsage(),
        )


def _without_role(row: Mapping[str, Any]) -> str:
    """What a message is that does not say whose it is."""
    if row.get("lc") or (row.get("type") in LANGCHAIN_TYPES and row.keys() & {"data", "content"}):
        return f"is as LangChain dumps it, which is not read yet: {LANGCHAIN}"
    if row.keys() & {"action", "observation"} and row.get("source"):
        return f"is an event of OpenHands, which is not read yet: {AS_TEXT}"
    return f"does not tell whose it is (`role` or `from`); its keys: {keys_of(row)}"


def _asks(row: Any) -> bool:
    """Whether a message is the user's own, in parts: if no answer follows, nothing is trained of it."""
    if not isinstance(row, Mapping) or row.get("role") != "user" or row.keys() - {"role", "content"}:
        return False
    parts = row.get("content")
    return isinstance(parts, list) and bool(parts) and all(_kind(part) not in CALL_PARTS for part in parts)


def _kind(part: Any) -> str:
    return str(part.get("type", "text")) if isinstance(part, Mapping) else "text"


def _tells_of_failure(row: Mapping[str, Any]) -> bool:
    return any(row.get(key) == value for key, value in FAILED_KEYS.items())


def _refuse_media(told: Mapping[str, Any], what: str) -> None:
    if media := sorted(name for name in map(str, told) if told.get(name) and MEDIA.fullmatch(name)):
        raise TraceError(f"{what} holds {', '.join(media)}, which text cannot carry: leave the row out")


def _is_trained(told: Mapping[str, Any], what: str) -> bool:
    """Whether an answer, or a row, is to be trained.

    Raises:
        TraceError: It is so in part, or it is not clear.
    """
    for key in UNTRAINED_KEYS:
        value = told.get(key)
        if value is not None and not (isinstance(value, int | float) and value in {0, 1}):
            raise TraceError(f"{what} has {key} {value!r}, where 0 and 1 are known: an answer is trained, or it is not")
    return all(told.get(key) in {None, 1} for key in UNTRAINED_KEYS)
