"""Data of several runtimes in one set: the same tasks held out in all, every row known by its runtime."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_traces import build_one, make_trace, write_traces

from keepstate.cli import cli
from keepstate.dataset import BuildOptions, Manifest, build_mixed, read_manifest
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, collect
from keepstate.tasks import make_tasks
from keepstate.train.axolotl_config import config_path
from keepstate.train.training_plan import TrainingRequest, plan_training
from keepstate.vocabulary import RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName


def arms(tmp_path: Path, **counts: int) -> dict[RuntimeName, Path]:
    """Traces of the first tasks in each runtime, whose system prompts differ."""
    made = {RuntimeName(name): count for name, count in counts.items()}
    for runtime, count in made.items():
        traces = [make_trace(number, runtime=runtime, system=f"You act in {runtime}.") for number in range(count)]
        write_traces(tmp_path / "t" / runtime, traces)
    return {runtime: tmp_path / "t" / runtime for runtime in made}


def build(tmp_path: Path, roots: dict[RuntimeName, Path], tokenizer: TextTokenizer, **chosen: Any) -> Manifest:
    options = BuildOptions(**({"val_fraction": 0.25} | chosen))
    return build_mixed(
        roots, tmp_path / "d/mixed", template="chatml", tokenizer_path=tokenizer.path, options=options, jobs=1
    )


def index(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def test_a_held_out_task_is_held_out_in_every_runtime(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    manifest = build(tmp_path, arms(tmp_path, persistent=8, forget=6), small_tokenizer)
    rows = index(tmp_path / "d/mixed")
    split_of = {(row["task"], row["runtime"]): row["split"] for row in rows}
    assert len(split_of) == 14
    tasks: dict[str, set[str]] = {"train": set(), "val": set()}
    for (task, _), split in split_of.items():
        tasks[split].add(task)
    assert tasks["train"].isdisjoint(tasks["val"])
    assert len(tasks["val"]) == 2, "a quarter of eight tasks, not of fourteen rows"
    assert (manifest.runtimes, manifest.arm, manifest.read) == ((PERSISTENT, FORGET), "mixed", 14)
    assert read_manifest(tmp_path / "d/mixed") == manifest
    for name, split in manifest.splits.items():
        shares = [of[name] for of in manifest.by_runtime.values()]
        assert split.rows == sum(share.rows for share in shares)
        assert split.tokens == sum(share.tokens for share in shares)
        written = [row["runtime"] for row in rows if row["split"] == name]
        assert [share.rows for share in shares] == [written.count("persistent"), written.count("forget")]
    assert any("of forget: " in line for line in manifest.words(tmp_path))


def test_rows_are_those_of_the_runtimes_own_sets_in_one_order(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    roots = arms(tmp_path, persistent=8, forget=8)
    build(tmp_path, roots, small_tokenizer)
    alone: list[str] = []
    for runtime, root in roots.items():
        chosen: dict[str, Any] = {"template": "chatml", "val_fraction": 0.25, "jobs": 1}
        build_one(root, runtime, tmp_path / runtime, tokenizer=small_tokenizer.path, **chosen)
        alone += (tmp_path / runtime / "train.jsonl").read_text().splitlines()
    mixed = (tmp_path / "d/mixed/train.jsonl").read_text().splitlines()
    assert sorted(mixed) == sorted(alone)
    order = [row["task"] for row in index(tmp_path / "d/mixed") if row["split"] == "train"]
    assert order[::2] == order[1::2], "both runtimes of a task follow each other"


def test_a_runtime_without_rows_is_refused(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    roots = arms(tmp_path, persistent=3)
    write_traces(tmp_path / "t/forget", [make_trace(0, runtime=FORGET, failed=True)])
    with pytest.raises(UserError, match="forget: none of 1 traces is left to train on"):
        build(tmp_path, roots | {FORGET: tmp_path / "t/forget"}, small_tokenizer)
    assert not (tmp_path / "d/mixed/manifest.json").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("persistent", "two or more of persistent, forget, react"),
        ("persistent,persistent", "two or more"),
        ("persistent,reset", "two or more"),
    ],
)
def test_what_cannot_be_mixed_is_refused(given: str, words: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["dataset", "build", "--mix", given, "--traces", str(tmp_path)])
    assert result.exit_code == 2
    assert words in result.output


def test_the_command_builds_what_the_mixed_training_takes(
    tmp_path: Path, small_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arms(tmp_path, persistent=4, forget=4)
    command = [
        "dataset",
        "build",
        "--mix",
        "persistent,forget",
        "--traces",
        "t",
        "--tokenizer",
        str(small_tokenizer.path),
    ]
    result = CliRunner().invoke(cli, [*command, "--template", "chatml"])
    assert result.exit_code == 0, result.output
    assert "data/datasets/mixed: 8 rows of 8 traces" in result.output
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    places: dict[str, Any] = {"dataset": Path("data/datasets/mixed"), "base_model": model}
    config = config_path("mixed", laptop=True)
    planned = plan_training(TrainingRequest(config, runtime="mixed", **places), machine=False)
    assert (planned.name, planned.trained_for.runtimes) == ("mixed", (PERSISTENT, FORGET))
    assert planned.decisive["runtime"] == "persistent+forget"
    with pytest.raises(UserError, match="was built for the runtime mixed, this training is of forget"):
        plan_training(TrainingRequest(config_path("forget", laptop=True), runtime="forget", **places), machine=False)
    requests = [TrainingRequest(config, overrides={"seed": seed}, **places) for seed in (1, 2)]
    seeds = [plan_training(request, machine=False).trained_for for request in requests]
    assert [each.seed for each in seeds] == [1, 2]
    assert seeds[0].training == seeds[1].training is not None


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    roots = arms(tmp_path, react=2)
    build_one(roots[REACT], REACT, tmp_path / "d", tokenizer=small_tokenizer.path, template="chatml", jobs=1)
    path = tmp_path / "d/manifest.json"
    old = json.loads(path.read_text())
    assert not {"by_runtime", "runtime"} & old.keys()
    old["runtime"] = old.pop("runtimes")[0]
    path.write_text(json.dumps(old))
    assert read_manifest(tmp_path / "d").arm == "react"


async def test_data_of_a_runtime_between_the_others_is_an_arm_too(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    tasks, lifetime = list(make_tasks("knapsack", "mini", 3, 7)), RuntimeName("lifetime-2")
    await collect(CollectPlan(tasks, [FORGET, lifetime], ScriptedTeacher, tmp_path), allow_unsafe=True)
    words = ["--template", "chatml", "--tokenizer", str(small_tokenizer.path), "--val-fraction", "0"]
    words += ["--traces", str(tmp_path), "--out", str(tmp_path / "d")]
    built = CliRunner().invoke(cli, ["dataset", "build", *words])
    assert built.exit_code == 0, built.output
    manifest = read_manifest(tmp_path / "d" / "lifetime-2")
    assert (manifest.runtimes, manifest.splits["train"].rows) == ((lifetime,), 3)
    assert (tmp_path / "d" / "forget").is_dir(), "both arms were found"
