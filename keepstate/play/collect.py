"""Letting a teacher play every task in one or more runtimes, concurrently, and recording it.

Resumable: an episode that is already recorded, graded, and of the same task, model, seed and limits is not played
again. A failure of ours that stays one (see `keepstate.play.jobs`) is recorded without a verdict, and played again next
time. Selects nothing: a badly played episode is recorded like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from keepstate.agents.recorder import sampling_record
from keepstate.errors import UserError
from keepstate.files import alone_in
from keepstate.models.base import Model, Relay, Reply
from keepstate.play.admission import Admission
from keepstate.play.jobs import Job, play
from keepstate.play.tally import Tally
from keepstate.tasks.base import Task, Verdict
from keepstate.traces.reader import BadTrace
from keepstate.traces.record import DEFAULT_LIMITS, Limits
from keepstate.traces.recorded import Due, OtherEpisode, read_record
from keepstate.vocabulary import AUTO, RuntimeName

BLANK_LINES = re.compile(r"\A\s*[\r\n]")

Teacher = Callable[[Task, RuntimeName], Model]
"""Who plays a task in a runtime: a new scripted teacher each time, or one shared server."""


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What to play, and how."""

    tasks: Sequence[Task]
    runtimes: Sequence[RuntimeName]
    teacher: Teacher
    out: Path
    """Traces of each runtime go to `<out>/<runtime>/`."""
    seed: int = 0
    concurrency: int = 8
    limits: Limits = DEFAULT_LIMITS
    keep_others: bool = False
    """Refuse to replace finished episodes of another task, model, seed, limits or sampling."""


async def collect(
    plan: CollectPlan,
    *,
    isolation: str = AUTO,
    allow_unsafe: bool = False,
    on_progress: Callable[[Sequence[Tally]], None] = lambda _: None,
) -> list[Tally]:
    """Play what is missing.

    Args:
        plan: What to play.
        isolation: Rung of the sandbox.
        allow_unsafe: Run model-written code without a sandbox where there is none.
        on_progress: Called at the start and after every episode.

    Returns:
        One tally a runtime, in order.

    Raises:
        UserError: Nothing could be played as asked (no sandbox, unknown model, full disk, another process plays there
            now, ...).
    """
    tallies = [Tally(str(runtime), plan.out / runtime, len(plan.tasks)) for runtime in plan.runtimes]

    async def over(_: Job) -> None:
        on_progress(tallies)

    with ExitStack() as held:
        for tally in tallies:
            held.enter_context(alone_in(tally.folder))
        jobs = [job for tally in tallies for job in _owed(plan, tally, isolation)]
        others = [file for tally in tallies for file in tally.replaced if isinstance(file, OtherEpisode)]
        if plan.keep_others and others:
            raise UserError(
                f"{len(others)} finished episodes of other options would be replaced, first {others[0].path}:"
                f" {others[0].reason}",
                "repeat with another --out to keep both, or with --fresh to replace them",
            )
        on_progress(tallies)
        await play([(Admission(plan.concurrency), jobs)], allow_unsafe=allow_unsafe, on_over=over)
    return tallies


def _owed(plan: CollectPlan, tally: Tally, isolation: str) -> Iterator[Job]:
    """Episodes to play in one runtime; those that lie recorded are counted instead."""
    runtime = RuntimeName(tally.name)
    for task in plan.tasks:
        verdict = _recorded(plan, tally, task, runtime)
        if verdict is None:
            player = partial(_trainable, plan.teacher, task, runtime, tally)
            yield Job(tally, task, runtime, player, plan.limits.of(runtime), plan.seed, isolation)
        else:
            tally.keep(verdict)


def _recorded(plan: CollectPlan, tally: Tally, task: Task, runtime: RuntimeName) -> Verdict | None:
    """The verdict of exactly this episode, if it lies there."""
    model = plan.teacher(task, runtime)
    due = Due(tally.folder, task.name, task.content_hash, runtime, plan.seed, model.name)
    trace = read_record(due, mend=True)
    if isinstance(trace, BadTrace):
        tally.replaced.append(trace)
        return None
    if trace is None or trace.verdict is None:
        return None
    if trace.limits == plan.limits.of(runtime) and trace.sampling == sampling_record(model):
        return trace.verdict
    tally.replaced.append(OtherEpisode(due.path, "played with other limits or sampling"))
    return None


def _trainable(teacher: Teacher, task: Task, runtime: RuntimeName, tally: Tally) -> Model:
    return Trainable(teacher(task, runtime), tally)


class Trainable(Relay):
    """A teacher without the blank lines before its answers, in what is recorded and in what it is sent back.

    Reasoning parsers of servers leave them there. No template gives them back token for token, as they melt with its
    own newline, so no data set could be made of what is collected with them.
    """

    def __init__(self, teacher: Model, tally: Tally) -> None:
        super().__init__(teacher)
        self._tally = tally

    def passed(self, reply: Reply) -> Reply:
        """The answer without them."""
        text = BLANK_LINES.sub("", reply.text)
        if text == reply.text:
            return reply
        self._tally.trimmed += 1
        return replace(reply, text=text)
