"""Checking traces: does each say what really happened, once, and do the arms of an experiment hold the same tasks?

A trace is checked against itself: the conversation only grew (the hash of every prompt, taken when it was sent), steps
and messages tell the same story, the verdict beside it agrees. Tokens are checked by `keepstate dataset check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from keepstate.files import content_hash
from keepstate.models.base import Message
from keepstate.traces.reader import BadTrace, iter_traces
from keepstate.traces.record import FinishEvent, ModelCallEvent, Trace
from keepstate.traces.recorded import GRADED_FAILURE, UNGRADED, Copy, verdict_copy
from keepstate.traces.writer import trace_path, verdict_path


@dataclass(slots=True)
class TraceCheck:
    """What a check found."""

    checked: int = 0
    problems: dict[Path, list[str]] = field(default_factory=dict)
    """Files with what is wrong in each."""
    unpaired: dict[str, list[str]] = field(default_factory=dict)
    """Tasks that some arms lack, with the arms that lack them."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.unpaired


def check_folders(
    folders: Sequence[Path], *, paired: bool = False, on_progress: Callable[[tuple[int, int]], None] = lambda _: None
) -> TraceCheck:
    """Check every trace below `folders`.

    Args:
        folders: Where to look; with `paired` each is an arm, or if there is only one, each of its subfolders.
        paired: Also name the tasks that not every arm has.
        on_progress: See `iter_traces`.

    Raises:
        UserError: A folder does not exist.
    """
    report = TraceCheck()
    arms: dict[Path, set[str]] = {folder: set() for folder in (_arms(folders) if paired else folders)}
    names: dict[str, str] = {}
    for folder, tasks in arms.items():
        for path, trace in iter_traces(folder, on_progress=on_progress):
            report.checked += 1
            if isinstance(trace, BadTrace):
                report.problems[path] = [trace.reason]
                continue
            if found := [*trace_problems(trace), *_verdict_problems(path, trace)]:
                report.problems[path] = found
            tasks.add(trace.task.content_hash)
            names[trace.task.content_hash] = trace.task.name
    if paired:
        for task, name in sorted(names.items(), key=lambda item: item[1]):
            if lacking := [str(folder) for folder, tasks in arms.items() if task not in tasks]:
                report.unpaired[name] = lacking
    return report


def trace_problems(trace: Trace) -> Iterator[str]:
    """What contradicts itself in a trace."""
    yield from _conversation_problems(trace)
    yield from _prompt_problems(trace)
    yield from _summary_problems(trace)


def _arms(folders: Sequence[Path]) -> list[Path]:
    if len(folders) > 1:
        return list(folders)
    return sorted(path for path in folders[0].iterdir() if path.is_dir()) if folders[0].is_dir() else list(folders)


def turns_problem(messages: Sequence[Message]) -> str | None:
    """Why no server could have held this conversation: the one rule of traces and data sets.

    A system message may come first; then user and assistant alternate, the user first.
    """
    first = 1 if messages and messages[0]["role"] == "system" else 0
    for place, message in enumerate(messages[first:]):
        expected = ("user", "assistant")[place % 2]
        if message["role"] != expected:
            return f"message {first + place} is the {message['role']}'s, the {expected}'s was due"
    return None


def _conversation_problems(trace: Trace) -> Iterator[str]:
    """Roles in order, and the steps' texts where the messages have them."""
    if problem := turns_problem(trace.messages):
        yield problem
        return
    texts = [message["content"] for message in trace.messages]
    answers = [place for place, message in enumerate(trace.messages) if message["role"] == "assistant"]
    for step, (event, answer) in enumerate(zip_longest(trace.steps, answers[: len(trace.steps)])):
        if answer is None or texts[answer] != event.assistant_text:
            yield f"step {step}: message {answer or len(texts)} is not its answer"
        elif event.observation is not None and texts[answer + 1 : answer + 2] != [event.observation]:
            yield f"step {step}: message {answer + 1} is not its observation"


def _prompt_problems(trace: Trace) -> Iterator[str]:
    """Every prompt is a prefix of the conversation, longer than the one before."""
    before = 0
    for event in trace.events:
        if not isinstance(event, ModelCallEvent):
            continue
        if not before < event.num_messages <= len(trace.messages):
            yield f"turn {event.turn}: {event.num_messages} messages were sent after {before}"
        elif content_hash(list(trace.messages[: event.num_messages])) != event.prompt_hash:
            yield f"turn {event.turn}: what was sent is no prefix of the conversation"
        before = event.num_messages


def _summary_problems(trace: Trace) -> Iterator[str]:
    if trace.summary.num_steps != len(trace.steps):
        yield f"summary counts {trace.summary.num_steps} steps, there are {len(trace.steps)}"
    reasons = [str(event.reason) for event in trace.events if isinstance(event, FinishEvent)]
    if reasons != [str(trace.finish_reason)]:
        yield f"finish reason is {trace.finish_reason}, events say {', '.join(reasons) or 'nothing'}"
    if trace.failure and trace.verdict:
        yield GRADED_FAILURE


def _verdict_problems(path: Path, trace: Trace) -> Iterator[str]:
    """Ours has a verdict beside it, equal to the trace's own. Imported traces need none."""
    if "keepstate" not in trace.versions:
        return
    if trace_path(path.parent, trace.task.name) != path:
        yield f"it holds an episode of another task, {trace.task.name}"
        return
    if trace.verdict is None and trace.failure is None:
        yield UNGRADED
    name = verdict_path(path.parent, trace.task.name).name
    copy = verdict_copy(path.parent, trace)
    if copy is Copy.DIFFERENT:
        yield f"verdict {name} differs from the trace's own: repeat the command that wrote it, and it is played again"
    elif copy is not Copy.GOOD:
        what = f"no verdict beside it: {name}" if copy is Copy.MISSING else f"verdict {name}: cannot be read"
        yield f"{what} (the run was cut? repeat the command that wrote it: it is written again)"
