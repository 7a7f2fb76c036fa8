"""Playing the cells of a run: all of them at once, taking turns, so that the server stays full to the end.

Episodes that lie recorded and graded are kept. A failure of ours is tried again, at most twice, and then recorded
without a verdict. Cancellation (Ctrl-C) loses the episodes in flight and nothing else. Prints nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from keepstate.agents import run_episode
from keepstate.bench.admission import Admission, Seat
from keepstate.bench.cells import Cell
from keepstate.bench.players import Metered, Player, ServerPlayers
from keepstate.bench.tally import CellTally, Progress
from keepstate.errors import UserError
from keepstate.runtimes import Sandbox
from keepstate.tasks.base import Task
from keepstate.traces import write_trace
from keepstate.traces.record import Trace
from keepstate.vocabulary import RuntimeName

RETRIES = 2
"""Further attempts at an episode that failed by our doing."""


@dataclass(frozen=True, slots=True)
class Job:
    """One episode owed."""

    tally: CellTally
    task: Task
    attempt: int = 0


async def run_benchmark(
    cells: Sequence[Cell],
    *,
    player: Player | None = None,
    concurrency: int | None = None,
    pools: dict[str, int | None] | None = None,
    isolation: str | None = None,
    allow_unsafe: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> list[CellTally]:
    """Play what is missing in all cells.

    Args:
        cells: The cells of one run; their folders are made.
        player: Who plays; each cell's model on its server where None.
        concurrency: Episodes at once on each server; the largest of the cells' own where None.
        pools: Tokens that the cache of each server holds, by base URL, where known.
        isolation: Rung of the sandbox; the cells' own where None.
        allow_unsafe: Run model-written code without a sandbox where there is none.
        on_progress: Called at the start and after every episode.

    Returns:
        One tally a cell, in order.

    Raises:
        UserError: A cell was made with another config, the server went away, the disk is full, ...
    """
    for cell in cells:
        if changes := cell.changes():
            raise changed(cell, changes)
    tallies = [CellTally(cell) for cell in cells]
    queues = _owed(tallies)
    limit = concurrency or max((cell.config.concurrency for cell in cells), default=1)
    context = max((cell.config.context for cell in cells), default=1)
    admissions = {url: Admission(limit, (pools or {}).get(url), context) for url in queues}
    progress = Progress(tallies, admissions)
    on_progress(progress)
    if queues:
        async with AsyncExitStack() as stack:
            run = _Run(player or ServerPlayers(stack, limit))
            await run.open_sandboxes(stack, queues, isolation, allow_unsafe)
            await _finish_all(
                run.work(queue, admissions[url], partial(on_progress, progress))
                for url, queue in queues.items()
                for _ in range(min(limit, len(queue)))
            )
    return tallies


def changed(cell: Cell, changes: Sequence[str]) -> UserError:
    """The refusal to mix episodes of two configs in one cell."""
    return UserError(
        f"{cell.folder} was made with another config: {'; '.join(changes)}",
        "repeat with --fresh to replace its results, or with --run NAME to keep both",
    )


def _owed(tallies: Sequence[CellTally]) -> dict[str, deque[Job]]:
    """Jobs by server, the cells taking turns; what lies recorded is counted instead."""
    owed: dict[str, list[deque[Job]]] = defaultdict(list)
    for tally in tallies:
        recorded, tally.replaced = tally.cell.recorded()
        tally.remarks = tally.cell.remarks()
        for verdict in recorded.values():
            tally.keep(verdict)
        jobs = deque(Job(tally, task) for task in tally.cell.tasks if task.name not in recorded)
        if jobs or not (tally.cell.folder / "cell.json").exists():
            tally.cell.write()
        if not jobs:
            tally.cell.summarise()
        else:
            owed[tally.cell.config.base_url].append(jobs)
    return {url: _interleaved(lists) for url, lists in owed.items()}


def _interleaved(lists: Sequence[deque[Job]]) -> deque[Job]:
    """One of each in turn; longer lists are spread evenly among the shorter ones."""
    places = [((index + 0.5) / len(jobs), job) for jobs in lists for index, job in enumerate(jobs)]
    return deque(job for _, job in sorted(places, key=lambda place: place[0]))


class _Run:
    """What the workers share."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._sandboxes: dict[str, Sandbox] = {}
        self._isolation: str | None = None

    async def open_sandboxes(
        self, stack: AsyncExitStack, queues: dict[str, deque[Job]], isolation: str | None, allow_unsafe: bool
    ) -> None:
        """One sandbox for each isolation asked for; none where only react is owed."""
        self._isolation = isolation
        configs = [job.tally.cell.config for queue in queues.values() for job in queue]
        for name in sorted({isolation or c.isolation for c in configs if c.runtime is not RuntimeName.REACT}):
            sandbox = Sandbox(isolation=name, allow_unsafe=allow_unsafe)
            self._sandboxes[name] = await stack.enter_async_context(sandbox)

    async def work(self, queue: deque[Job], admission: Admission, on_progress: Callable[[], None]) -> None:
        """Play jobs until none is left."""
        while queue:
            job = queue.popleft()
            async with admission.seat(job.tally.cell.config.name) as seat:
                trace = await self._play(job, seat)
            if trace.failure is not None and job.attempt < RETRIES:
                queue.append(Job(job.tally, job.task, job.attempt + 1))
                continue
            await _shielded_write(job.tally.cell, trace)
            job.tally.add(trace)
            if job.tally.done == len(job.tally.cell.tasks):
                await asyncio.to_thread(job.tally.cell.summarise)
            on_progress()

    async def _play(self, job: Job, seat: Seat) -> Trace:
        config = job.tally.cell.config
        return await run_episode(
            job.task,
            runtime=config.runtime,
            model=Metered(self._player(job.tally.cell, job.task), seat),
            sandbox=self._sandboxes.get(self._isolation or config.isolation),
            limits=config.limits.episode(config.runtime),
            seed=config.seed,
        )


async def _shielded_write(cell: Cell, trace: Trace) -> None:
    """Write an episode in a thread; a cancelled run still completes the write."""
    loop = asyncio.get_running_loop()
    await asyncio.shield(loop.run_in_executor(None, write_trace, cell.folder, trace))


async def _finish_all(workers: Iterable[object]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker)  # type: ignore[arg-type]
    except* UserError as errors:
        raise _first(errors) from errors


def _first(errors: BaseExceptionGroup[UserError]) -> UserError:
    found = errors.exceptions[0]
    return found if isinstance(found, UserError) else _first(found)
