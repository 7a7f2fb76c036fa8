"""As many threads as the processors have room for, found anew while a program computes on them.

    room = ThreadRoom(torch.get_num_threads())
    ...                                        # a step of a training, or of vLLM's model
    threads = room.look()                      # None where it is too early to tell

Every layer waits for the slowest of its threads. One that shares its processor with another program, be it at the
lowest priority, waits at every wakeup until that one's slice is over. Runs inside the training environment and in
vLLM's processes, and imports nothing but Python's own. Linux; elsewhere it never tells.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

SECONDS = 2.0
"""To look at least: the kernel counts in hundredths, and a moment's work of another program is no reason."""
STAT = Path("/proc/stat")


class ThreadRoom:
    """The processors that nobody else used since it last looked, in threads.

    Args:
        most: Threads at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.forget()

    def forget(self) -> None:
        """What was until now is no measure."""
        self._seen = self._now()

    def look(self) -> int | None:
        """Threads for those that were idle and those that were ours; None where too little is known."""
        then, ours_then, idle_then = self._seen
        now, ours, idle = self._now()
        if now - then < SECONDS or not idle:  # what is free is not known
            return None
        self._seen = now, ours, idle
        free = (ours - ours_then + idle - idle_then) / (now - then)
        return max(1, min(self.most, int(free + 0.5)))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """The time, this process's processor time, and how long its processors were idle since the machine started.

        The last is 0 where the kernel does not tell.
        """
        ticks = 0
        with suppress(OSError, ValueError, IndexError, AttributeError):
            mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            rows = [line.split() for line in STAT.read_text().splitlines()]
            ticks = sum(int(row[4]) + int(row[5]) for row in rows if row[0] in mine)
        return time.monotonic(), time.process_time(), ticks / os.sysconf("SC_CLK_TCK")
