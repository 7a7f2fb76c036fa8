"""`keepstate doctor`: what it finds, what it advises, its exit code."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keepstate import doctor, machine
from keepstate.cli import cli
from keepstate.doctor import Finding, Mark
from keepstate.errors import EXIT_PARTIAL
from keepstate.machine import Gpu
from keepstate.runtimes.sandbox import Check, RungReport
from keepstate.setup import basemodel, environments
from keepstate.setup.environments import spec
from keepstate.train.sizes import cpu_memory_gib
from keepstate.vocabulary import Rung


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, on the CPU."""
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    return tmp_path


@pytest.fixture
def complete(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home where everything is made."""
    for name in environments.NAMES:
        python = spec(name).python
        python.parent.mkdir(parents=True)
        python.touch(0o755)
        spec(name).write_stamp()
    monkeypatch.setattr(basemodel, "is_ready", lambda: True)
    return home


def finding(topic: str, *, sandbox: bool = False) -> Finding:
    (found,) = [found for found in doctor.examine(sandbox=sandbox) if found.topic == topic]
    return found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


def test_an_empty_home_names_the_commands_that_fill_it(home: Path) -> None:
    result = run("--quick")
    assert result.exit_code == EXIT_PARTIAL
    for command in ("keepstate setup train", "keepstate setup serve", "keepstate setup model"):
        assert f"-> {command}" in result.output
    assert environments.TORCH_CPU_INDEX in result.output


def test_a_complete_home_can_run_the_laptop_loop(complete: Path) -> None:
    result = run("--quick")
    assert result.exit_code == 0, result.output
    assert "keepstate demo" in result.output
    assert "missing" not in result.output
    assert environments.TORCH_CPU_INDEX not in result.output


def test_a_broken_and_a_stale_environment_are_told_apart(complete: Path) -> None:
    (spec("train").folder / "keepstate-stamp.json").unlink()
    stamp = spec("serve").folder / "keepstate-stamp.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"locks": "0"}))
    assert "half made" in finding(".venv-train").text
    assert "other lock files" in finding(".venv-serve").text
    spec("serve").write_stamp()
    spec("serve").python.chmod(0o644)
    assert finding(".venv-serve").text == f"whole, but this user cannot run its {spec('serve').python}"
    assert run("--quick").exit_code == EXIT_PARTIAL


def test_a_home_that_cannot_be_written_matters_only_while_something_is_to_be_made(
    complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "is_writable", lambda _: False)
    assert finding("home").mark is Mark.OK
    (spec("train").folder / "keepstate-stamp.json").unlink()
    found = finding("home")
    assert (found.mark, "export KEEPSTATE_HOME=" in found.mend) == (Mark.MISSING, True)


def test_json_says_the_same_for_programs(complete: Path) -> None:
    value = json.loads(run("--quick", "--json").output)
    assert value["laptop_ready"] is True
    assert {found["mark"] for found in value["findings"]} <= set(Mark)
    assert [found["topic"] for found in value["findings"]][:3] == ["keepstate", "home", "processors"]


def test_a_full_disk_is_missing_space(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = machine.shutil.disk_usage(complete)._replace(free=machine.GIB // 2)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    found = finding("disk")
    assert (found.mark, "KEEPSTATE_HOME" in found.mend) == (Mark.MISSING, True)


def test_gpus_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("NVIDIA H100", 80.0, "1"),))
    assert "NVIDIA H100 (80 GiB" in finding("GPU").text


def test_a_taken_port_is_a_warning_only(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        monkeypatch.setattr(doctor, "PORT", port)
        found = finding("port")
    assert (found.mark, found.mend) == (Mark.WARN, f"keepstate serve --port {port + 1}")


def report(rung: Rung, *, usable: bool) -> RungReport:
    return RungReport(rung, usable, "" if usable else "refused here", (Check("network", usable, "PermissionError"),))


@pytest.mark.parametrize(
    ("usable", "mark"),
    [
        (set(Rung), Mark.OK),
        ({Rung.SECCOMP, Rung.PROCESS}, Mark.WARN),
        ({Rung.PROCESS}, Mark.MISSING),  # a process with limits is no sandbox
    ],
)
def test_the_sandbox_is_the_strongest_rung_that_passed(
    usable: set[Rung], mark: Mark, complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ladder = (Rung.NAMESPACES, Rung.LANDLOCK, Rung.SECCOMP, Rung.PROCESS)
    monkeypatch.setattr(
        "keepstate.runtimes.sandbox.probe", lambda: [report(rung, usable=rung in usable) for rung in ladder]
    )
    found = finding("sandbox", sandbox=True)
    assert found.mark is mark
    assert [detail["rung"] for detail in found.details] == list(ladder)
    shown = run("--verbose")
    assert ("FAILED  network: PermissionError" in shown.output) is (mark is not Mark.OK)
    assert shown.exit_code == (EXIT_PARTIAL if mark is Mark.MISSING else 0)


def test_it_needs_no_stage_s_heavy_modules_without_the_sandbox(home: Path) -> None:
    code = (
        "import sys; from keepstate.doctor import examine; examine(sandbox=False);"
        "print(*[m for m in ('vl_convert', 'jinja2', 'rich', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_memory_is_told_by_the_length_of_rows_as_a_training_reckons_it(complete: Path) -> None:
    told = finding("memory").text
    for tokens in doctor.ROWS:
        assert f"{cpu_memory_gib(tokens):.0f} GiB (rows of {tokens:,} tokens)" in told
