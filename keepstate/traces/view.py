"""Showing a trace in a terminal. Control characters that a model or its code wrote are shown, never sent."""

from __future__ import annotations

import json
import re

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from keepstate.traces.record import StepEvent, Trace

CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""What moves the cursor, colours the terminal, turns text around or is not seen; newline and tab stay."""


def show(trace: Trace, console: Console, *, errors_only: bool = False) -> None:
    """Print `trace`: its figures, then every message, each step with what it cost.

    Args:
        trace: What is shown.
        console: Where.
        errors_only: Of the messages only the answers whose step ended in an error, and what that was.
    """
    console.print(_header(trace))
    steps = iter(trace.steps)
    for message in trace.messages:
        role, text = message["role"], message["content"]
        if role == "assistant":
            step = next(steps, None)
            failed = step is not None and step.interpreter_result.error_type is not None
            if failed or not errors_only:
                console.print(_panel(_answer_title(step), Text(printable(text)), "green"))
            if step is not None and (failed if errors_only else step.observation is None):
                title = "what it did" if step.observation else "last step, not shown to the agent"
                console.print(_panel(title, _outcome(step), "red" if failed else "dim"))
        elif errors_only:
            continue
        elif role == "user":
            console.print(_panel("user", _observation(text), "cyan"))
        else:
            console.print(_panel(role, Text(printable(text)), "magenta"))
    if trace.failure:
        console.print(_panel(f"failed: {trace.failure.origin}", Text(printable(trace.failure.message)), "red"))


def printable(text: str) -> str:
    """`text` with control characters, text-direction marks, invisible ones and lone surrogates as escapes."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _header(trace: Trace) -> Table:
    verdict, usage = trace.verdict, trace.summary.token_usage
    graded = (
        f"score {verdict.score:.3f}, {'solved' if verdict.is_solved else 'not solved'}" if verdict else "not graded"
    )
    errors = ", ".join(f"{count} {name}" for name, count in trace.summary.errors.items()) or "none"
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("task", f"{trace.task.name} ({trace.task.difficulty})"),
        ("runtime", f"{trace.runtime}, isolation {trace.rung or 'unknown'}"),
        ("model", trace.model),
        ("verdict", f"{graded}; ended by {trace.finish_reason}"),
        ("steps", f"{trace.summary.num_steps}; the agent's errors: {errors}"),
        ("tokens", f"{_count(usage.prompt_tokens)} prompt + {_count(usage.completion_tokens)} completion"),
    ):
        table.add_row(Text(name, style="bold"), Text(printable(value)))
    return table


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"


def _answer_title(step: StepEvent | None) -> str:
    if step is None:
        return "assistant"
    seconds = step.interpreter_result.seconds  # 0 where nothing ran or nobody measured
    action = f", action {seconds:.2f} s" if seconds else ""
    return f"assistant, turn {step.turn} ({_count(step.token_usage.completion_tokens)} tokens{action})"


def _observation(text: str) -> RenderableType:
    """The parts of a JSON observation on lines of their own; any other text as it is."""
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        parts = None
    if not isinstance(parts, dict) or not parts:
        return Text(printable(text))
    rows = []
    for name, value in parts.items():
        body = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append(Text.assemble((f"{printable(name)}: ", "bold"), printable(body)))
    return Group(*rows)


def _outcome(step: StepEvent) -> Text:
    result = step.interpreter_result
    calls = "\n".join(f"[{call.tool}] {call.error or call.output}" for call in result.results)
    return Text(printable("\n".join(part for part in (calls, result.output, result.error) if part) or "no output"))


def _panel(title: str, body: RenderableType, style: str) -> Panel:
    return Panel(body, title=Text(title), title_align="left", border_style=style)
