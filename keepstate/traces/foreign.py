"""Formats that are recognised and not read, so that who has such a file learns what it is and what to do.

Recognises a JSON value by its keys; reads none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

AS_ROWS = "write each as a row of `messages` or ShareGPT `conversations`"


def foreign(value: Any) -> str | None:
    """What a value that is neither a trace nor a row of messages is, and the way out; None where it is not known."""
    if not isinstance(value, Mapping):
        return None
    keys = set(map(str, value))
    version = value.get("schema_version")
    if isinstance(version, str) and version.startswith("ATIF"):
        return f"it is an ATIF trajectory ({version}), which is written (--to atif) but not read; {AS_ROWS}"
    if isinstance(value.get("schema"), str):
        return f"its schema is {value['schema']!r}: no trace and no row of messages"
    for key in ("messages", "conversations"):
        if isinstance(value.get(key), str):
            return f"`{key}` is text: if it is JSON, decode it once more, so that it is a list"
    for needed, name in RECOGNISED:
        if needed <= keys:
            return f"it is {name}; {AS_ROWS}"
    return None


RECOGNISED: tuple[tuple[frozenset[str], str], ...] = tuple(
    (frozenset(needed.split()), name)
    for needed, name in (
        ("type message uuid", "one event of a Claude Code session, a line an event"),
        ("type message sessionId", "one event of a Claude Code session, a line an event"),
        ("type payload timestamp", "one event of a Codex session, a line an event"),
        ("custom_id body", "a request of OpenAI's batch API"),
        ("custom_id response", "an answer of OpenAI's batch API"),
        ("chosen rejected", "a pair of preferences (chosen, rejected)"),
        ("prompt completion", "a row of prompt and completion"),
        ("prompt response", "a row of prompt and response"),
        ("instruction output", "a row of Alpaca's format (instruction, input, output)"),
        ("instruction response", "a row of instruction and response"),
        ("question answer", "a row of question and answer"),
        ("trajectory", "a row with a `trajectory`, as SWE-agent and others write it"),
        ("history", "a row with a `history`, as OpenHands and others write it"),
        ("conversation", "a row with a `conversation`"),
        ("dialog", "a row with a `dialog`"),
        ("dialogue", "a row with a `dialogue`"),
        ("turns", "a row with `turns`"),
        ("input output", "a row of input and output"),
        ("role content", "one message alone, not a row of them"),
        ("from value", "one message alone, not a row of them"),
        ("status result", "a verdict, not a trace"),
        ("split row path", "an index of a data set of keepstate's"),
        ("path reason detail", "a list of traces that a data set leaves out"),
        ("text", "a row of plain text"),
    )
)
"""Keys that tell a format, the telling ones first."""
