"""What this machine has and what of it is free: processors, memory, CUDA GPUs.

Asks the operating system and nvidia-smi, never torch.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

GIB = 1 << 30
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds that a container may compute in each period, and the period."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA GPU as nvidia-smi names it."""

    name: str
    memory_gib: float
    driver: str


@cache
def gpus() -> tuple[Gpu, ...]:
    """The CUDA GPUs, empty where there is none or its driver does not answer within 10 s."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
        return tuple(Gpu(name, float(mib) / 1024, driver) for name, mib, driver in rows)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def gpu_free_gib() -> tuple[float, ...]:
    """Free memory of each GPU of `gpus()` at this moment; empty where nvidia-smi does not tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        return tuple(float(line) / 1024 for line in done.stdout.splitlines() if line.strip())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def cores() -> int:
    """Processors that this process may use, or the container's share of them where that is less."""
    count = len(_processors())
    with suppress(OSError, ValueError):  # no such file, or "max"
        quota, period = CPU_QUOTA.read_text().split()
        count = min(count, max(1, round(float(quota) / float(period))))
    return count


def _processors() -> set[int]:
    """The numbers of those that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def idle_cores(seconds: float = 0.25) -> float:
    """How many of `cores()` nobody used over the next `seconds`; all of them where the kernel does not tell."""
    before = _idle_ticks()
    started = time.monotonic()
    time.sleep(seconds)
    idle, elapsed = _idle_ticks() - before, time.monotonic() - started
    return min(float(cores()), idle / os.sysconf("SC_CLK_TCK") / elapsed) if before else float(cores())


def _idle_ticks() -> int:
    """Clock ticks that the processors of this process were idle or waiting for disks since the machine started."""
    mine = {f"cpu{number}" for number in _processors()}
    try:
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        return sum(int(row[4]) + int(row[5]) for row in rows if row[0] in mine)
    except (OSError, ValueError, IndexError):
        return 0


def memory_gib() -> float:
    """Main memory, or the container's limit where that is lower."""
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no such file, or "max"
        total = min(total, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total / GIB


def cpu_flags() -> frozenset[str]:
    """Instruction sets by the kernel's names (`avx2`, `avx512f`, `amx_bf16`, ...); empty where they are not told."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def is_x86_linux() -> bool:
    """Whether the CPU environments' wheels run here."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
