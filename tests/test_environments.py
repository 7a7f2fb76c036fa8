"""Environments that are made anew: what a link leads to is left alone, and make does not lose its own Python."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serve.serving_helpers import write_environment

from keepstate.errors import UserError
from keepstate.places import SHIPPED
from keepstate.setup import environments, installing, ray
from keepstate.setup.environments import EnvironmentSpec, State
from keepstate.vocabulary import Engines


def test_a_stale_environment_that_is_a_link_is_made_beside_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(wanted: EnvironmentSpec, _: str) -> None:
        wanted.python.parent.mkdir(parents=True)
        wanted.python.touch(0o755)
        (wanted.folder / "lib/python3.11/site-packages/axolotl-0.19.0.dist-info").mkdir(parents=True)

    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    monkeypatch.setattr(installing, "install", install)
    monkeypatch.setattr(installing, "find_python", lambda *_, **__: "python")
    monkeypatch.setattr(installing, "NEEDED_GIB", {"cpu": 0})
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "keepstate-stamp.json").write_text('{"locks": "others"}')
    mine = environments.spec("train")
    mine.home.mkdir()
    mine.folder.symlink_to(theirs)
    assert mine.state() is State.STALE
    assert installing.ensure("train") == mine.python
    assert (mine.state(), mine.folder.is_symlink()) == (State.READY, False)
    assert (theirs / "keepstate-stamp.json").read_text() == '{"locks": "others"}'


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnvironmentSpec:
    """A training environment of the current engines, begun and empty."""
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    spec = environments.spec("train", Engines.CURRENT)
    spec.folder.mkdir()
    spec.begin_stamp()
    return spec


def installed(spec: EnvironmentSpec, version: str) -> None:
    spec.python.parent.mkdir()
    spec.python.touch(0o755)
    (spec.folder / f"lib/python3.12/site-packages/axolotl-{version}.dist-info").mkdir(parents=True)
    spec.write_stamp()


def test_engines_stay_as_they_were_chosen(mine: EnvironmentSpec) -> None:
    """Also where they were never made whole, and until others are chosen."""
    assert environments.spec("train") == mine
    assert (mine.state(), mine.command) == (State.BROKEN, "keepstate setup train --engines current")
    installed(mine, mine.release.version)
    assert installing.ensure("train") == mine.python
    assert mine.words() == f"ready (cpu), axolotl {mine.release.version}"
    other = environments.spec("train", Engines.MEASURED)
    assert (other.state(), other.command) == (State.STALE, "keepstate setup train")
    assert environments.spec("serve").engines is Engines.MEASURED


def test_that_the_current_ones_have_not_run_on_a_gpu_is_told(
    mine: EnvironmentSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    monkeypatch.setattr(installing, "find_python", lambda *_, **__: "python")
    monkeypatch.setattr(installing, "NEEDED_GIB", {"cuda": 0})
    monkeypatch.setattr(installing, "install", lambda spec, _: installed(spec, spec.release.version))
    installing.ensure("train")
    assert "was not run on a GPU yet: no figure of the documentation is of it" in capsys.readouterr().err
    assert "not run on a GPU yet" in environments.spec("train").words()
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    assert "not run" not in environments.spec("train").words()


def test_an_engine_that_the_plugin_was_not_tested_with_is_refused(mine: EnvironmentSpec) -> None:
    installed(mine, "0.99.0")  # as from a lock file that somebody compiled for it
    with pytest.raises(UserError, match=rf"another version than axolotl {mine.release.version}, which") as told:
        installing.ensure("train")
    assert "keepstate setup train --engines current" in told.value.hint


@pytest.mark.parametrize(
    "said",
    [
        "No matching distribution found for torch==2",
        "no matching distributions available for your environment:\n  torch",
    ],
)
def test_torch_is_pypis_where_no_index_has_its_cpu_build(
    mine: EnvironmentSpec, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def run(spec: EnvironmentSpec, command: list[str]) -> None:
        commands.append(command)
        if f"{spec.torch_locks[0]}" in command:
            with spec.log.open("a") as log:
                log.write(said)
            raise UserError("pip failed", "")

    monkeypatch.setattr(installing, "_run", run)
    monkeypatch.setenv("KEEPSTATE_TORCH_INDEX", "http://mine")
    installing.install(mine, "python3.98")
    files = [Path(command[command.index("-r") + 1]).name for command in commands if "-r" in command]
    assert files == ["torch-cpu-current.txt", "torch-cpu-current.txt", "torch-pypi.txt", "train-cpu-current.txt"]
    assert [("http://mine" in command) for command in commands if "-r" in command] == [False, True, False, False]
    assert "taking PyPI's own" in capsys.readouterr().err
    measured = environments.spec("train", Engines.MEASURED)
    with pytest.raises(UserError, match="pip failed"):
        installing.install(measured, "python3.98")


@pytest.mark.parametrize("has_pip", [True, False])
def test_an_environment_is_filled_by_the_pip_that_is_there(
    mine: EnvironmentSpec, has_pip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(installing, "_run", lambda _, command: commands.append(command))
    monkeypatch.setattr(installing, "core_has_pip", lambda: has_pip)
    installing.install(mine, "python3.98")
    made, *filled = commands
    assert ("--without-pip" in made) == has_pip
    assert {command[0] for command in filled} == {sys.executable if has_pip else str(mine.python)}


def test_ray_goes_beside_the_measured_engines_alone_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    commands: list[list[str]] = []

    def run(spec: EnvironmentSpec, command: list[str], *_: Path) -> None:
        commands.append(command)
        (spec.folder / "lib/python3/site-packages/ray-2.60.0.dist-info").mkdir()

    monkeypatch.setattr(installing, "_run", run)
    environments.spec("serve", Engines.CURRENT).begin_stamp()
    with pytest.raises(UserError, match="no Ray was locked for") as refused:
        installing.ensure_serve_ray()  # before anything is made
    assert refused.value.hint.endswith("keepstate setup serve --engines measured")
    assert commands == []
    made = environments.spec("serve", Engines.MEASURED)
    write_environment(made, "#!/bin/sh\n")
    for _ in range(2):
        installing.ensure_serve_ray()
        assert made.state() is State.READY
    assert [Path(command[-1]).name for command in commands] == ["serve-ray-cpu.txt"]


def test_a_cut_installation_of_ray_is_finished_and_the_server_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    made = environments.spec("serve", Engines.MEASURED)
    write_environment(made, "#!/bin/sh\n")
    assert made.ray_lock is not None
    coming = made.still_to_come(made.ray_lock)
    packages = made.folder / "lib/python3/site-packages"
    commands: list[list[str]] = []
    fails = True

    def run(spec: EnvironmentSpec, command: list[str], *locks: Path) -> None:
        commands.append(command)
        show = installing.InstallDisplay(spec, locks)
        spec.log.write_text("Installing collected packages")
        assert f"installing {int(not fails)}/{len(coming)}" in show.line(0), "counts Ray's own alone"
        (packages / "opentelemetry_exporter_prometheus-0.1.dist-info").mkdir(exist_ok=True)
        if fails:
            raise KeyboardInterrupt
        (packages / "ray-2.60.0.dist-info").mkdir()

    monkeypatch.setattr(installing, "_run", run)
    with pytest.raises(KeyboardInterrupt):
        installing.ensure_serve_ray()
    assert made.state() is State.BROKEN
    fails = False
    installing.ensure("serve")
    assert made.state() is State.READY
    assert ["--ignore-installed" in command for command in commands] == [False, True]
    assert "which was cut, is finished" in capsys.readouterr().err

    (packages / "somebody_elses-1.0.dist-info").mkdir()
    assert (made.state(), made.lacks_rest_of_ray()) == (State.BROKEN, False), "made anew"


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
