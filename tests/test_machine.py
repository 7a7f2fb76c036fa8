"""How much of the processors is free is read off the kernel's clock ticks."""

import os
import subprocess
import sys

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
