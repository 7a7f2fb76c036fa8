"""Benchmarks: play every task of every cell against one server, resumably, and keep what happened.

A cell is one model (the base or an adapter) in one runtime on one set of tasks. Run `keepstate bench --help`. Starts no
server (that is `keepstate.serve`), but for checkpoints of a training, and judges nothing (that is `keepstate.report`).

    from keepstate.bench.run import bench        # plays; not imported here, so that reading results loads no runtime
    tallies = await bench([read_benchmark_config(path) for path in paths], Path("runs/bench"))
    results = read_results(Path("runs/bench"))
"""

from keepstate.bench.benchmark_config import (
    BenchmarkConfig,
    TaskSource,
    matrix_configs,
    read_benchmark_config,
)
from keepstate.bench.results import CellResult, Episode, read_results

__all__ = [
    "BenchmarkConfig",
    "CellResult",
    "Episode",
    "TaskSource",
    "matrix_configs",
    "read_benchmark_config",
    "read_results",
]
