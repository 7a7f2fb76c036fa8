"""How many interpreters fit into memory, and which one has to go when it runs out.

Every interpreter may use its whole limit, but few do: an idle one costs 2-3 MB. So more are admitted than would fit
with all limits used up, and should that happen, the largest is ended before the machine suffers, and no new ones are
admitted meanwhile. Such an end is a failure of ours, not of the agent. Page tables, which no limit of the kernel
counts, are bounded here too: an interpreter that holds more than its own limit with them is ended, by its code's doing.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from keepstate.errors import EpisodeFailure
from keepstate.machine import memory_gib
from keepstate.runtimes.sandbox.block import WorkerLost
from keepstate.runtimes.sandbox.worker import Worker
from keepstate.vocabulary import Origin

OVERCOMMIT = 16
"""Limits promised per byte that is free: an interpreter of 256 MiB counts as 16, five times what an idle one takes."""
RESERVE_SHARE = 32
LEAST_RESERVE_MIB = 256
"""The largest interpreter is ended when less than 1/32 of the memory, or this, is available."""
SMALLEST_VICTIM_MIB = 32
"""An interpreter below this is not why memory runs out."""
IDLE_MIB = 32
"""More than an interpreter holds before its first block, and than the page tables of an honest one."""
CALM_SECONDS, ALERT_SECONDS = 0.25, 0.05
"""How often to look; two cores fill 0.5 GB in a quarter of a second."""
GONE_LOOKS, GONE_LOOK_SECONDS = 1000, 0.005
"""How often to look whether a process that was killed is gone: 0.3 GB are freed in 20-50 ms."""
LOOKS_A_TURN = 32
"""Interpreters looked at before others get their turn: 15 us each."""


def available_mib() -> float:
    """Memory that can be had without swapping, by the kernel's estimate.

    Pages in the lists of single processors are added: what a process that ended has held lies there, free but not yet
    counted as such, for seconds (all of 378 MiB, measured with Linux 6.18).
    """
    with suppress(OSError):  # no Linux
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024 + _listed_mib()
    return memory_gib() * 1024


def _listed_mib() -> float:
    with suppress(OSError):
        counts = re.findall(rb"^ +count: +(\d+)", Path("/proc/zoneinfo").read_bytes(), re.MULTILINE)
        return sum(map(int, counts)) * resource.getpagesize() / 2**20
    return 0.0


class Seats:
    """Admits episodes while memory lasts; the others wait their turn, in order."""

    def __init__(self) -> None:
        self._capacity_mib = OVERCOMMIT * min(available_mib(), memory_gib() * 1024)
        self._taken_mib = 0
        self._is_short = False
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
        self._admit()

    def hold_back(self, is_short: bool) -> None:
        """Admit nobody beside others while memory is short: who was ended for it would at once be tried again."""
        self._is_short = is_short
        self._admit()

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            next_mib, turn = self._waiting.popleft()
            if not turn.done():
                self._taken_mib += next_mib
                turn.set_result(None)

    def _fits(self, mib: int) -> bool:
        return not self._taken_mib or (not self._is_short and self._taken_mib + mib <= self._capacity_mib)


async def watch(workers: Callable[[], Mapping[Worker, int]], seats: Seats) -> None:
    """Keep memory from running out, until cancelled.

    Args:
        workers: Gives the interpreters in use, and the limit of each in MiB.
        seats: Admit nobody while memory is short.
    """
    reserve = max(LEAST_RESERVE_MIB, memory_gib() * 1024 / RESERVE_SHARE)
    while True:
        await _end_oversized(workers())
        available = available_mib()
        seats.hold_back(available < 2 * reserve)
        if available < reserve:
            await _end_largest(workers(), available)
        await asyncio.sleep(ALERT_SECONDS if available < 3 * reserve else CALM_SECONDS)


async def _end_oversized(workers: Mapping[Worker, int]) -> None:
    """End what holds more than its limit: 4 KiB here and there take twice as much again in page tables."""
    for number, (worker, limit) in enumerate(tuple(workers.items()), 1):
        if worker.is_running and (size := _resident_mib(worker.pid)) > limit + IDLE_MIB:
            reason = f"it held {size:.0f} MiB of memory, its page tables included, where {limit} MiB are allowed"
            worker.kill(WorkerLost("InterpreterExit", reason))
        if number % LOOKS_A_TURN == 0:
            await asyncio.sleep(0)


async def _end_largest(workers: Mapping[Worker, int], available: float) -> None:
    """End one interpreter and wait until it is gone, lest the next look takes its memory for missing still."""
    sizes = [(_resident_mib(worker.pid), worker) for worker in workers]
    size, largest = max(sizes, key=lambda pair: pair[0], default=(0.0, None))
    if largest is None or size < SMALLEST_VICTIM_MIB:
        return
    reason = f"memory ran out ({available:.0f} MiB left): an interpreter of {size:.0f} MiB was ended"
    largest.kill(EpisodeFailure(Origin.SANDBOX, reason))
    for _ in range(GONE_LOOKS):
        if not _resident_mib(largest.pid):
            return
        await asyncio.sleep(GONE_LOOK_SECONDS)


def _resident_mib(pid: int) -> float:
    """What a process holds: its pages, those swapped out, and its page tables."""
    kib = 0
    with suppress(OSError):  # it has ended
        status = os.open(f"/proc/{pid}/status", os.O_RDONLY)
        try:
            lines = os.read(status, 1 << 14).splitlines()
        finally:
            os.close(status)
        kib = sum(int(line.split()[1]) for line in lines if line.startswith((b"VmRSS:", b"VmPTE:", b"VmSwap:")))
    return kib / 1024
