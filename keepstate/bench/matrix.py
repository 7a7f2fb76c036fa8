"""Every cell there is: the base and each adapter in each runtime whose answers it can give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keepstate.bench.config import BenchmarkConfig, TaskSource
from keepstate.vocabulary import Adapter


def matrix_configs(
    tasks: TaskSource, label: str, *, adapters: Sequence[Adapter] = tuple(Adapter), **settings: Any
) -> Iterator[BenchmarkConfig]:
    """One config a cell, named `<adapter>-<runtime>-<label>`: eight of them with all adapters.

    Args:
        tasks: The same tasks for all cells, so that cells compare task by task.
        label: Of the tasks, usually their difficulty.
        adapters: Who is measured.
        settings: Further fields of `BenchmarkConfig`, the same for all.
    """
    for adapter in adapters:
        for runtime in adapter.runtimes:
            yield BenchmarkConfig(
                name=f"{adapter}-{runtime}-{label}", adapter=adapter, runtime=runtime, tasks=tasks, **settings
            )
