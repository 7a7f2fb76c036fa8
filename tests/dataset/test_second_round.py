"""A second round: an adapter's own episodes become training data, but never those on tasks that it is measured on."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_results import Made, made_trace

from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource
from keepstate.bench.cells import make_cell
from keepstate.cli import cli
from keepstate.dataset import read_manifest
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.tasks import write_tasks
from keepstate.traces import write_trace


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A benchmark of four tasks, two of them played well."""
    tasks = TaskSource(difficulty="mini", count=4)
    config = BenchmarkConfig(name="c", adapter="react", runtime="react", tasks=tasks)
    made = make_cell(config, tmp_path / "runs/b")
    made.write()
    for number, task in enumerate(made.tasks):
        write_trace(made.folder, made_trace(task, config, Made(1.0 if number % 2 else 0.3)))
    write_tasks(tmp_path / "tasks", list(made.tasks))
    write_tasks(tmp_path / "three", list(made.tasks)[:3])
    return made.folder


def build(cell: Path, tokenizer: TextTokenizer, *more: object) -> Result:
    fixed = ["--traces", cell, "--runtime", "react", "--tokenizer", tokenizer.path, "--template", "chatml"]
    fixed += ["--out", cell.parents[2] / "d", "--min-score", "0.9", "--val-fraction", "0"]
    return CliRunner().invoke(cli, ["dataset", "build", *map(str, [*fixed, *more])])


def test_a_benchmark_on_other_tasks_is_refused_naming_them(cell: Path, small_tokenizer: TextTokenizer) -> None:
    for given, named in (([], 4), (["--training-tasks", cell.parents[2] / "three"], 1)):
        result = build(cell, small_tokenizer, *given)
        assert isinstance(result.exception, UserError)
        assert result.exception.message.count("knapsack-mini") == named
        assert "keepstate traces collect --tasks FOLDER --teacher llm" in result.exception.hint
    assert not (cell.parents[2] / "d").exists()


def test_on_training_tasks_the_best_episodes_become_rows(cell: Path, small_tokenizer: TextTokenizer) -> None:
    result = build(cell, small_tokenizer, "--training-tasks", cell.parents[2] / "tasks")
    assert result.exit_code == 0, result.output
    manifest = read_manifest(cell.parents[2] / "d/react")
    assert (manifest.splits["train"].rows, manifest.left_out) == (1, {"duplicate": 1, "not good enough": 2})
