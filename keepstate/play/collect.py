"""Letting a teacher play every task in one or more runtimes, concurrently, and recording it.

Resumable: an episode that is already recorded, graded, and of the same task, model, seed and limits is not played
again. A failure of ours is recorded without a verdict, counted by its origin, and played again next time. Cancellation
(Ctrl-C) loses the episodes in flight, nothing else. Selects nothing: a badly played episode is recorded like any other.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from keepstate.agents import EpisodeLimits, run_episode
from keepstate.agents.recorder import limits_record, sampling_record
from keepstate.errors import UserError
from keepstate.files import alone_in
from keepstate.models.base import Model, Relay, Reply
from keepstate.runtimes import Sandbox
from keepstate.tasks.base import Task
from keepstate.traces.reader import BadTrace
from keepstate.traces.record import Trace
from keepstate.traces.recorded import Due, OtherEpisode, read_record
from keepstate.traces.writer import write_trace
from keepstate.vocabulary import Origin, RuntimeName

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
    limits: Callable[[RuntimeName], EpisodeLimits] = EpisodeLimits.default
    keep_others: bool = False
    """Refuse to replace finished episodes of another task, model, seed, limits or sampling."""


@dataclass
class Tally:
    """What came of it, by runtime."""

    recorded: Counter[RuntimeName] = field(default_factory=Counter)
    kept: Counter[RuntimeName] = field(default_factory=Counter)
    """Recorded by an earlier run."""
    solved: Counter[RuntimeName] = field(default_factory=Counter)
    """Of both."""
    score: dict[RuntimeName, float] = field(default_factory=lambda: dict.fromkeys(RuntimeName, 0.0))
    """Sum over both."""
    failures: Counter[Origin] = field(default_factory=Counter)
    first_failure: str = ""
    trimmed: int = 0
    """Answers that began with blank lines, which are left out. See `Trainable`."""
    replaced: list[BadTrace] = field(default_factory=list)
    """Files of an earlier run that are no record of an episode that is asked for: it is played, and replaces them."""

    def add(self, trace: Trace, *, kept: bool = False) -> None:
        """Count one episode."""
        if trace.failure is not None:
            self.failures[trace.failure.origin] += 1
            self.first_failure = self.first_failure or f"{trace.task.name}: {trace.failure.message}"
            return
        (self.kept if kept else self.recorded)[trace.runtime] += 1
        if trace.verdict is not None:
            self.solved[trace.runtime] += trace.verdict.is_solved
            self.score[trace.runtime] += trace.verdict.score

    def graded(self, runtime: RuntimeName) -> int:
        """Episodes of `runtime` that lie recorded now."""
        return self.recorded[runtime] + self.kept[runtime]


async def collect(
    plan: CollectPlan,
    *,
    isolation: str = "auto",
    allow_unsafe: bool = False,
    progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Play what is missing.

    Args:
        plan: What to play.
        isolation: Passed on to `Sandbox`.
        allow_unsafe: Passed on to `Sandbox`.
        progress: Called after every episode, and once for those kept.

    Raises:
        UserError: Nothing could be played as asked (no sandbox, unknown model, full disk, another process plays there
            now, ...).
    """
    tally = Tally()
    async with AsyncExitStack() as stack:
        for runtime in plan.runtimes:
            stack.enter_context(alone_in(plan.out / runtime))
        owed = list(_owed(plan, tally))
        others = [file for file in tally.replaced if isinstance(file, OtherEpisode)]
        if plan.keep_others and others:
            raise UserError(
                f"{len(others)} finished episodes of other options would be replaced, first {others[0].path}:"
                f" {others[0].reason}",
                "repeat with another --out to keep both, or with --fresh to replace them",
            )
        progress(tally)
        sandbox = None
        if any(runtime is not RuntimeName.REACT for _, runtime, _ in owed):
            sandbox = await stack.enter_async_context(Sandbox(isolation=isolation, allow_unsafe=allow_unsafe))
        queue = iter(owed)

        async def work() -> None:
            for task, runtime, model in queue:
                trace = await run_episode(
                    task,
                    runtime=runtime,
                    model=Trainable(model, tally),
                    sandbox=sandbox,
                    limits=plan.limits(runtime),
                    seed=plan.seed,
                )
                write_trace(plan.out / runtime, trace)
                tally.add(trace)
                progress(tally)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(plan.concurrency, len(owed))):
                    group.create_task(work())
        except* UserError as errors:
            raise _first(errors) from errors
    return tally


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


def _owed(plan: CollectPlan, tally: Tally) -> Iterator[tuple[Task, RuntimeName, Model]]:
    """Episodes to play, runtime by runtime; those that lie recorded are counted instead."""
    for runtime in plan.runtimes:
        for task in plan.tasks:
            model = plan.teacher(task, runtime)
            trace = _recorded(plan, tally, task, runtime, model)
            if trace is None:
                yield task, runtime, model
            else:
                tally.add(trace, kept=True)


def _recorded(plan: CollectPlan, tally: Tally, task: Task, runtime: RuntimeName, model: Model) -> Trace | None:
    """The graded trace of exactly this episode, if it lies there."""
    due = Due(plan.out / runtime, task.name, task.content_hash, runtime, plan.seed, model.name)
    trace = read_record(due, mend=True)
    if isinstance(trace, BadTrace):
        tally.replaced.append(trace)
    if trace is None or isinstance(trace, BadTrace):
        return None
    same = (
        trace.verdict is not None
        and trace.limits == limits_record(plan.limits(runtime))
        and trace.sampling == sampling_record(model)
    )
    if trace.verdict is not None and not same:
        tally.replaced.append(OtherEpisode(due.path, "played with other limits or sampling"))
    return trace if same else None


def _first(errors: BaseExceptionGroup[UserError]) -> UserError:
    found = errors.exceptions[0]
    return found if isinstance(found, UserError) else _first(found)
