"""Task sets: seeds decide the bytes, sets are disjoint where asked, files of both schemas load, bad input is named."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keepstate.cli import cli
from keepstate.errors import UserError
from keepstate.tasks import (
    load_tasks,
    make_tasks,
    problem_hash,
    read_tasks,
    reference_scores,
    require_disjoint,
    write_tasks,
)
from keepstate.tasks.base import RESEARCH_TASK_SCHEMA
from keepstate.tasks.families import family, names
from keepstate.tasks.task_set import TaskSetConfig, read_task_set

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "train" / "assets" / "task_configs").rglob("*.json"))


def tasks_command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["tasks", *map(str, arguments)])


GOLDEN = {
    "mini": "735a0e52bfa8523680eddcd06cab06bdff305a820ac643c0866434ee8f86f180",
    "easy": "fa6e5d1ae9fe5298e75cd6e6b2ddd81ff9b84105f379b88c5b7548f137733ba1",
    "medium": "bd246aa1d85ff317c9da60e6409efd38a8ad01bc10178a744ab8ed9d7d0f735d",
    "hard": "e12492cea89c55448466e0db5380a5b0847e74868179f4953dbe2c26acbf88ad",
}
"""Content hash of the third strict task of seed 123456789: changes only when every published set changes."""


@pytest.mark.parametrize("difficulty", GOLDEN)
def test_the_same_seed_gives_the_same_bytes_everywhere(difficulty: str) -> None:
    *_, third = make_tasks("knapsack", difficulty, 3, 123456789)
    assert third.content_hash == GOLDEN[difficulty]


def test_a_longer_set_begins_with_the_shorter_one_and_seeds_share_nothing() -> None:
    ten = [task.content_hash for task in make_tasks("knapsack", "mini", 10, 42)]
    assert ten[:4] == [task.content_hash for task in make_tasks("knapsack", "mini", 4, 42)]
    assert len({*ten, *(task.content_hash for task in make_tasks("knapsack", "mini", 10, 43))}) == 20


def test_both_rule_sets_have_the_same_problems() -> None:
    strict, paper = (list(make_tasks("knapsack", "mini", 5, 1, rules=rules)) for rules in ("strict", "paper"))
    assert [problem_hash(task) for task in strict] == [problem_hash(task) for task in paper]
    assert {task.content_hash for task in strict}.isdisjoint(task.content_hash for task in paper)
    assert {task.name for task in strict}.isdisjoint(task.name for task in paper)


def test_held_out_tasks_are_apart_from_training_tasks() -> None:
    train = list(make_tasks("knapsack", "mini", 6, 0))
    held_out = list(make_tasks("knapsack", "mini", 6, 0, rules="paper", apart_from=train[:4]))
    assert len(held_out) == 6
    require_disjoint(train[:4], held_out)
    with pytest.raises(UserError, match="2 of 6 held-out tasks are training tasks"):
        require_disjoint(train, held_out)


def test_families_are_found_by_their_files() -> None:
    assert names() == ["knapsack", "navigation", "rule_diagnosis"]
    with pytest.raises(UserError, match="'chess'"):
        family("chess")


def test_write_read_write_gives_the_same_bytes(tmp_path: Path) -> None:
    tasks = list(make_tasks("knapsack", "easy", 4, 9))
    first = {path.name: path.read_bytes() for path in write_tasks(tmp_path / "a", tasks)}
    again = load_tasks(tmp_path / "a")
    assert again == tasks
    assert {path.name: path.read_bytes() for path in write_tasks(tmp_path / "b", again)} == first


def test_research_files_load_unchanged(tmp_path: Path) -> None:
    ours = next(make_tasks("knapsack", "easy", 1, 2, rules="paper"))
    public = {key: value for key, value in ours.public.items() if key != "rules"}
    common = {"family": "knapsack", "seed": 5, "private": ours.private, "reference": ours.reference, "public": public}
    measures = {"n_items": 30, "p_valid": 0.2}
    files = {
        "a": {
            "schema_version": RESEARCH_TASK_SCHEMA,
            "difficulty": measures,
            "run_name": "r",
            "generated_at": "2026",
            "nl": {},
        },
        "b": {"schema": RESEARCH_TASK_SCHEMA, "difficulty": "easy", "tools": [{"name": "inspect"}], "nl": None},
    }
    for name, fields in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({**common, **fields, "task_id": f"knapsack-{name}"}))
    first, second = load_tasks(tmp_path)
    assert first.difficulty == "research"
    assert second.difficulty == "easy"
    for task in (first, second):
        assert task.schema_ == RESEARCH_TASK_SCHEMA
        assert problem_hash(task) == problem_hash(ours)
        assert reference_scores(task) == reference_scores(ours)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_task_is_read_as_editors_write_it(encoding: str, tmp_path: Path) -> None:
    tasks = list(make_tasks("knapsack", "mini", 1, 0))
    (path,) = write_tasks(tmp_path, tasks)
    path.write_bytes(path.read_text().encode(encoding))
    assert load_tasks(tmp_path) == tasks


def test_bad_files_are_named_and_good_ones_kept(tmp_path: Path) -> None:
    tasks = list(make_tasks("knapsack", "mini", 2, 0))
    good = write_tasks(tmp_path, tasks)
    value = json.loads(good[0].read_text())
    bad = {
        "broken.json": "{",
        "deep.json": "[" * 100_000,
        "key.json": json.dumps({**value, "colour": "red"}),
        "latin.json": b"\xff\xfe{}",
        "list.json": "[]",
        "path.json": json.dumps({**value, "task_id": "../../etc/passwd"}),
        "wrong.json": json.dumps({**value, "reference": {**value["reference"], "optimal_value": 3}}),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found, left_out = read_tasks(tmp_path)
    assert found == tasks
    assert [file.path.name for file in left_out] == sorted(bad)
    with pytest.raises(UserError, match=r"broken\.json: not JSON.*and 6 more"):
        load_tasks(tmp_path)
    result = tasks_command("show", tmp_path)
    assert result.exit_code == 1
    assert "2 tasks: knapsack, mini, strict rules" in result.stdout
    assert "7 of 9 files are no tasks" in result.stderr
    assert all(name in result.stderr for name in bad)


def test_missing_and_empty_folders_say_how_to_fill_them(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError) as error:
            load_tasks(folder)
        assert str(folder) in error.value.message
        assert "keepstate tasks generate" in error.value.hint


def test_the_evaluation_sets_are_those_of_the_specification_and_of_the_other_families() -> None:
    found = {path.name: read_task_set(path).resolved() for path in CONFIGS}
    others = {
        f"{family}_{difficulty}"
        for family in ("navigation", "rule_diagnosis")
        for difficulty in ("easy", "medium", "hard")
    }
    assert found.keys() == {f"{name}_100.json" for name in {"easy", "medium"} | others}
    for name, config in found.items():
        assert (config.count, config.seed_start, config.split) == (100, 123456789, "eval")
        assert f"{config.family}_{config.difficulty}_100.json".removeprefix("knapsack_") == name
        assert config.rules == ("strict" if config.family == "knapsack" else None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"dificulty": "easy"}', "unknown key 'dificulty'"),
        ('{"difficulty": "tiny"}', "tiny"),
        ('{"count": 0}', "count"),
        ("{", "not JSON"),
        (None, "cannot read"),
    ],
)
def test_a_bad_config_is_explained(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "set.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=says):
        read_task_set(path).resolved()


def test_generate_writes_the_set_and_options_override_the_config(tmp_path: Path) -> None:
    config = tmp_path / "set.json"
    config.write_text(TaskSetConfig(count=50, seed_start=3).model_dump_json())
    out = tmp_path / "tasks"
    for _ in range(2):
        result = tasks_command("generate", "--config", config, "--count", 3, "--out", out)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(out)
    assert load_tasks(out) == list(make_tasks("knapsack", "mini", 3, 3))
    assert tasks_command("show", out).stdout.startswith("3 tasks: knapsack, mini, strict rules")


def test_generate_does_not_mix_sets(tmp_path: Path) -> None:
    assert tasks_command("generate", "--count", 2, "--out", tmp_path).exit_code == 0
    result = tasks_command("generate", "--count", 2, "--seed-start", 1, "--out", tmp_path)
    assert isinstance(result.exception, UserError)
    assert "another set" in result.exception.message
    assert len(load_tasks(tmp_path)) == 2


def test_generate_keeps_apart_from_other_folders(tmp_path: Path) -> None:
    tasks_command("generate", "--count", 3, "--out", tmp_path / "a")
    tasks_command("generate", "--count", 3, "--out", tmp_path / "b", "--apart-from", tmp_path / "a")
    require_disjoint(load_tasks(tmp_path / "a"), load_tasks(tmp_path / "b"))


def test_show_tells_the_hidden_part_only_when_asked(tmp_path: Path) -> None:
    task = next(make_tasks("knapsack", "mini", 1, 0))
    (path,) = write_tasks(tmp_path, [task])
    secret = task.reference["optimal_item_ids"][0]
    plain, hidden = tasks_command("show", path).stdout, tasks_command("show", path, "--hidden").stdout
    assert "inspect(item_id: str) -> str" in plain
    assert secret not in plain
    assert "reference: " in hidden
    assert secret in hidden.partition("reference: ")[2]
