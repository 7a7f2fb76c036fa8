"""`--json`: which commands take it, and that stdout then holds strict JSON and nothing else."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from typed import leaves

from keepstate.cli import cli

WITHOUT = {
    "completion": "a line for a shell",
    "dataset preview": "a row, to look at",
    "demo": "its report has it",
    "init": "paths, one a line",
    "launch k8s": "YAML to submit",
    "launch slurm": "a script to submit",
    "serve": "runs until Ctrl-C",
    "setup": "paths, one a line",
    "tasks check": "a proof, to read",
    "tasks generate": "a path",
    "tasks new": "a path",
    "traces import": "rows are JSON",
    "traces view": "a trace is JSON",
    "train": "the adapter's card is JSON",
}
"""Commands that print no table, each with what they print instead."""


def refuse(text: str) -> None:
    raise AssertionError(f"{text} is no JSON number")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tasks, and their traces in two runtimes."""
    folder = tmp_path_factory.mktemp("json")
    for line in (f"tasks generate --count 2 --out {folder}/tasks", f"traces collect --tasks {folder}/tasks"):
        words = [*line.split(), *(["--out", f"{folder}/traces", "--json"] if "collect" in line else [])]
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
    assert [tally["played"] for tally in json.loads(done.stdout)] == [2, 2, 2]
    return folder


def test_every_command_that_prints_a_table_takes_it() -> None:
    lacking = {name for name, command in leaves(cli) if "--json" not in {o for p in command.params for o in p.opts}}
    assert lacking == WITHOUT.keys()


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("tasks show {}/tasks", {"tasks", "policies", "left_out"}),
        ("traces check {}/traces --paired", {"checked", "problems", "unpaired"}),
        ("traces stats {}/traces", None),
        ("bench replay {}/traces/persistent", None),
        ("bench regrade {}/traces", None),
        ("doctor --quick", {"laptop_ready", "findings"}),
        ("ls {}", None),
        ("clean {}", None),
    ],
)
def test_stdout_is_strict_json_and_nothing_else(line: str, keys: set[str] | None, there: Path) -> None:
    done = CliRunner().invoke(cli, [*line.format(there).split(), "--json"])
    assert done.exit_code in (0, 1), done.output
    assert done.stdout.isascii()
    told = json.loads(done.stdout, parse_constant=refuse)
    assert isinstance(told, list) if keys is None else told.keys() == keys


def test_one_task_tells_its_answer_only_where_it_is_asked_for(there: Path) -> None:
    task = sorted((there / "tasks").glob("*.json"))[0]
    told = json.loads(CliRunner().invoke(cli, ["tasks", "show", str(task), "--json"]).stdout)
    assert told["tools"][0].keys() == {"signature", "description"}
    assert "private" not in told
    assert json.loads(CliRunner().invoke(cli, ["tasks", "show", str(task), "--json", "--hidden"]).stdout)["reference"]
