"""`keepstate init` and `completion`: a folder whose files are read and whose commands are there."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from typed import wrong_commands

from keepstate.bench.benchmark_config import read_benchmark_config
from keepstate.cli import COMMANDS, cli, run
from keepstate.cli.init import FAMILY
from keepstate.tasks.task_set import read_task_set
from keepstate.train.axolotl_config import read_axolotl_config
from keepstate.vocabulary import RuntimeName

SCRIPTS = sysconfig.get_path("scripts")


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, words)])


@pytest.mark.usefixtures("no_family_named")
@pytest.mark.parametrize("options", [("--laptop", "--makefile"), ()])
def test_a_new_project_holds_files_that_keepstate_reads(options: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "project"
    made = call("init", folder, *options)
    assert made.exit_code == 0, made.output
    assert {Path(line) for line in made.stdout.splitlines()} == {p for p in folder.rglob("*") if p.is_file()}
    train, held_out = (read_task_set(folder / f"{name}.json").make(3) for name in ("train", "eval"))
    assert {task.family for task in (*train, *held_out)} == {Path(FAMILY).stem}
    assert not {task.content_hash for task in train} & {task.content_hash for task in held_out}
    assert len(read_benchmark_config(folder / "bench.yaml").tasks.load()) == 30
    outputs = [Path(read_axolotl_config(folder / f"configs/{name}.yaml")["output_dir"]).name for name in RuntimeName]
    readme = (folder / "README.md").read_text()
    assert f"--lora out/{outputs[0]} " in readme
    assert ("dataset build --tokenizer qwen3\n" in readme) == ("--laptop" not in options)
    assert (folder / "Makefile").exists() == ("--makefile" in options)
    if "--makefile" in options:
        serve = subprocess.run(["make", "-n", "serve"], cwd=folder, capture_output=True, text=True, check=True).stdout
        assert [word for word in serve.split() if word.startswith("out/")] == [f"out/{name}" for name in outputs]
        readme += (folder / "Makefile").read_text()
    for line in re.findall(r"^\s+(keepstate .*?)(?:  +#.*)?$", readme, re.MULTILINE):
        assert list(wrong_commands(line)) == []


def test_files_that_are_there_are_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FAMILY).write_text("mine")
    assert run(cli, ["init", str(tmp_path)]) == 2
    assert f"holds {FAMILY} already\nhint:  name another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [FAMILY]
    (tmp_path / FAMILY).replace(tmp_path / "mine.py")
    (tmp_path / "README.md").symlink_to("not-mounted-now")
    assert run(cli, ["init", str(tmp_path)]) == 2
    assert "holds README.md already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_new_project_comes_as_far_as_traces(tmp_path: Path) -> None:
    assert call("init", tmp_path, "--makefile").exit_code == 0
    env = os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", "check", "traces"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "data/traces/react: 100 recorded, 0 kept, mean score 1.000, solved 100" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("", set(COMMANDS)), ("tr", {"train", "traces"}), ("bench re", {"regrade", "replay"}), ("ls --f", {"--failed"})],
)
def test_a_shell_completes(typed: str, offered: set[str]) -> None:
    words = ["keepstate", *typed.split()]
    place = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(max(1, len(words) - 1))}
    env = {"_KEEPSTATE_COMPLETE": "bash_complete", "PATH": "/usr/bin:/bin"} | place
    done = subprocess.run([f"{SCRIPTS}/keepstate"], env=env, capture_output=True, text=True, check=True)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == offered


def test_the_line_for_a_shell_is_all_that_stdout_gets() -> None:
    done = call("completion", "bash")
    assert done.stdout == 'eval "$(_KEEPSTATE_COMPLETE=bash_source keepstate)"\n'
    assert "~/.bashrc" in done.stderr
