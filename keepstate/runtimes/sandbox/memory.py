"""How many interpreters fit into memory, and which one has to go when it runs out.

Every interpreter may use its whole limit, but few do: an idle one costs 2-3 MB. So more are admitted than would fit
with all limits used up, and should that happen, the largest are ended before the machine suffers. Such an end is a
failure of ours, not of the agent.
"""

from __future__ import annotations

import asyncio
import resource
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from keepstate.errors import EpisodeFailure
from keepstate.machine import memory_gib
from keepstate.runtimes.sandbox.worker import Worker
from keepstate.vocabulary import Origin

OVERCOMMIT = 16
"""Limits promised per byte that is free: an interpreter of 256 MiB counts as 16, five times what an idle one takes."""
RESERVE_SHARE = 32
LEAST_RESERVE_MIB = 256
"""The largest interpreter is ended when less than 1/32 of the memory, or this, is available."""
SMALLEST_VICTIM_MIB = 32
"""An interpreter below this is not why memory runs out."""
CALM_SECONDS, ALERT_SECONDS = 0.25, 0.05
"""How often to look; two cores fill 0.5 GB in a quarter of a second."""


def available_mib() -> float:
    """Memory that can be had without swapping, by the kernel's estimate."""
    with suppress(OSError):  # no Linux
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    return memory_gib() * 1024


class Seats:
    """Admits episodes while memory lasts; the others wait their turn, in order."""

    def __init__(self) -> None:
        self._capacity_mib = OVERCOMMIT * min(available_mib(), memory_gib() * 1024)
        self._taken_mib = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, mib: int) -> None:
        """Wait for a seat of this size."""
        if self._waiting or not self._fits(mib):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((mib, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give_back(mib)
                raise
            return
        self._taken_mib += mib

    def give_back(self, mib: int) -> None:
        """Free a seat of this size."""
        self._taken_mib -= mib
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            next_mib, turn = self._waiting.popleft()
            if not turn.done():
                self._taken_mib += next_mib
                turn.set_result(None)

    def _fits(self, mib: int) -> bool:
        return not self._taken_mib or self._taken_mib + mib <= self._capacity_mib


async def watch(workers: Callable[[], Iterable[Worker]]) -> None:
    """End the largest worker whenever memory runs out, until cancelled."""
    reserve = max(LEAST_RESERVE_MIB, memory_gib() * 1024 / RESERVE_SHARE)
    while True:
        available = available_mib()
        if available < reserve:
            sizes = [(_resident_mib(worker.pid), worker) for worker in workers()]
            size, largest = max(sizes, key=lambda pair: pair[0], default=(0.0, None))
            if largest is not None and size >= SMALLEST_VICTIM_MIB:
                reason = f"memory ran out ({available:.0f} MiB left): an interpreter of {size:.0f} MiB was ended"
                largest.kill(EpisodeFailure(Origin.SANDBOX, reason))
                await asyncio.sleep(0)
                continue
        await asyncio.sleep(ALERT_SECONDS if available < 3 * reserve else CALM_SECONDS)


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has ended
        return 0.0
    return pages * resource.getpagesize() / 2**20
