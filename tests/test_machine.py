"""How many processors there are and how many of them are free, by the kernel's and the container's word."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keepstate import machine


def test_a_busy_core_is_not_idle() -> None:
    core = min(os.sched_getaffinity(0))
    busy = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {core})
            assert machine.idle_cores(0.3) < 0.2
        finally:
            os.sched_setaffinity(0, before)
            process.kill()


def test_where_the_kernel_does_not_tell_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_idle_ticks", lambda: 0)
    assert machine.idle_cores(0.01) == machine.cores()


def test_an_idle_machine_is_not_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1, 10_000])
    monkeypatch.setattr(machine, "_idle_ticks", lambda: next(ticks))
    assert machine.idle_cores(0.01) == machine.cores()


@pytest.mark.parametrize(("quota", "count"), [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("", 4)])
def test_a_container_has_its_share(quota: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota:
        machine.CPU_QUOTA.write_text(quota)
    assert machine.cores() == count
