"""Sweeps: several values of what a benchmark config says once, each a cell of its own.

    cells = [cell for config in configs for cell in Sweep(seeds=(0, 1, 2), temperature=(0.0, 0.2)).of(config)]

A cell's folder is named after its config and the values that differ from it, so that it is the same in every sweep.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from keepstate.bench.benchmark_config import BenchmarkConfig
from keepstate.errors import UserError
from keepstate.traces.record import Cap
from keepstate.vocabulary import RuntimeName


@dataclass(frozen=True, slots=True)
class Sweep:
    """Values to play; what is empty stays as a config has it."""

    runtimes: tuple[RuntimeName, ...] = ()
    """Of the config's own kind of agent."""
    seeds: tuple[int, ...] = ()
    """Draws: the same tasks again."""
    tool_calls: tuple[Cap, ...] = ()
    """Of an action; `none` is no cap."""
    temperature: tuple[float, ...] = ()
    """Of the server's draws."""

    def of(self, config: BenchmarkConfig) -> Iterator[BenchmarkConfig]:
        """The config with every combination of the values, in their order; each once.

        Raises:
            UserError: A runtime is of another kind of agent than the config's, with other limits.
        """
        if other := next((name for name in self.runtimes if name.agent != config.runtime.agent), None):
            raise UserError(
                f"--runtime {other}: {config.name} is of {config.runtime}, another kind of agent",
                f"name a config of a {other.agent} agent",
            )
        limits, sampling = config.limits, config.sampling
        own = (config.runtime, limits.tool_calls, sampling.temperature, config.seed)
        given = (self.runtimes, self.tool_calls, self.temperature, self.seeds)
        choices = (dict.fromkeys(several or (one,)) for several, one in zip(given, own, strict=True))
        combinations: Iterator[tuple[Any, ...]] = product(*choices)  # without it mypy at times sees tuples of one
        for values in combinations:
            runtime, calls, temperature, seed = values
            differing = (value if value != one else None for value, one in zip(values, own, strict=True))
            yield config.model_copy(
                update={
                    "runtime": runtime,
                    "limits": limits.model_copy(update={"tool_calls": calls}),
                    "sampling": sampling.model_copy(update={"temperature": temperature}),
                    "seed": seed,
                    "name": _named(config.name, differing),
                }
            )


WORDS = ("{}", "calls{}", "temperature{:g}", "seed{}")
"""What a value adds to the name of a cell."""


def _named(name: str, values: Iterable[object]) -> str:
    """`easy-calls80-temperature0_2-seed1`; of a long name the end."""
    parts = [words.format(value) for words, value in zip(WORDS, values, strict=True) if value is not None]
    return re.sub("[^a-z0-9_-]", "_", "-".join([name, *parts]))[-80:].lstrip("-_")
