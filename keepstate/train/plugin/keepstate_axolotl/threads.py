"""As many threads as the processors have room for, found anew between steps, where a training has no GPU.

Every layer waits for the slowest of its threads. One that shares its processor with another program, be it at the
lowest priority, waits at every wakeup until that one's slice is over. Runs inside the training environment and imports
nothing of keepstate. Does not change what is computed but for the order of sums.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from .standstill import clock

SECONDS = 2.0
"""To look at least: the kernel counts in hundredths, and a moment's work of another program is no reason."""
STAT = Path("/proc/stat")


class Threads(TrainerCallback):  # type: ignore[misc]
    """Sets torch's threads to the processors that nobody else used since it last looked, and says so the first time."""

    def __init__(self, say: Callable[[Any, str], None]) -> None:
        self._most = torch.get_num_threads()
        self._say: Callable[[Any, str], None] | None = say
        self._seen, self._stood = self._look(), clock.stood

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was before, loading and preparing, is no measure."""
        self._seen = self._look()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look, where long enough has passed."""
        if clock.stood != self._stood:  # others worked while it stood still
            self._seen, self._stood = self._look(), clock.stood
        then, ours_then, idle_then = self._seen
        now, ours, idle = self._look()
        if now - then < SECONDS or not idle:  # what is free is not known
            return
        self._seen = now, ours, idle
        threads = room((ours - ours_then + idle - idle_then) / (now - then), self._most)
        if threads < self._most and self._say:
            self._say(
                state, f"other programs are at work: computing with {threads} of {self._most} threads while they are"
            )
            self._say = None
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)

    @staticmethod
    def _look() -> tuple[float, float, float]:
        """The time, this process's processor time, and how long its processors were idle since the machine started.

        The last is 0 where the kernel does not tell.
        """
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = 0
        with suppress(OSError, ValueError, IndexError):
            rows = [line.split() for line in STAT.read_text().splitlines()]
            ticks = sum(int(row[4]) + int(row[5]) for row in rows if row[0] in mine)
        return time.monotonic(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK")


def room(free: float, most: int) -> int:
    """Threads for `free` processors, those that were idle and those that were ours: one at least, `most` at most."""
    return max(1, min(most, int(free + 0.5)))
