"""Which rung is taken: the strongest that passes its self-test, never a broken one, never an unsafe one unasked."""

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keepstate.errors import UserError
from keepstate.runtimes import Sandbox
from keepstate.runtimes.sandbox import guest, probe, zygote
from keepstate.vocabulary import Rung

HERE = Path(__file__).parent
LADDER = [Rung.NAMESPACES, Rung.LANDLOCK, Rung.SECCOMP, Rung.PROCESS]


@pytest.fixture(scope="module")
def usable() -> list[Rung]:
    """The rungs of this machine."""
    reports = probe()
    assert [report.rung for report in reports] == LADDER
    for report in reports:
        assert report.usable is not bool(report.reason)
        assert not report.usable or (report.checks and all(check.passed for check in report.checks))
    return [report.rung for report in reports if report.usable]


def enter(**options: object) -> Rung:
    """The rung that a sandbox with these options takes."""

    async def entered() -> Rung:
        async with Sandbox(**options) as sandbox:  # type: ignore[arg-type]
            return sandbox.rung

    return asyncio.run(entered())


def test_auto_takes_the_strongest(usable: list[Rung]) -> None:
    if usable[0] is Rung.PROCESS:
        pytest.skip("this machine has no real rung: the ladder was NOT tested")
    assert enter() == usable[0]
    assert enter(isolation=f"{usable[0]}+") == usable[0]
    assert enter(isolation="seccomp+", allow_unsafe=True) == usable[0]
    for rung in usable:
        assert enter(isolation=rung, allow_unsafe=rung is Rung.PROCESS) == rung


@pytest.mark.parametrize("isolation", ["chroot", "none+", "", "+", "auto+", "landlock++"])
def test_an_unknown_name_is_refused_with_the_known_ones(isolation: str) -> None:
    with pytest.raises(UserError, match=re.escape(repr(isolation))) as caught:
        enter(isolation=isolation)
    assert "namespaces, landlock, seccomp, process" in caught.value.hint


@pytest.mark.parametrize("isolation", ["process", "process+"])
def test_the_unsafe_rung_must_be_allowed(isolation: str) -> None:
    with pytest.raises(UserError, match="no sandbox") as caught:
        enter(isolation=isolation)
    assert "--allow-unsafe" in caught.value.hint
    assert enter(isolation="process", allow_unsafe=True) is Rung.PROCESS


LOCKS = [
    (["unshare"], Rung.LANDLOCK),
    (["mount"], Rung.LANDLOCK),
    (["unshare", "landlock"], Rung.SECCOMP),
]


def locked_down(*calls: str) -> str:
    """What a sandbox says where the kernel refuses these calls."""
    command = [sys.executable, str(HERE / "locked_down.py"), *calls]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout


@pytest.mark.parametrize(("refused", "rung"), LOCKS)
def test_where_the_kernel_refuses_the_next_rung_is_taken(refused: list[str], rung: Rung, usable: list[Rung]) -> None:
    if rung not in usable:
        pytest.skip(f"this machine lacks {rung}: falling to it was NOT tested")
    assert locked_down(*refused) == f"{rung} True\n"


def test_without_any_rung_nothing_runs_and_the_reasons_are_told() -> None:
    told = locked_down("unshare", "landlock", "filter")
    for rung in LADDER[:3]:
        assert f"  {rung}: " in told
    assert "  process: " not in told
    assert "keepstate doctor" in told
    assert "--allow-unsafe" in told


SABOTAGE = {
    "a filter that allows everything": (
        "seccomp.py",
        "return program + _by_number(sorted(blocks.items()))",
        "return [*program[:4], _return(ALLOW)]",
        "exited",  # it became /bin/true
    ),
    "a filter that allows what is not listed": (
        "seccomp.py",
        "for number, block in blocks), _refuse(errno.EPERM)]",
        "for number, block in blocks), _return(ALLOW)]",
        "exited",
    ),
    "sockets": ("syscalls.py", '"shutdown": (48, 210)', '"shutdown": (48, 210), "socket": (41, 198)', "network"),
    "signals": ("seccomp.py", '"kill": _if_one_of(0, (own_pid,))', '"kill": [_return(ALLOW)]', "signals"),
    "files": ("confine.py", "SECCOMP: Files.NONE", "SECCOMP: Files.OWN", "host files"),
    "memory": ("confine.py", "resource.RLIMIT_AS: memory", "", "memory"),
}
"""Defects by file, text, its replacement, and a word of what the self-test must say."""


@pytest.mark.parametrize(("file", "old", "new", "check"), SABOTAGE.values(), ids=SABOTAGE.keys())
def test_a_broken_rung_is_not_used(
    file: str, old: str, new: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: list[Rung]
) -> None:
    """Each defect leaves honest programs unharmed: only trying tells."""
    if Rung.SECCOMP not in usable:
        pytest.skip("this machine lacks seccomp: the self-test was NOT tested")
    copy = shutil.copytree(Path(guest.__file__).parent, tmp_path / "guest")
    text = (copy / file).read_text()
    assert text.count(old) == 1, "the sabotage has lost its place"
    (copy / file).write_text(text.replace(old, new))
    monkeypatch.setattr(guest, "__file__", str(copy / "__init__.py"))
    with pytest.raises(UserError, match=rf"self-test .*{check}"):
        enter(isolation=Rung.SECCOMP)


def test_a_leaking_environment_is_noticed(monkeypatch: pytest.MonkeyPatch, usable: list[Rung]) -> None:
    monkeypatch.setattr(zygote, "ENVIRONMENT", {**zygote.ENVIRONMENT, "API_KEY": "secret"})
    with pytest.raises(UserError, match=r"self-test failed: environment .*API_KEY"):
        enter(isolation=usable[-1], allow_unsafe=True)
