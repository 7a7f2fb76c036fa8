"""Thoughts in an answer: `<think>` blocks and their like, whole, cut, or opened by the chat template so that only their
end appears.

Nothing inside one is ever executed, and code that shows such tags stays as it is. Linear time on any text.
"""

from __future__ import annotations

import re

_TAG = (
    r"(?:<{0}(?:\w+:)?(?:think|thinking|thought)\s*>|\[{0}THINK\]|\u25c1{0}think\u25b7"
    r"|<\|{1}(?:think|thinking|thought)\|>|<\|channel\|>\s*{2}(?:<\|message\|>)?)"
)
"""Of Qwen3 and most others (Seed-OSS: seed:think), and of models asked to think aloud; of Magistral; Kimi; Command A;
gpt-oss."""
_OPEN = _TAG.format("", "(?:(?:start|begin)_(?:of_)?)?", "analysis")
_CLOSE = _TAG.format("/", "end_(?:of_)?", "final")
_NEARLY = r"</?(?:\w+:)?(?:think|thinking|thought)\s*/>|<\|(?:\w+_)?(?:think|thinking|thought)(?:_\w+)?\|>"
"""Opens and ends nothing by itself: empty, or with further words in it."""
THINK_MARK = re.compile(rf"{_OPEN}|{_CLOSE}|{_NEARLY}", re.IGNORECASE)
"""Refused in answers that are to be trained, under any tokenizer."""
_SWITCHED = re.compile(rf"(?!</?(?:thinking|thought)\b)(?:{_OPEN}|{_CLOSE})", re.IGNORECASE)
_CLOSING = re.compile(rf"(?<![`'\"]){_CLOSE}|{_CLOSE}(?![`'\"])", re.IGNORECASE)
"""Not between quotes."""
LOOK_BACK = 500
"""Characters."""
_FENCE = r"[ ]{0,3}(?P<fence>`{3,}+(?!.*`)|~{3,}+)"
_BEHIND = re.compile(_FENCE)
_MARK = re.compile(
    rf"""^{_FENCE}(?P<info>.*)$
    |^[^\w`'"#(\n]*(?P<first>{_OPEN})
    |(?<=[>\]▷])[ \t]*(?P<next>{_OPEN})
    |^(?:(?!{_CLOSE})[^`'"#(\n])*(?P<last>{_OPEN})[ \t]*\r?$
    |(?P<edge>^[ \t]*{_CLOSE}|{_CLOSE}[ \t]*\r?$)
    |(?P<closing>{_CLOSING.pattern})""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
"""A thought begins first in a line, also behind marks, behind another, or last in a line: code prints or quotes it."""


def spoken(text: str) -> str:
    """`text` without its thoughts; what was thought to the very end leaves nothing."""
    if not THINK_MARK.search(text):
        return text
    kept: list[str] = []
    place = at = 0
    fence, shows = "", False
    """The code block that is open, and whether a thought begins in it, which is code then."""
    while found := _MARK.search(text, at):
        at = found.end()
        if mark := found["fence"]:
            if not fence:
                fence, shows = mark, False
            elif mark.startswith(fence) and not found["info"].strip():
                fence = ""
            continue
        if found["edge"] or found["closing"]:
            if not found["edge"] and (fence or _in_string(text, found.start())):
                continue
            if fence and shows:
                continue
            kept = []  # nobody opened it: the chat template did
        elif fence:
            shows = True
            continue
        else:
            kept.append(text[place : found.start(found.lastindex or 0)])
            closed = _CLOSING.search(text, at)
            if closed is None:
                return "".join(kept)
            at = closed.end()
        place, behind = at, _BEHIND.match(text, at)
        fence, shows, at = (behind["fence"], False, behind.end()) if behind else ("", False, at)
    return "".join(kept) + text[place:]


def _in_string(text: str, place: int) -> bool:
    """Whether a double quote is open there, in its line: arguments of tool calls may hold a tag."""
    return text[max(0, place - LOOK_BACK) : place].rpartition("\n")[2].count('"') % 2 == 1


def thinks(text: str) -> bool:
    """Whether an answer holds thoughts that a chat template switches on."""
    return bool(_SWITCHED.search(text)) and spoken(text) != text
