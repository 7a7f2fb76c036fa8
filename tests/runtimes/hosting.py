"""The host's side of the attack suite: bait, processes that must not stay, a loop that must not stall."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ENVIRONMENT_SECRET = "KEEPSTATE_TEST_SECRET"
GROSS_LAG = 1.0
"""Seconds. The target is 0.1, measured by benchmarks/runtimes.py; a test beside others only notices a stall."""


class Host:
    """Files, sockets and limits of this process that an attack may look for, and whether they are as they were."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="keepstate-bait-"))
        self.folder.chmod(0o777)
        self.file = self.folder / "bait.txt"
        self.file.write_text("bait of the host\n")
        self.file.chmod(0o666)
        name = f"keepstate-{os.getpid()}"
        self.sockets = [
            self._bound(socket.socket(socket.AF_INET), ("127.0.0.1", 0)),
            self._bound(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), ("127.0.0.1", 0)),
            self._bound(socket.socket(socket.AF_UNIX), "\0" + name),
            self._bound(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), f"\0{name}-dgram"),
        ]
        self.abstract = name

    @staticmethod
    def _bound(made: socket.socket, address: Any) -> socket.socket:
        made.setblocking(False)
        made.bind(address)
        if made.type == socket.SOCK_STREAM:
            made.listen()
        return made

    def coordinates(self) -> dict[str, object]:
        """What an attacker is told, as if it had guessed it."""
        children = descendants()
        return {
            "pid": os.getpid(),
            "group": os.getpgrp(),
            "zygote": min(children, default=1),
            "file": str(self.file),
            "project": str(Path(__file__).parents[2]),
            "tcp": self.sockets[0].getsockname()[1],
            "udp": self.sockets[1].getsockname()[1],
            "abstract": self.abstract,
            "abstract_dgram": f"{self.abstract}-dgram",
        }

    def state(self) -> dict[str, object]:
        """Everything that an attack must leave as it is."""
        stat = self.file.stat()
        return {
            "content": self.file.read_text(),
            "mode and times": (stat.st_mode, stat.st_mtime_ns, stat.st_uid, stat.st_nlink),
            "attributes": os.listxattr(self.file),
            "folder": sorted(path.name for path in self.folder.iterdir()),
            "limits": [resource.getrlimit(which) for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
            "priority": (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)),
            "reached": [self._reached(each) for each in self.sockets],
        }

    @staticmethod
    def _reached(listening: socket.socket) -> bool:
        with suppress(BlockingIOError):
            if listening.type == socket.SOCK_STREAM:
                listening.accept()[0].close()
            else:
                listening.recv(10)
            return True
        return False

    def close(self) -> None:
        """Remove the bait."""
        for each in self.sockets:
            each.close()
        self.file.unlink()
        self.folder.rmdir()


def _starved() -> float:
    """Seconds for which this thread has waited for a processor; 0 where the kernel does not count them."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


class LagMeter:
    """Longest time for which the event loop did not come round: `async with LagMeter() as lag: ...; lag.worst`.

    Time in which it could have run and no processor was free does not count: that is the load of the machine.
    """

    def __init__(self, interval: float = 0.005) -> None:
        self._interval = interval
        self.worst = 0.0

    async def _measure(self) -> None:
        while True:
            started, starved = time.perf_counter(), _starved()
            await asyncio.sleep(self._interval)
            lag = time.perf_counter() - started - self._interval
            self.worst = max(self.worst, lag - (_starved() - starved))

    async def __aenter__(self) -> LagMeter:
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.sleep(self._interval)
        self._task.cancel()


def _processes() -> dict[int, int]:
    """Parent of every process that runs, by number; dead ones excluded.

    From one look at all of /proc: the kernel's own lists of children leave out living ones while others end.
    """
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):  # no process, or it has ended meanwhile
            state, parent = Path(f"/proc/{int(name)}/stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(name)] = int(parent)
    return found


def children(pid: int | None = None) -> set[int]:
    """Process numbers of those that this process (or `pid`) started itself; not dead ones, nor multiprocessing's own.

    A process pool of an earlier test leaves a tracker of resources behind, which lives as long as this process.
    """
    return _children(pid or os.getpid(), _processes())


def _children(pid: int, parents: dict[int, int]) -> set[int]:
    found = {each for each, parent in parents.items() if parent == pid}
    return {each for each in found if "multiprocessing.resource_tracker" not in _command(each)}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def descendants(root: int | None = None) -> set[int]:
    """Process numbers of everything this process (or `root`) started, directly or not; dead ones excluded."""
    parents = _processes()
    found: set[int] = set()
    open_ends = _children(root or os.getpid(), parents)
    while open_ends:
        found |= open_ends
        open_ends = set().union(*(_children(each, parents) for each in open_ends)) - found
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that still run."""
    return pids & _processes().keys()


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


async def until(condition: Any, seconds: float = 5.0) -> bool:
    """Whether `condition()` becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True


def variables_of(pid: int) -> set[str]:
    """Names in the environment that a process was started with; none of one that has ended or may not be looked at."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return set()
    return {entry.partition("=")[0] for entry in entries if entry}


def holding(pid: int, needles: list[bytes]) -> set[bytes]:
    """Which of `needles` lie in the memory of process `pid`, read from outside through /proc; none if it has ended.

    Raises:
        PermissionError: This process may not look.
    """
    found: set[bytes] = set()
    overlap = max(map(len, needles))
    with (
        suppress(FileNotFoundError, ProcessLookupError),
        open(f"/proc/{pid}/maps") as maps,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
    ):
        for line in maps:
            span, mode = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if "r" not in mode or "[v" in line:
                continue
            tail = b""
            for offset in range(start, end, 1 << 20):
                try:
                    memory.seek(offset)
                    chunk = tail + memory.read(min(1 << 20, end - offset))
                except (OSError, ValueError):
                    break
                found |= {needle for needle in needles if needle in chunk}
                tail = chunk[-overlap:]
    return found
