"""How much time a process has used: running or sleeping, but not waiting for a processor.

64 busy interpreters on two cores each get 1/32 of a core. Counted by the wall clock they would time each other out;
counted by processor time alone, one that sleeps would never end.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

STARVING_FACTOR = 10
"""Where the kernel does not tell how long a process waited, ten times the wall-clock time is granted to one that is
short of processor time."""


def read_proc(path: str) -> bytes:
    """A small file of /proc. A file object would take three times as long; each interpreter is looked at twice or more.

    Raises:
        OSError: The process has ended.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


class Stopwatch:
    """Measures one process from now on.

    Costs nothing until the first look; waits before it count as used, so it should come soon.

    Args:
        pid: Its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._started = time.monotonic()
        self._first_look: tuple[float | None, float] | None = None

    def used(self) -> float:
        """Seconds in which the process ran or slept."""
        wall = time.monotonic() - self._started
        waited, ran = self._waiting(), self.ran()
        if self._first_look is None:
            self._first_look = waited, ran
        waited_first, ran_first = self._first_look
        if waited_first is None:
            return max(wall / STARVING_FACTOR, ran - ran_first)
        return wall - (waited - waited_first) if waited is not None else wall

    def is_starving(self, ran: float) -> bool:
        """Whether the process has been waiting for a processor all the time since `ran()` was `ran`.

        The kernel adds a wait to its account only when it is over, so `used` is too large meanwhile.
        """
        if self.ran() > ran:
            return False
        try:
            return read_proc(f"/proc/{self._pid}/stat").rpartition(b") ")[2].startswith(b"R")
        except OSError:
            return False

    def ran(self) -> float:
        """Processor time of its whole life, in seconds."""
        with suppress(OSError):  # it has ended
            return time.clock_gettime(~self._pid << 3 | 2)  # the CPU clock of another process: man clock_getcpuclockid
        return 0.0

    def _waiting(self) -> float | None:
        """Seconds that it was ready to run and had no processor; None where the kernel does not say."""
        try:
            return int(read_proc(f"/proc/{self._pid}/schedstat").split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return None
