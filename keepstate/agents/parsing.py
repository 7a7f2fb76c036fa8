"""Reading an answer of the model: the one action in it, or what is wrong with it.

CodeAct: free thought and exactly one fenced python block. ReAct: `Thought:` and exactly one `Action:` with a JSON list.
Linear time on any text. Does not judge the code, nor whether the tools exist: the runtime does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from keepstate.vocabulary import RuntimeName

PYTHON_LABELS = frozenset({"python", "py", "python3"})
FENCE = "```"
ACTION = "Action:"


@dataclass(frozen=True, slots=True)
class Answer:
    """One parsed answer: either an action or a problem, never both."""

    action: str | None = None
    """Python source, or the text of a JSON list of tool calls."""
    problem: str | None = None
    """What the agent is told instead; nothing was executed."""


@dataclass(slots=True)
class _Block:
    """A fenced block while it is read."""

    ticks: int
    label: str
    lines: list[str]
    closed: bool = False


def parse_answer(runtime: RuntimeName, text: str, *, truncated: bool = False) -> Answer:
    """Find the action in `text`.

    Args:
        runtime: Decides the format.
        text: The answer as received.
        truncated: The answer hit its token limit; a broken action is then explained by that.
    """
    answer = _parse_react(text) if runtime is RuntimeName.REACT else _parse_codeact(text)
    if answer.problem and truncated:
        return Answer(problem=f"{answer.problem} Your answer was cut at the token limit: be brief.")
    return answer


def _parse_codeact(text: str) -> Answer:
    blocks = [block for block in _fenced_blocks(text) if block.label in PYTHON_LABELS]
    if not blocks:
        return Answer(problem=f"Nothing was executed: no code block. Write exactly one {FENCE}python block.")
    if len(blocks) > 1:
        return Answer(
            problem=f"Nothing was executed: {len(blocks)} code blocks. Write exactly one {FENCE}python block."
        )
    if not blocks[0].closed:
        return Answer(problem=f"Nothing was executed: the code block is not closed by a line {FENCE}.")
    return Answer(action="\n".join(blocks[0].lines))


def _fenced_blocks(text: str) -> list[_Block]:
    """Every fenced block of a Markdown text, by CommonMark's rules for backtick fences outside of lists."""
    blocks: list[_Block] = []
    open_block: _Block | None = None
    for line in text.split("\n"):
        ticks, label = _fence(line)
        if open_block is None:
            if ticks:
                open_block = _Block(ticks, label.split(maxsplit=1)[0].lower() if label else "", [])
                blocks.append(open_block)
        elif ticks >= open_block.ticks and not label:
            open_block.closed, open_block = True, None
        else:
            open_block.lines.append(line)
    return blocks


def _fence(line: str) -> tuple[int, str]:
    """How many backticks a fence line opens with and its label; (0, "") where the line is no fence."""
    body = line.lstrip(" ")
    label = body.lstrip("`")
    ticks = len(body) - len(label)
    if ticks < len(FENCE) or len(line) - len(body) > 3 or "`" in label:
        return 0, ""
    return ticks, label.strip()


def _parse_react(text: str) -> Answer:
    actions = [line_start for line_start in _line_starts(text) if text.startswith(ACTION, line_start)]
    if not actions:
        return Answer(problem='No tool was called: no action. Write Action: [{"tool": ..., "args": {...}}].')
    if len(actions) > 1:
        return Answer(
            problem=f"No tool was called: {len(actions)} actions. Write exactly one line that starts with Action:."
        )
    body = _unfenced(text[actions[0] + len(ACTION) :].strip())
    if not body.startswith("["):
        return Answer(problem="No tool was called: Action: must be followed by a JSON list of tool calls.")
    try:
        _, end = json.JSONDecoder().raw_decode(body)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "unreadable value"
        return Answer(problem=f"No tool was called: the action is not valid JSON ({reason}).")
    if body[end:].strip():
        return Answer(problem="No tool was called: text follows the action. End your answer after the JSON list.")
    return Answer(action=body[:end])


def _line_starts(text: str) -> list[int]:
    starts = [0]
    while (newline := text.find("\n", starts[-1])) >= 0:
        starts.append(newline + 1)
    return starts


def _unfenced(body: str) -> str:
    """`body` without a code fence that is all around it."""
    first, newline, rest = body.partition("\n")
    if newline and first.startswith(FENCE) and rest.endswith(FENCE):
        return rest.removesuffix(FENCE).strip()
    return body
