"""From configs to results: ask the servers, make the cells, play them. What `keepstate bench` and the demo call.

    tallies = await bench(configs, Path("runs/bench"))

All cells are played at once, taking turns, so that the server stays full to the end. Episodes that lie recorded and
graded are kept. How jobs are played: `keepstate.play.jobs`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import cache, partial
from pathlib import Path

from keepstate.bench.benchmark_config import BenchmarkConfig
from keepstate.bench.cells import ELSEWHERE, Cell, make_cell
from keepstate.bench.served import ServerInfo, Watch, ask_servers, told_alike
from keepstate.errors import UserError
from keepstate.models.base import Model
from keepstate.models.endpoint import Endpoint
from keepstate.models.server import GRACE_SECONDS, ServerModel
from keepstate.play.admission import Pools
from keepstate.play.engine import Engine
from keepstate.play.jobs import Job, play
from keepstate.play.tally import Tally
from keepstate.processes import alone_in
from keepstate.resume import OtherWork
from keepstate.tasks.base import Task
from keepstate.traces.recorded import finished_others

Player = Callable[[Cell, Task], Model]
"""Who plays a task of a cell: a script, in tests and benchmarks."""
_PlayerOn = Callable[[Cell, Task, str], Model]
"""Who plays it on one of the servers."""


async def bench(
    configs: Sequence[BenchmarkConfig],
    run: Path,
    *,
    fresh: bool = False,
    concurrency: int | None = None,
    isolation: str | None = None,
    allow_unsafe: bool = False,
    engine: Engine | None = None,
    on_progress: Callable[[Sequence[Tally]], None] = lambda _: None,
) -> list[Tally]:
    """Play every cell against its server.

    Args:
        configs: One a cell.
        run: Folder of the run; each cell gets one inside.
        fresh: Replace what other options made.
        concurrency: Episodes at once on each server, also on each of several alike; the largest of the configs' own
            where None.
        isolation: Rung of the sandbox; the configs' own where None.
        allow_unsafe: Run model-written code without a sandbox where there is none.
        engine: The machines that play; this one where None.
        on_progress: See `play_cells`.

    Raises:
        UserError: Two configs have one name, no server answers, it lacks a model, the results there are of another
            config, or another process plays there now.
    """
    names = [config.name for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one config is named {twice[0]}", "give each its own name: it is the cell's folder")
    servers = await _servers(configs)
    served = [told_alike(servers[config.base_url], config) for config in configs]
    tasks = {source: source.load() for source in dict.fromkeys(config.tasks for config in configs)}
    cells = [make_cell(config, run, says, tasks[config.tasks]) for config, says in zip(configs, served, strict=True)]
    with ExitStack() as held:
        for cell in cells:
            held.enter_context(alone_in(cell.folder))
        return await play_cells(
            cells,
            fresh=fresh,
            concurrency=concurrency,
            pools={url: {server.base_url: server.pool_tokens for server in alike} for url, alike in servers.items()},
            isolation=isolation,
            allow_unsafe=allow_unsafe,
            engine=engine,
            on_progress=on_progress,
        )


async def _servers(configs: Sequence[BenchmarkConfig]) -> dict[str, list[ServerInfo]]:
    """The servers behind each base URL."""
    urls = dict.fromkeys(config.base_url for config in configs)
    return {url: await ask_servers(url, [config for config in configs if config.base_url == url]) for url in urls}


async def play_cells(  # noqa: PLR0913 - one parameter an option
    cells: Sequence[Cell],
    *,
    player: Player | None = None,
    fresh: bool = False,
    concurrency: int | None = None,
    pools: Mapping[str, Mapping[str, int | None]] | None = None,
    isolation: str | None = None,
    allow_unsafe: bool = False,
    engine: Engine | None = None,
    on_progress: Callable[[Sequence[Tally]], None] = lambda _: None,
) -> list[Tally]:
    """Play what is missing in all cells.

    Args:
        cells: The cells of one run; their folders are made.
        player: Who plays; each cell's model on its server where None.
        fresh: Replace what other options made.
        concurrency: Episodes at once on each server; the largest of the cells' own where None.
        pools: The servers behind each base URL of the cells, where it is not itself one, and the tokens that the cache
            of each holds, where known.
        isolation: Rung of the sandbox; the cells' own where None.
        allow_unsafe: Run model-written code without a sandbox where there is none.
        engine: The machines that play; this one where None.
        on_progress: Called at the start and after every episode.

    Returns:
        One tally a cell, in order.

    Raises:
        UserError: A cell was made with another config, the server went away, the disk is full, ...
    """
    limit = concurrency or max((cell.config.concurrency for cell in cells), default=1)
    context = max((cell.config.context for cell in cells), default=1)
    max_tokens = max((cell.config.sampling.max_tokens for cell in cells), default=0)
    tallies = [Tally(cell.config.name, cell.folder, len(cell.tasks)) for cell in cells]
    kept = _kept(cells, tallies, fresh=fresh)
    in_folder = {cell.folder: cell for cell in cells}

    async def over(job: Job) -> None:
        if job.tally.done == job.tally.total:
            await asyncio.to_thread(in_folder[job.tally.folder].summarise)
        on_progress(tallies)

    async with AsyncExitStack() as stack:
        players = _ServerPlayers(stack, limit)

        def on(cell: Cell, task: Task, server: str) -> Model:
            return player(cell, task) if player else players(cell, server)

        owed: dict[str, list[list[Job]]] = defaultdict(list)
        for cell, tally, names in zip(cells, tallies, kept, strict=True):
            if jobs := _owed(cell, tally, names, on, isolation):
                owed[cell.config.base_url].append(jobs)
        on_progress(tallies)
        alike = {url: (pools or {}).get(url) or {url: None} for url in owed}
        admissions = {url: Pools(alike[url], context).admission(limit, alike[url], max_tokens) for url in owed}
        queues = [(admissions[url], _interleaved(lists)) for url, lists in owed.items()]
        await play(queues, allow_unsafe=allow_unsafe, engine=engine, on_over=over)
    return tallies


def _kept(cells: Sequence[Cell], tallies: Sequence[Tally], *, fresh: bool) -> list[set[str]]:
    """Tasks of each cell that lie recorded, which are counted.

    Raises:
        OtherWork: Finished episodes of other options lie in a cell, and are not to be replaced.
    """
    kept: list[set[str]] = []
    others: dict[str, Sequence[str]] = {}
    for cell, tally in zip(cells, tallies, strict=True):
        recorded, tally.replaced = cell.recorded()
        others |= cell.others() | finished_others(cell.folder, tally.replaced)
        for verdict in recorded.values():
            tally.keep(verdict)
        tally.remarks = cell.remarks()
        kept.append(set(recorded))
    if others and not fresh:
        raise OtherWork(others, ELSEWHERE)
    return kept


def _owed(cell: Cell, tally: Tally, kept: set[str], player: _PlayerOn, isolation: str | None) -> list[Job]:
    """What is to be played of a cell."""
    config, changed = cell.config, bool(cell.changes())
    begin = cache(cell.successor() if changed else cell.drop_summaries)
    jobs = [
        Job(
            tally,
            task,
            config.runtime,
            partial(player, cell, task),
            config.limits,
            config.seed,
            isolation or config.isolation,
            begin,
        )
        for task in cell.tasks
        if task.name not in kept
    ]
    if not changed and (jobs or not cell.exists()):
        cell.write()
    if not jobs:
        cell.summarise()
    return jobs


def _interleaved(lists: Sequence[Sequence[Job]]) -> list[Job]:
    """One of each in turn; longer lists are spread evenly among the shorter ones."""
    places = [((index + 0.5) / len(jobs), job) for jobs in lists for index, job in enumerate(jobs)]
    return [job for _, job in sorted(places, key=lambda place: place[0])]


class _ServerPlayers:
    """The models of a run, one client for each name, server and sampling."""

    def __init__(self, stack: AsyncExitStack, concurrency: int) -> None:
        self._stack, self._concurrency = stack, concurrency
        self._endpoints: dict[str, Endpoint] = {}
        self._models: dict[object, ServerModel] = {}

    def __call__(self, cell: Cell, server: str) -> Model:
        """The model of `cell` on a server, shared by all its episodes there."""
        config = cell.config
        seconds = config.limits.seconds + GRACE_SECONDS
        key = (server, config.served_name, config.sampling, config.nothink, seconds)
        if server not in self._endpoints:
            endpoint = Endpoint(server, concurrency=self._concurrency)
            self._stack.push_async_callback(endpoint.aclose)
            self._endpoints[server] = endpoint
        if key not in self._models:
            self._models[key] = ServerModel(
                self._endpoints[server],
                config.served_name,
                config.sampling,
                nothink=config.nothink,
                seconds=seconds,
                believe=Watch(cell.served, server, config.served_name),
            )
        return self._models[key]
