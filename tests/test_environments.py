"""Environments that are made anew: what a link leads to is left alone, and make does not lose its own Python."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keepstate.errors import UserError
from keepstate.places import SHIPPED
from keepstate.setup import environments, installing, ray
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


def test_ray_is_installed_once_as_locked_and_what_keeps_it_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[object]] = []

    def failing(command: list[object], _log: Path) -> tuple[int, str]:
        calls.append(command)
        return 1, "no such wheel"

    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    monkeypatch.setattr(ray, "run_logged", failing)
    monkeypatch.setattr(ray, "installed", lambda: None)
    with pytest.raises(UserError, match="no such wheel"):
        ray.ensure_ray()
    assert calls[0][0] == sys.executable
    assert "--require-hashes" in calls[0]
    monkeypatch.setattr(ray, "core_has_pip", lambda: False)
    with pytest.raises(UserError, match="has no pip") as told:
        ray.ensure_ray()
    assert "uv pip install" in told.value.hint
    monkeypatch.setattr(ray, "installed", ray.locked)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: type("Found", (), {"origin": "/there/ray/__init__.py"}))
    assert ray.ensure_ray() == Path("/there/ray")
    assert len(calls) == 1


def test_locks_that_add_to_the_core_change_nothing_in_it() -> None:
    def pinned(name: str) -> set[tuple[str, str]]:
        return set(re.findall(r"^([\w.-]+)==(\S+)", (SHIPPED / "locks" / name).read_text(), re.MULTILINE))

    core = pinned("core.txt")
    names = {name for name, _ in core}
    for name in ("dev.txt", "ray.txt"):
        assert not {(package, version) for package, version in pinned(name) - core if package in names}
