"""From configs to results: ask the servers, make the cells, play them. What `keepstate bench` and the demo call.

tallies = await bench(configs, Path("runs/bench"))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from keepstate.bench.cells import Cell, make_cell
from keepstate.bench.config import BenchmarkConfig
from keepstate.bench.runner import run_benchmark
from keepstate.bench.server import ServerInfo, ask_server
from keepstate.bench.tally import CellTally, Progress
from keepstate.errors import UserError
from keepstate.files import alone_in


async def bench(
    configs: Sequence[BenchmarkConfig],
    run: Path,
    *,
    fresh: bool = False,
    concurrency: int | None = None,
    isolation: str | None = None,
    allow_unsafe: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> list[CellTally]:
    """Play every cell against its server.

    Args:
        configs: One a cell.
        run: Folder of the run; each cell gets one inside.
        fresh: Replace results that were made with another config.
        concurrency: Episodes at once on each server; the largest of the configs' own where None.
        isolation: Rung of the sandbox; the configs' own where None.
        allow_unsafe: Run model-written code without a sandbox where there is none.
        on_progress: See `run_benchmark`.

    Raises:
        UserError: Two configs have one name, no server answers, it lacks a model, the results there are of another
            config, or another process plays there now.
    """
    names = [config.name for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one config is named {twice[0]}", "give each its own name: it is the cell's folder")
    servers = await _servers(configs)
    served = [servers[config.base_url].served(config) for config in configs]
    tasks = {source: source.load() for source in dict.fromkeys(config.tasks for config in configs)}
    cells = [make_cell(config, run, says, tasks[config.tasks]) for config, says in zip(configs, served, strict=True)]
    with ExitStack() as held:
        for cell in cells:
            held.enter_context(alone_in(cell.folder))
        if fresh:
            _clear(cells)
        return await run_benchmark(
            cells,
            concurrency=concurrency,
            pools={url: server.pool_tokens for url, server in servers.items()},
            isolation=isolation,
            allow_unsafe=allow_unsafe,
            on_progress=on_progress,
        )


async def _servers(configs: Sequence[BenchmarkConfig]) -> dict[str, ServerInfo]:
    urls = dict.fromkeys(config.base_url for config in configs)
    return {url: await ask_server(url, [config for config in configs if config.base_url == url]) for url in urls}


def _clear(cells: Sequence[Cell]) -> None:
    for cell in cells:
        if cell.changes():
            cell.clear()
