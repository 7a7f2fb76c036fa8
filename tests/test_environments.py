"""Environments that are made anew: what a link leads to is left alone."""

from pathlib import Path

import pytest

from keepstate import environments, installing
from keepstate.environments import EnvironmentSpec, State


def test_a_stale_environment_that_is_a_link_is_made_beside_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(wanted: EnvironmentSpec, _: str) -> None:
        wanted.python.parent.mkdir(parents=True)
        wanted.python.touch(0o755)

    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    monkeypatch.setattr(installing, "install", install)
    monkeypatch.setattr(environments, "find_python", lambda _: "python")
    monkeypatch.setattr(environments, "NEEDED_GIB", {"cpu": 0})
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "keepstate-stamp.json").write_text("{}")
    mine = environments.spec("train")
    mine.home.mkdir()
    mine.folder.symlink_to(theirs)
    assert mine.state() is State.STALE
    assert environments.ensure("train") == mine.python
    assert (mine.state(), mine.folder.is_symlink()) == (State.READY, False)
    assert (theirs / "keepstate-stamp.json").read_text() == "{}"
