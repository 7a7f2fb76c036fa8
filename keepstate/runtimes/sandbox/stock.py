"""Interpreters in stock: confined and waiting, so that a block that needs a fresh one starts at once.

Making one takes about 4 ms, handing out one from the stock a few microseconds. The stock is filled up when nobody
waits. One stock holds interpreters of one memory limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.sandbox.worker import Worker

FEWEST, MOST = 2, 16
"""Bounds of the stock: each idle interpreter costs 2-3 MB."""
FILL_AFTER_SECONDS = 0.01
"""Making the next one waits until the block for which this one was taken has most likely ended."""
EPISODES_A_SPARE = 4
"""While episodes wait for their model, a few interpreters serve many."""


class Stock:
    """Spare workers.

    Args:
        spawn: Makes one.
    """

    def __init__(self, spawn: Callable[[], Awaitable[Worker]]) -> None:
        self._spawn = spawn
        self._spares: deque[Worker] = deque()
        self._making: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._closed = False
        self.episodes = 0
        """How many may ask."""

    async def take(self) -> Worker:
        """A fresh worker.

        Raises:
            EpisodeFailure: There is none to be had (origin sandbox).
        """
        worker = self._spare()
        if worker is None:
            self._waiting += 1
            try:
                worker = await self._spawn()
            finally:
                self._waiting -= 1
        asyncio.get_running_loop().call_later(FILL_AFTER_SECONDS, self.fill)
        return worker

    def fill(self) -> None:
        """Begin to make what is missing."""
        if self._closed or self._waiting:
            return
        wanted = min(MOST, max(FEWEST, self.episodes // EPISODES_A_SPARE))
        for _ in range(wanted - len(self._spares) - len(self._making)):
            task = asyncio.get_running_loop().create_task(self._make())
            self._making.add(task)
            task.add_done_callback(self._making.discard)

    def close(self) -> None:
        """End the spares."""
        self._closed = True
        for task in self._making:
            task.cancel()
        while worker := self._spare():
            worker.close()

    def _spare(self) -> Worker | None:
        while self._spares:
            worker = self._spares.popleft()
            if worker.is_connected and not worker.is_stopped():
                return worker
            worker.close()
        return None

    async def _make(self) -> None:
        try:
            worker = await self._spawn()
        except EpisodeFailure:
            return  # whoever needs one meets the reason
        if self._closed:
            worker.close()
        else:
            self._spares.append(worker)
