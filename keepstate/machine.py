"""What this machine has and what of it is free: processors, memory, disks, CUDA GPUs.

Asks the operating system and nvidia-smi, never torch.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from keepstate.errors import UserError

GIB = 1 << 30
BF16_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16"})
"""Sets that multiply in bf16, by the kernel's names."""
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds that a container may compute in each period, and the period."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA GPU as nvidia-smi names it."""

    name: str
    memory_gib: float
    driver: str
    number: int = 0
    """As nvidia-smi counts; a part of a GPU (MIG) has its whole's."""
    uuid: str = ""
    """What names it to CUDA whatever the order in which CUDA counts."""


@cache
def gpus() -> tuple[Gpu, ...]:
    """The CUDA GPUs of this machine, empty where there is none or its driver does not answer within 10 s."""
    rows = [[cell.strip() for cell in line.split(",")] for line in _query("name,memory.total,driver_version,uuid")]
    try:
        return tuple(
            Gpu(name, float(mib) / 1024, driver, number, uuid) for number, (name, mib, driver, uuid) in enumerate(rows)
        )
    except ValueError:
        return ()


def visible_gpus() -> tuple[Gpu, ...]:
    """Those of `gpus()` that `CUDA_VISIBLE_DEVICES` leaves, in its order; all where it is not set.

    An entry that names no GPU ends the list, as it does for CUDA: "" and "-1" leave none. Numbers are nvidia-smi's,
    which are CUDA's where `CUDA_DEVICE_ORDER` is PCI_BUS_ID or all GPUs are alike.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return gpus()
    left: list[Gpu] = []
    for entry in named.split(","):
        gpu = _named_gpu(entry.strip())
        if gpu is None:
            break
        left.append(gpu)
    return tuple(left)


def only(gpus: Sequence[Gpu]) -> dict[str, str]:
    """Environment variables with which CUDA sees these GPUs alone, in this order; of no GPU none."""
    names = ",".join(gpu.uuid or str(gpu.number) for gpu in gpus)
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": names} if gpus else {}


def _named_gpu(entry: str) -> Gpu | None:
    """The GPU of one entry: its number, its UUID or the beginning of it, or that of a part of it."""
    if entry.isdecimal():
        return gpus()[int(entry)] if int(entry) < len(gpus()) else None
    known = _gpu_parts() if entry.startswith("MIG-") else gpus() if entry.startswith("GPU-") else ()
    found = [gpu for gpu in known if gpu.uuid.lower().startswith(entry.lower())]
    return found[0] if len(found) == 1 else None


def _gpu_parts() -> list[Gpu]:
    """The parts that GPUs are divided into (MIG). Their memory is in their names: `MIG 3g.20gb`."""
    parts: list[Gpu] = []
    whole: Gpu | None = None
    for line in _ask("-L"):
        if match := re.match(r"GPU (\d+):", line):
            whole = gpus()[int(match[1])] if int(match[1]) < len(gpus()) else None
        elif whole and (match := re.match(r"\s+MIG (\S*?(\d+)gb\S*)\s.*\(UUID: (\S+)\)", line)):
            parts.append(replace(whole, name=f"{whole.name} MIG {match[1]}", memory_gib=float(match[2]), uuid=match[3]))
    return parts


def gpu_free_gib() -> tuple[float, ...]:
    """Free memory of each GPU of `gpus()` at this moment; empty where nvidia-smi does not tell."""
    try:
        return tuple(float(line) / 1024 for line in _query("memory.free"))
    except ValueError:
        return ()


def _query(columns: str) -> list[str]:
    return _ask(f"--query-gpu={columns}", "--format=csv,noheader,nounits")


def _ask(*options: str) -> list[str]:
    """What nvidia-smi says; nothing where it is missing, fails or does not answer within 10 s."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, *options], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


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


def free_disk_gib(folder: Path) -> float:
    """What is free on the disk of `folder`, which may still be to be made."""
    return shutil.disk_usage(_what_is_there(folder)).free / GIB


def _what_is_there(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def require_disk(folder: Path, gib: float, what: str, elsewhere: str) -> None:
    """Refuse to begin what cannot be written, or the disk has no room for.

    Args:
        folder: Where it will lie.
        gib: What it needs.
        what: What it is, for the message.
        elsewhere: How it is put on another disk, for the hint.

    Raises:
        UserError: The place is closed, or less is free.
    """
    try:  # a closed disk mostly says that 0 bytes of it are free
        with tempfile.TemporaryFile(dir=_what_is_there(folder)):
            pass
    except OSError as error:
        raise UserError(
            f"{what} is to be written into {folder}, which cannot be written: {error.strerror}",
            f"let its owner open it, or {elsewhere}",
        ) from error
    free = free_disk_gib(folder)
    if free < gib:
        raise UserError(
            f"{what} needs {gib} GiB of disk, {free:.1f} GiB are free in {folder}", f"free some space, or {elsewhere}"
        )


def cpu_flags() -> frozenset[str]:
    """Instruction sets by the kernel's names (`avx2`, `avx512f`, `amx_bf16`, ...); empty where they are not told."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def lacks_bf16() -> bool:
    """Whether the processor is known to have no bf16 instructions, so that float32 is faster on it.

    AVX2 alone, one thread, a product of SmolLM2-135M, float32 and bf16: 77 and 9 GFLOP/s for 650 tokens, 30 and 8 for
    8. A training of it took 11 s a step in float32, over 40 s in bf16.
    """
    flags = cpu_flags()
    return bool(flags) and flags.isdisjoint(BF16_INSTRUCTIONS)


def is_x86_linux() -> bool:
    """Whether the CPU environments' wheels run here."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")
