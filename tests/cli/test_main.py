"""The command line as a whole: order, help, errors and exit codes."""

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from keepstate.cli import COMMANDS, cli, keepstate_elsewhere, run
from keepstate.errors import EXIT_USER_ERROR, UserError
from keepstate.stages import STAGES, markdown_table

ROOT = Path(__file__).parents[2]


def keepstate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "keepstate", *arguments], capture_output=True, text=True, check=False)


def test_commands_start_with_the_stages_in_order() -> None:
    assert tuple(COMMANDS)[: len(STAGES)] == tuple(stage.name for stage in STAGES)


def test_readme_has_the_stage_table() -> None:
    assert markdown_table() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_unknown_command_is_named_and_exits_2() -> None:
    done = keepstate("tarces")
    assert done.returncode == 2
    assert "tarces" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("what", "next"), "error: what\nhint:  next\n"),
        (ExceptionGroup("", [ExceptionGroup("", [UserError("what", "next")]), OSError(28, "full")]), "error: what\n"),
        (OSError(28, "No space left on device"), "error: no disk space left for "),
        (PermissionError(13, "Permission denied", "/x/y"), "error: /x/y: Permission denied\n"),
        (NotADirectoryError(20, "Not a directory", "/x/y"), "error: /x/y: Not a directory\n"),
    ],
)
def test_what_a_user_can_mend_is_told_without_traceback(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(click.Command("x", callback=partial(throw, error)), []) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith(told)
    assert "\nhint:  " in said


@pytest.mark.parametrize("error", [ValueError("ours"), ExceptionGroup("", [UserError("a", "b"), ValueError("ours")])])
def test_a_defect_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run(click.Command("x", callback=partial(throw, error)), [])
    assert caught.value is error


def contexts(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            inner = context.command.get_command(context, name)
            assert inner is not None
            yield from contexts(click.Context(inner, parent=context, info_name=name))


def test_help_fits_80_columns() -> None:
    every = list(contexts(click.Context(cli, info_name="keepstate", terminal_width=80)))
    assert len(every) > 25
    lines = [(each.command_path, line) for each in every for line in each.get_help().splitlines()]
    assert [(path, line) for path, line in lines if len(line) > 80] == []


def test_an_error_fits_80_columns_of_a_terminal_and_its_commands_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", sysconfig.get_path("scripts"))
    command = "keepstate serve --lora out/qwen3-8b-persistent-a100 --lora out/b"
    changes = "runs/bench holds episodes of other options:\n  limits.turns: " + "40 -> 7, " * 12
    error = UserError(changes, f"start it with: {command} (on a laptop: keepstate demo), or wait")
    assert run(click.Command("x", callback=partial(throw, error)), []) == EXIT_USER_ERROR
    assert capsys.readouterr().err == f"error: {error.message}\nhint:  {error.hint}\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(click.Command("x", callback=partial(throw, error)), [])
    lines = capsys.readouterr().err.splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    assert lines[1].startswith("  limits.turns: 40 -> 7,")
    assert any(command in line for line in lines)
    assert lines[-1] == "       laptop: keepstate demo), or wait"


def throw(error: Exception) -> None:
    raise error


def test_a_hint_says_where_keepstate_is_if_the_shell_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    said = keepstate_elsewhere("keepstate doctor")
    (folder,) = re.findall(r"export PATH=([^:]+):", said)
    assert (Path(folder) / "keepstate").is_file()
    monkeypatch.setenv("PATH", folder)
    assert keepstate_elsewhere("keepstate doctor") == ""
    assert keepstate_elsewhere("free some space") == ""


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian", "train"),
        ("Bench", "bench"),
        ("bench matirx", "bench matrix"),
        ("traces colect", "traces collect"),
        ("tasks genrate", "tasks generate"),
        ("dataset bulid", "dataset build"),
        ("collect", "traces collect"),
        ("bench matrix --difficulty mini --adaptr base", "--adapter"),
        ("tasks generate --dificulty mini", "--difficulty"),
    ],
)
def test_the_nearest_to_a_mistyped_word_is_told(typed: str, meant: str) -> None:
    result = CliRunner().invoke(cli, typed.split())
    assert result.exit_code == 2
    assert re.search(rf"Did you mean[^\n]*{meant}", result.output), result.output


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    result = CliRunner().invoke(cli, ["xyzzy"])
    assert "No such command 'xyzzy'.\n" in result.output
    assert "Did you mean" not in result.output


SPECIFIED_TARGETS = (
    [f"train-{r}" for r in ("persistent", "forget", "react")]
    + ["serve", "serve-lora"]
    + [f"bench-{r}{d}-{m}" for r in ("", "forget-", "react-") for d in ("easy", "med") for m in ("base", "lora")]
    + [f"bench-cross-{c}-{d}" for c in ("plora-reset", "flora-persist") for d in ("easy", "med")]
)


@pytest.mark.parametrize("target", [*SPECIFIED_TARGETS, "train-mixed"])
def test_make_knows_every_specified_target(target: str) -> None:
    done = subprocess.run(["make", "-n", target, "LORA=x"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_make_help_names_every_target() -> None:
    help_text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE):
        assert f"  {name} " in help_text
