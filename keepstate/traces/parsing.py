"""Reading an answer of the model: the one action in it, or what is wrong with it.

CodeAct: free thought and exactly one fenced python block, by CommonMark's rules. ReAct: `Thought:` and exactly one
`Action:` with a JSON list. What is nearly right is explained in one line, never run as it may have been meant. Linear
time on any text; the same text always gives the same. Does not judge the code, nor whether the tools exist: the runtime
does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from keepstate.models.thinking import spoken
from keepstate.vocabulary import FormatError, RuntimeName

PYTHON_LABELS = frozenset({"python", "py", "python3"})
FENCE = "```"
ACTION = "Action:"
SHOWN_CHARS = 40
"""Of the agent's own words in an explanation."""

_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})(.*)", re.DOTALL)
_NEARLY_PYTHON = re.compile(r"(jupyter)?i?py(thon)?[0-9]*")
_OTHER_FENCE = re.compile(
    r"""^[ \t]*((?:['"\u00b4\u2018\u2019\u201c\u201d\uff40]{2,4}|``)[ \t]*(?:python|py)\w*[ \t]*\r?$
    |<\|?(?:i?python|py|code|execute|tool_code)\w*\|?> |\[(?:python|code)\])""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
"""How other agents mark code."""
_NEARLY_ACTION = re.compile(
    r"[^a-z\n]{0,20}(\w{1,12}[ \t]{1,3})?actions?[^a-z\n:\uff1a\[{]{0,20}(input[^a-z\n:\uff1a\[{]{0,20})?"
    r"([:\uff1a]|(?=\s{0,3}[\[{]))",
    re.IGNORECASE,
)
_WRONG_START = {"{": ": put your object in [ ]"} | dict.fromkeys("`~", ": write it without a fence, or close the fence")
_PYTHON_WORD = {"True": "true", "False": "false", "None": "null"}


@dataclass(frozen=True, slots=True)
class Answer:
    """One parsed answer: either an action or a problem, never both."""

    action: str | None = None
    """Python source, or the text of a JSON list of tool calls."""
    problem: str | None = None
    """What the agent is told instead; nothing was executed."""
    kind: FormatError | None = None
    """Which problem it is."""
    hint: str | None = None
    """What the agent is told besides, should the action turn out to be no Python."""


@dataclass(slots=True)
class _Block:
    """A fenced block while it is read."""

    indent: int
    mark: str
    label: str
    lines: list[str]
    closed: bool = False

    @property
    def is_python(self) -> bool:
        return self.mark[0] == "`" and self.label in PYTHON_LABELS


def parse_answer(runtime: RuntimeName, text: str, *, truncated: bool = False) -> Answer:
    """Find the action in `text`.

    Args:
        runtime: Decides the format.
        text: The answer as received.
        truncated: The answer hit its token limit; a broken action is then explained by that.
    """
    said = spoken(text)
    answer = _parse_react(said) if runtime is RuntimeName.REACT else _parse_codeact(said)
    if answer.problem and said != text:
        answer = replace(answer, problem=f"{answer.problem} What stands in <think> is not executed.")
    if answer.problem and truncated:
        return replace(answer, problem=f"{answer.problem} Your answer was cut at the token limit: be brief.")
    return answer


def _parse_codeact(text: str) -> Answer:
    blocks = _fenced_blocks(text)
    code = [block for block in blocks if block.is_python or _nearly_python(block.label)]
    if len(code) > 1:
        again = f" {_longer_fence(code[0])}" if _ends_in_a_string(code[0].lines) else ""
        return _none(
            FormatError.SEVERAL,
            f"Nothing was executed: {len(code)} code blocks. Write exactly one {FENCE}python block.{again}",
        )
    if not code or not code[0].is_python:
        reason = _why_none(text, code or blocks)
        problem = f"Nothing was executed: no code block{reason}. Write exactly one {FENCE}python block."
        return _none(FormatError.NO_ACTION, problem)
    (block,) = code
    if not block.closed:
        return _none(
            FormatError.UNCLOSED,
            f"Nothing was executed: the code block is not closed by a line {block.mark}{_why_open(block)}.",
        )
    hint = (_inner_fence(block) or _no_plain_python(block)) if block is blocks[-1] else _longer_fence(block)
    return Answer(action="\n".join(block.lines), hint=hint)


def _none(kind: FormatError, problem: str) -> Answer:
    return Answer(problem=problem, kind=kind)


def _fenced_blocks(text: str) -> list[_Block]:
    """Every fenced block of a Markdown text, by CommonMark's rules outside of lists and quotes.

    The fence's indentation, three spaces at most, is taken off its lines, so a block in a list item is one too.
    """
    blocks: list[_Block] = []
    open_block: _Block | None = None
    for line in text.split("\n"):
        fence = _fence(line)
        if open_block is None:
            if fence:
                indent, mark, info = fence
                open_block = _Block(indent, mark, _label(info), [])
                blocks.append(open_block)
        elif fence and not fence[2] and fence[1].startswith(open_block.mark):
            open_block.closed, open_block = True, None
        else:
            spaces = len(line) - len(line.lstrip(" "))
            open_block.lines.append(line[min(spaces, open_block.indent) :])
    return blocks


def _fence(line: str) -> tuple[int, str, str] | None:
    """Indentation, marks and what follows them, if the line is a fence."""
    found = _FENCE.fullmatch(line)
    if found is None or (found[2][0] == "`" and "`" in found[3]):
        return None
    return len(found[1]), found[2], found[3].strip()


def _label(info: str) -> str:
    """The first word of what follows a fence. U+2028 and its like end none: what follows them would be lost."""
    return re.split(r"[ \t\r]", info.strip(), maxsplit=1)[0].lower()


def _nearly_python(label: str) -> bool:
    """Whether a label means Python, however it is written: `python:`, `{python}`, `ipython`, `python3.11`."""
    return bool(_NEARLY_PYTHON.fullmatch(re.sub(r"[^a-z0-9]", "", label[:SHOWN_CHARS])))


def _why_none(text: str, blocks: Sequence[_Block]) -> str:
    """Why no block is the one python block, as the rest of a sentence; "" where there is no sign of one."""
    if blocks and _nearly_python(blocks[0].label):
        if blocks[0].mark[0] == "~":
            return f": yours is fenced by {blocks[0].mark[:3]}, not by {FENCE}"
        return f": the label {_shown(blocks[0].label)} is not python"
    for line in text.split("\n"):
        before, ticks, rest = line.partition(FENCE)
        if ticks and _nearly_python(_label(rest.lstrip("`")).partition("`")[0]):
            return _why_not_there(line, before)
    if blocks:
        return f": yours has the label {_shown(blocks[0].label)}" if blocks[0].label else ": yours has no label"
    other = _OTHER_FENCE.search(text)
    return f": yours begins with {_shown(other[1].strip())}, not with {FENCE}python" if other else ""


def _why_not_there(line: str, before: str) -> str:
    """Why a line that would open a python block does not; `before` stands before its fence."""
    if _fence(line):
        return f": {FENCE}python stands inside another block, which is not closed before it"
    if before and not before.strip(" \t"):
        return f": a line {FENCE}python begins with three spaces at most"
    if before.lstrip().startswith(">"):
        return ": yours is in a quote (>)"
    return f": {FENCE}python must stand alone on its line"


def _why_open(block: _Block) -> str:
    """What kept a block open, as the rest of a sentence."""
    for line in reversed(block.lines):
        body = line.strip()
        if not body.startswith(block.mark):
            continue
        if body == block.mark:
            return f": {_shown(line)} begins with more than three spaces"
        return f": in {_shown(body)} something follows it"
    return ""


def _longer_fence(block: _Block) -> str:
    """How to write code that holds a line that looks like the end of its block."""
    return (
        f"The block ended at its first line {block.mark}, and more fences follow: if that line belongs to the code,"
        f" open and close the block with {block.mark}`, or make the text with chr(96) * 3."
    )


def _inner_fence(block: _Block) -> str | None:
    """What to do about a line of the code that would open a block, should the code be no Python."""
    inner = next((line for line in block.lines if line.lstrip().startswith(FENCE)), None)
    return inner and f"The code holds a line {_shown(inner)}: if it should open a block, close the one before it."


def _no_plain_python(block: _Block) -> str | None:
    """What to do about a line that only an interactive shell takes, should the code be no Python."""
    shell = next((line for line in block.lines if line.lstrip().startswith(("!", "%", ">>> "))), None)
    return shell and f"The code holds a line {_shown(shell)}: write plain Python, no commands and prompts of a shell."


def _ends_in_a_string(lines: Sequence[str]) -> bool:
    """Whether code seems to end within a triple-quoted string. For wording only."""
    return any(sum(line.count(quotes) for line in lines) % 2 for quotes in ('"""', "'''"))


def _parse_react(text: str) -> Answer:
    actions = [line_start for line_start in _line_starts(text) if text.startswith(ACTION, line_start)]
    if not actions:
        nearly = (found[0] for start in _line_starts(text) if (found := _NEARLY_ACTION.match(text, start)))
        near = next(nearly, ACTION if ACTION in text else None)
        reason = f": {_shown(near)} must be {ACTION} at the start of its line" if near else ""
        if not near and '"tool"' in text:
            reason = f": the list of tool calls must follow {ACTION}"
        return _none(
            FormatError.NO_ACTION,
            f'No tool was called: no action{reason}. Write Action: [{{"tool": ..., "args": {{...}}}}].',
        )
    if len(actions) > 1:
        return _none(
            FormatError.SEVERAL,
            f"No tool was called: {len(actions)} actions. Write exactly one line that starts with Action:.",
        )
    body, after = _unfenced(text[actions[0] + len(ACTION) :].strip())
    if not body.startswith("["):
        before, bracket, _ = body.partition("[")
        reason = _WRONG_START.get(body[:1], f": {_shown(before)} stands before it" if bracket else "")
        problem = f"No tool was called: Action: must be followed by a JSON list of tool calls{reason}."
        return _none(FormatError.NO_CALLS, problem)
    try:
        _, end = json.JSONDecoder().raw_decode(body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else "a number has too many digits"
        if isinstance(error, json.JSONDecodeError):
            reason = _why_no_json(body, error)
        return _none(FormatError.NO_CALLS, f"No tool was called: the action is not valid JSON ({reason}).")
    if follows := body[end:].strip() or after:
        said = f"text follows the action, {_shown(follows)}"
        return _none(FormatError.TEXT_AFTER, f"No tool was called: {said}. End your answer after the JSON list.")
    return Answer(action=body[:end])


def _line_starts(text: str) -> list[int]:
    starts = [0]
    while (newline := text.find("\n", starts[-1])) >= 0:
        starts.append(newline + 1)
    return starts


def _unfenced(body: str) -> tuple[str, str]:
    """`body` without a code fence around it, and what follows the fence."""
    first, newline, rest = body.partition("\n")
    if not newline or not first.startswith(FENCE):
        return body, ""
    inside, fence, after = rest.rpartition(first[: len(first) - len(first.lstrip("`"))])
    return (inside.strip(), after.strip()) if fence else (body, "")


def _why_no_json(body: str, error: json.JSONDecodeError) -> str:
    """What to mend in what is nearly JSON."""
    place, here = error.pos, body[error.pos : error.pos + SHOWN_CHARS]
    before = body[max(0, place - SHOWN_CHARS) : place].rstrip()
    comma = re.match(r",?\s*([]}])", here)
    word = re.match(r"[A-Za-z]*", here)
    meant = _PYTHON_WORD.get(word[0].capitalize()) if word else None
    if not here.strip():
        reason = "it ends before the list is closed"
    elif comma and (here[0] == "," or before.endswith(",")):  # Python 3.13 points to the comma, 3.11 behind it
        reason = f"trailing comma before {comma[1]}"
    elif here[0] in "'‘’“”":  # noqa: RUF001 - the quotes that models write
        reason = f"{here[0]} is no JSON quote: use double quotes"
    elif here.startswith(("//", "/*", "#")):
        reason = "JSON has no comments"
    elif here[0] in "]}" and "','" in error.msg:
        reason = f"{here[0]} stands where a comma or {'}' if here[0] == ']' else ']'} is due"
    elif word and meant:
        reason = f"write {meant}, not {word[0]}"
    elif "control character" in error.msg:
        reason = "a string holds a line break or tab: write \\n or \\t"
    else:
        reason = f"{error.msg.removesuffix(' at')} at {_shown(here)}"
    return reason


def _shown(text: str) -> str:
    """Some words of the agent's, quoted, on one line."""
    short = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
    return f'"{short}"' if short.isprintable() and '"' not in short else json.dumps(short)
