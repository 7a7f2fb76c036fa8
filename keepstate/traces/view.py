"""Showing a trace in a terminal. Control characters that a model or its code wrote are shown, never sent."""

from __future__ import annotations

import json
import re

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from keepstate.traces.record import StepEvent, Trace

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves the cursor, colours the terminal or turns text around; newline and tab stay."""


def show(trace: Trace, console: Console) -> None:
    """Print `trace`: its figures, then every message, each step with what it cost."""
    console.print(_header(trace))
    steps = iter(trace.steps)
    for message in trace.messages:
        role, text = message["role"], message["content"]
        if role == "assistant":
            step = next(steps, None)
            console.print(_panel(_answer_title(step), Text(printable(text)), "green"))
            if step is not None and step.observation is None:
                console.print(_panel("last step, not shown to the agent", _outcome(step), "dim"))
        elif role == "user":
            console.print(_panel("user", _observation(text), "cyan"))
        else:
            console.print(_panel(role, Text(printable(text)), "magenta"))
    if trace.failure:
        console.print(_panel(f"failed: {trace.failure.origin}", Text(printable(trace.failure.message)), "red"))


def printable(text: str) -> str:
    """`text` with control characters, text-direction marks and lone surrogates as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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
