"""Which Python an environment is made with: one that its locks have wheels for, wherever it lies; uv may fetch it."""

import platform
import sys
from pathlib import Path

import pytest

from keepstate import machine
from keepstate.errors import UserError
from keepstate.setup import environments, interpreters
from keepstate.setup.environments import EnvironmentSpec, Release
from keepstate.setup.interpreters import find_python, python_version
from keepstate.vocabulary import Engines

RUNNING = ".".join(platform.python_version_tuple()[:2])


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only Python is the running one; what a test puts into `bin` is on its PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(machine, "is_x86_linux", lambda: True)
    monkeypatch.setattr(interpreters, "SYSTEM", tmp_path / "usr")
    monkeypatch.setattr(environments, "RELEASES", dict(environments.RELEASES))
    return tmp_path


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def wanted(home: Path, *versions: str) -> EnvironmentSpec:
    """An environment whose lock files hold wheels for `versions`."""
    environments.RELEASES["train", "cpu", Engines.CURRENT] = Release("axolotl", "9", versions)
    return EnvironmentSpec("train", "cpu", home, Engines.CURRENT)


def test_the_running_one_is_taken_where_it_will_do(bare: Path) -> None:
    program(bare / "bin" / "python3.98", "echo 3.98")
    assert find_python(wanted(bare, "3.98", RUNNING)) == sys.executable


@pytest.mark.parametrize("place", ["bin/python3.98", "usr/python3.98", "pyenv/versions/3.98.7/bin/python3.98"])
def test_another_version_is_found_where_systems_and_pyenv_lay_it(bare: Path, place: str) -> None:
    there = program(bare / place, "echo 3.98")
    assert find_python(wanted(bare, "3.97", "3.98")) == str(there)


def test_a_shim_that_fails_or_is_of_another_version_is_passed_over(bare: Path) -> None:
    program(bare / "bin" / "python3.98", "exit 127")
    program(bare / "usr" / "python3.98", "echo 3.9")
    there = program(bare / "pyenv/versions/3.98.1/bin/python3.98", "echo 3.98")
    assert find_python(wanted(bare, "3.98")) == str(there)


def test_uv_finds_its_own_and_fetches_what_is_missing_only_when_asked(bare: Path) -> None:
    python = bare / "fetched"
    script = f"""
        case "$1 $2 $3" in
        "python find 3.98") test -e {python} && echo {python} ;;
        "python install 3.98") /bin/cp {program(bare / "python", "echo 3.98")} {python} ;;
        *) exit 3 ;;
        esac
    """
    program(bare / "bin" / "uv", script)
    with pytest.raises(UserError, match=r"no Python 3\.98 found"):
        find_python(wanted(bare, "3.98"))
    assert find_python(wanted(bare, "3.98"), fetch=True) == str(python)
    assert find_python(wanted(bare, "3.98")) == str(python)


def test_where_there_is_none_the_ways_to_one_are_told(bare: Path) -> None:
    program(bare / "bin" / "uv", "exit 2")  # as with UV_PYTHON_DOWNLOADS=never
    with pytest.raises(UserError) as told:
        find_python(wanted(bare, "3.97", "3.98"), fetch=True)
    assert "no Python 3.97 or 3.98 found" in told.value.message
    assert "axolotl 9" in told.value.message
    assert "pyenv install 3.97" in told.value.hint
    assert "keepstate setup train --engines current" in told.value.hint
    environments.RELEASES["train", "cpu", Engines.MEASURED] = Release("axolotl", "8", (RUNNING,))
    with pytest.raises(UserError) as told:
        find_python(wanted(bare, "3.97"))
    assert (
        f"or take axolotl 8, which Python {RUNNING} will do for: keepstate setup train --engines measured"
        in told.value.hint
    )


def test_the_version_of_what_does_not_run_is_not_known(tmp_path: Path) -> None:
    assert python_version(str(tmp_path / "none")) is None
    assert python_version(sys.executable) == RUNNING
