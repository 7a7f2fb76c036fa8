"""Who plays: one client for each model on each server, and the meter that tells admission how long talks are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from keepstate.bench.admission import Seat
from keepstate.bench.cells import Cell
from keepstate.models.base import Model, Relay, Reply, Sampling
from keepstate.models.endpoint import Endpoint
from keepstate.models.server import GRACE_SECONDS, ServerModel
from keepstate.tasks.base import Task
from keepstate.traces.record import known_sum

Player = Callable[[Cell, Task], Model]
"""Who plays a task of a cell: one shared server model, or a script in tests and benchmarks."""


class ServerPlayers:
    """The models of a run, one client for each name, server and sampling."""

    def __init__(self, stack: AsyncExitStack, concurrency: int) -> None:
        self._stack, self._concurrency = stack, concurrency
        self._endpoints: dict[str, Endpoint] = {}
        self._models: dict[object, ServerModel] = {}

    def __call__(self, cell: Cell, task: Task) -> Model:
        """The model of `cell`, shared by all its episodes."""
        config = cell.config
        seconds = config.limits.episode(config.runtime).seconds + GRACE_SECONDS
        key = (config.base_url, config.served_name, config.sampling, config.nothink, seconds)
        if config.base_url not in self._endpoints:
            endpoint = Endpoint(config.base_url, concurrency=self._concurrency)
            self._stack.push_async_callback(endpoint.aclose)
            self._endpoints[config.base_url] = endpoint
        if key not in self._models:
            self._models[key] = ServerModel(
                self._endpoints[config.base_url],
                config.served_name,
                Sampling(**config.sampling.model_dump()),
                nothink=config.nothink,
                seconds=seconds,
            )
        return self._models[key]


class Metered(Relay):
    """A model that keeps its seat told how long the conversation is."""

    def __init__(self, model: Model, seat: Seat) -> None:
        super().__init__(model)
        self._seat = seat

    def passed(self, reply: Reply) -> Reply:
        """The same answer."""
        tokens = known_sum((reply.prompt_tokens, reply.completion_tokens))
        if tokens is not None:  # else the admission goes on expecting what it expected
            self._seat.tokens = tokens
        return reply
