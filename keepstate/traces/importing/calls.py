"""Tool calls in a message of somebody's, in any of the ways in which programs write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keepstate.files import parse_json
from keepstate.traces.record import ToolCall, TraceError

CALL_KEYS = ("tool_calls", "function_call")
OTHER_CALLS = re.compile(r"(tool|function)_?(call|use|invocation)s?|actions?", re.IGNORECASE)
"""Keys of messages in which other programs keep calls: not read, so that nothing is made of a call that is misread."""
ARGUMENT_KEYS = ("arguments", "args", "input", "parameters")
KEYS_OF_CALL = {"name", "id", "type", "index", "call_id", "tool_call_id", *ARGUMENT_KEYS}


@dataclass(slots=True)
class TalkCall:
    """A tool call of an answer, and its result when that has come."""

    name: str
    arguments: dict[str, Any]
    id: Any
    result: str | None = None
    failed: bool = False

    @property
    def done(self) -> ToolCall:
        """As a trace has it."""
        if self.failed:
            return ToolCall(self.name, self.arguments, error=self.result)
        return ToolCall(self.name, self.arguments, self.result)


def calls_in(row: Mapping[str, Any], told: str, content: Any, number: int) -> list[TalkCall]:
    """The tool calls in a message, in any of the three ways to write them.

    Raises:
        TraceError: One of them is none, or it has calls that are written in a fourth way.
    """
    others = [key for key in map(str, row) if key not in CALL_KEYS and OTHER_CALLS.fullmatch(key)]
    if lost := [key for key in others if row.get(key) and str(row[key]).strip() not in str(content)]:
        raise TraceError(f"message {number} holds `{lost[0]}`: write its tool calls as `tool_calls`, or into its text")
    if row.get("tool_calls") and row.get("function_call"):
        raise TraceError(f"message {number} holds `tool_calls` and `function_call`: which of them it made is not told")
    raw = row.get("tool_calls") or row.get("function_call") or []
    if told == "function_call":
        raw = _json(content) if isinstance(content, str) else content
    return [_call(each, number) for each in (raw if isinstance(raw, list) else [raw])]


def _call(told: Any, number: int) -> TalkCall:
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
    return TalkCall(name, arguments, told.get("id"))


def _json(text: str) -> Any:
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return None
