"""How many processors there are and how many of them are free, by the kernel's and the container's word."""

import os
import subprocess
import sys
from collections.abc import Iterator
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


NVIDIA_SMI = r"""#!/bin/sh
case "$1" in
-L) printf '%s\n' 'GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa1111-0000)' \
    'GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa2222-0000)' \
    '  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4)' '  MIG 1g.10gb+me  Device  1: (UUID: MIG-c7)' ;;
*memory.free*) printf '%s\n' 1024 2048 ;;
*) printf '%s\n' 'NVIDIA A100-SXM4-80GB, 81920, 580.1, GPU-aaaa1111-0000' \
    'NVIDIA H100 80GB HBM3, 81559, 580.1, GPU-aaaa2222-0000' ;;
esac
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An nvidia-smi that names two, the second of them divided into parts."""
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine.gpus.cache_clear()
    yield
    machine.gpus.cache_clear()


@pytest.mark.parametrize(
    ("named", "numbers"),
    [
        (None, [0, 1]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("0", [0]),
        ("1", [1]),
        ("1,0", [1, 0]),
        (" 0 , 1 ", [0, 1]),
        ("1,-1,0", [1]),
        ("2", []),
        ("0,2,1", [0]),
        ("GPU-aaaa2222-0000", [1]),
        ("GPU-aaaa2", [1]),
        ("gpu-aaaa2", []),
        ("GPU-AAAA2", [1]),
        ("GPU-aaaa", []),
        ("GPU-bbbb", []),
        ("GPU-aaaa2,GPU-aaaa1", [1, 0]),
        ("MIG-c6d4f1ef-42e4", [1]),
        ("MIG-d", []),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    named: str | None, numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert [gpu.number for gpu in machine.visible_gpus()] == numbers
    assert len(machine.gpus()) == 2


@pytest.mark.usefixtures("two_gpus")
def test_a_part_of_a_gpu_has_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c7")
    (part,) = machine.visible_gpus()
    assert (part.memory_gib, part.name, part.uuid) == (10.0, "NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "MIG-c7")
    assert machine.gpu_free_gib() == (1.0, 2.0)


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense", "printf 'a, b, c, d\n'"])
def test_an_nvidia_smi_that_fails_names_no_gpu(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    machine.gpus.cache_clear()
    try:
        assert machine.gpus() == machine.visible_gpus() == ()
        assert machine.gpu_free_gib() == ()
    finally:
        machine.gpus.cache_clear()
