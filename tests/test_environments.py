"""Environments that are made anew: what a link leads to is left alone, and make does not lose its own Python."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keepstate.places import SHIPPED
from keepstate.setup import environments, installing
from keepstate.setup.environments import EnvironmentSpec, State


def test_a_stale_environment_that_is_a_link_is_made_beside_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(wanted: EnvironmentSpec, _: str) -> None:
        wanted.python.parent.mkdir(parents=True)
        wanted.python.touch(0o755)

    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    monkeypatch.setattr(installing, "install", install)
    monkeypatch.setattr(installing, "find_python", lambda _: "python")
    monkeypatch.setattr(installing, "NEEDED_GIB", {"cpu": 0})
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "keepstate-stamp.json").write_text("{}")
    mine = environments.spec("train")
    mine.home.mkdir()
    mine.folder.symlink_to(theirs)
    assert mine.state() is State.STALE
    assert installing.ensure("train") == mine.python
    assert (mine.state(), mine.folder.is_symlink()) == (State.READY, False)
    assert (theirs / "keepstate-stamp.json").read_text() == "{}"


@pytest.mark.slow
def test_make_replaces_the_environment_that_its_own_python_is_of(tmp_path: Path) -> None:
    """As after `. .venv/bin/activate` and a pull that changed the lock."""
    shutil.copy(SHIPPED / "Makefile", tmp_path)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "core.txt").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    command = ["make", f"PYTHON={tmp_path / '.venv' / 'bin' / 'python'}", ".venv/.locked"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
