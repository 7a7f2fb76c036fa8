"""Thoughts in an answer: `<think>` blocks, whole, cut, or opened by the chat template so that only their end appears.

Nothing inside one is ever executed. Linear time on any text.
"""

from __future__ import annotations

import re

CLOSING = "</think>"
_OPENED = re.compile(
    r"""^[^\w`'"#(\n]*(<think>)|(?<=</think>)[ \t]*(<think>)|^[^`'"#(\n]*(<think>)[ \t]*\r?$""", re.MULTILINE
)
"""First in a line, also behind marks, or last behind words; code prints or quotes it."""
_UNOPENED = re.compile(r"^[ \t]*</think>|</think>[ \t]*$", re.MULTILINE)
"""At an end of a line, because code may print the tag."""


def spoken(text: str) -> str:
    """`text` without its thoughts; what was thought to the very end leaves nothing."""
    if "think>" not in text:
        return text
    opened, unopened = _OPENED.search(text), _UNOPENED.search(text)
    place = unopened.end() if unopened and not (opened and opened.start() < unopened.start()) else 0
    kept: list[str] = []
    while opened := _OPENED.search(text, place):
        kept.append(text[place : opened.start(opened.lastindex or 0)])
        closed = text.find(CLOSING, opened.end())
        if closed < 0:
            return "".join(kept)
        place = closed + len(CLOSING)
    return "".join(kept) + text[place:]
