"""The one rendering of what an agent sees after its action: loop, trace, training data and server share these bytes.

CodeAct: compact JSON `{"output":...,"error":...,"globals":[...]}`, keys only when they apply. ReAct: one line a call,
`Observation: [tool] result`. What model-written code printed can never spell a special token of a chat template, and
is always valid Unicode. Output arrives already cut by the runtime; errors and names are cut here.
"""

from __future__ import annotations

import json
import re
from typing import Any

from keepstate.traces.record import ActionResult, ToolCall
from keepstate.vocabulary import RuntimeName

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,16}\b")
"""What is another in every run of the same code."""
MAX_ERROR_CHARS = 4_000
MAX_GLOBALS = 60
MAX_NAME_CHARS = 60
MAX_RESULT_CHARS = 10_000

_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""`json.dumps` makes an encoder at each call."""
_SPECIAL_TOKEN = re.compile(
    r"<(?!(?:module|lambda|listcomp|dictcomp|setcomp|genexpr|locals|string|stdin)>)(?=[|\uff5c]|/?[A-Za-z_]+>)"
)
"""The `<` of `<|im_end|>`, `<think>`, `</s>`, `<tool_call>`, but not of the names that Python's tracebacks contain."""

_CONTROL = re.compile("[\x7f-\x9f]")
"""Control characters that JSON leaves as they are: one line of the agent's would be several, or move a terminal."""


def render_observation(runtime: RuntimeName, result: ActionResult) -> str:
    """The user message that follows an action."""
    text = _react(result) if runtime is RuntimeName.REACT else _codeact(result)
    return _SPECIAL_TOKEN.sub(r"\\u003c", _unicode(text))


def cut(text: str, limit: int) -> str:
    """`text`, or its head and tail, `limit` characters in all, around a notice of how much is left out."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _codeact(result: ActionResult) -> str:
    observation: dict[str, Any] = {}
    if result.output or not result.error:
        observation["output"] = result.output
    if result.error:
        observation["error"] = cut(result.error, MAX_ERROR_CHARS)
    if result.globals is not None:
        observation["globals"] = _names(result.globals)
    text = _compact(observation)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _names(names: tuple[str, ...]) -> list[str]:
    shown = [cut(name, MAX_NAME_CHARS) for name in names[:MAX_GLOBALS]]
    left_out = len(names) - len(shown)
    return [*shown, f"... {left_out} more"] if left_out else shown


def _react(result: ActionResult) -> str:
    lines = [f"Observation: [{_one_line(call.tool)}] {_outcome(call)}" for call in result.results]
    if result.error:
        lines.append(f"Observation: error: {_one_line(cut(result.error, MAX_ERROR_CHARS))}")
    return "\n".join(lines or ["Observation: no tool was called"])


def _outcome(call: ToolCall) -> str:
    if call.error is not None:
        return f"error: {_one_line(call.error)}"
    if isinstance(call.output, str):
        return _one_line(call.output)
    return _one_line(json.dumps(call.output, ensure_ascii=False))


def _one_line(text: str) -> str:
    """`text` if it is one printable line, else its JSON form, which is."""
    short = cut(text, MAX_RESULT_CHARS)
    return short if short.isprintable() else json.dumps(short)


def _unicode(text: str) -> str:
    """`text` with lone surrogates written as JSON escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
