"""Benchmarks: play every task of every cell against one server, resumably, and keep what happened.

A cell is one model (the base or an adapter) in one runtime on one set of tasks. Run `keepstate bench --help`. Starts no
server (that is `keepstate.serving`) and judges nothing (that is `keepstate.reports`).

    cells = [make_cell(load_config(path), folder) for path in paths]
    tallies = await run_benchmark(cells, concurrency=64)
    results = read_results(folder)
"""

from keepstate.bench.cells import Cell, make_cell
from keepstate.bench.config import BenchmarkConfig, LimitsConfig, SamplingConfig, TaskSource, load_config
from keepstate.bench.matrix import matrix_configs
from keepstate.bench.results import CellResult, Episode, read_results
from keepstate.bench.runner import CellTally, run_benchmark

__all__ = [
    "BenchmarkConfig",
    "Cell",
    "CellResult",
    "CellTally",
    "Episode",
    "LimitsConfig",
    "SamplingConfig",
    "TaskSource",
    "load_config",
    "make_cell",
    "matrix_configs",
    "read_results",
    "run_benchmark",
]
