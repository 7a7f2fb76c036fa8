"""Benchmark configs: those of the specification, and what is wrong with others."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from keepstate.bench import (
    BenchmarkConfig,
    TaskSource,
    matrix_configs,
    read_benchmark_config,
)
from keepstate.bench.benchmark_config import picked
from keepstate.bench.research_configs import read_configs
from keepstate.errors import UserError
from keepstate.models.base import Sampling
from keepstate.tasks import write_tasks
from keepstate.tasks.task_set import read_task_set
from keepstate.train.trained_for import TrainedFor
from keepstate.vocabulary import RuntimeName

CONFIGS = Path(__file__).parents[2] / "train/assets/benchmark_configs"
PERSISTENT, FORGET, REACT = RuntimeName
TARGETS = {
    "bench-{}-base": ("base", PERSISTENT),
    "bench-{}-lora": ("persistent", PERSISTENT),
    "bench-forget-{}-base": ("base", FORGET),
    "bench-forget-{}-lora": ("forget", FORGET),
    "bench-react-{}-base": ("base", REACT),
    "bench-react-{}-lora": ("react", REACT),
    "bench-cross-plora-reset-{}": ("persistent", FORGET),
    "bench-cross-flora-persist-{}": ("forget", PERSISTENT),
}


def written(folder: Path, **changes: object) -> Path:
    values = {"name": "a", "adapter": "base", "runtime": "react", "tasks": {"difficulty": "mini"}} | changes
    path = folder / "cell.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(("short", "difficulty"), [("easy", "easy"), ("med", "medium")])
@pytest.mark.parametrize("target", TARGETS)
def test_each_target_of_the_specification_has_its_cell(target: str, short: str, difficulty: str) -> None:
    name = target.format(short)
    config = read_benchmark_config(CONFIGS / f"{name}.yaml")
    assert config.name == name
    assert (config.adapter, config.runtime) == TARGETS[target]
    tasks = config.tasks.load()
    assert len(tasks) == 100
    assert {task.difficulty for task in tasks} == {difficulty}
    assert {task.seed for task in tasks} == {123_456_789}


OTHER_CELLS = [
    (target.format(f"{family.replace('_', '-')}-{short}"), family, difficulty, TARGETS[target])
    for family in ("navigation", "rule_diagnosis")
    for short, difficulty in (("easy", "easy"), ("med", "medium"), ("hard", "hard"))
    for target in TARGETS
]


@pytest.mark.parametrize(("name", "family", "difficulty", "cell"), OTHER_CELLS)
def test_other_families_have_the_same_cells(
    name: str, family: str, difficulty: str, cell: tuple[str, RuntimeName]
) -> None:
    config = read_benchmark_config(CONFIGS / f"{name}.yaml")
    assert (config.name, config.adapter, config.runtime) == (name, *cell)
    (task,) = config.tasks.model_copy(update={"count": 1}).load()
    assert (task.family, task.difficulty, task.seed) == (family, difficulty, 123_456_789)
    assert config.tasks.config is not None
    assert read_task_set(config.tasks.config).count == 100


def test_the_configs_differ_in_nothing_but_name_adapter_runtime_tasks_and_what_an_episode_needs() -> None:
    paths = sorted(CONFIGS.rglob("*.*"))
    assert len(paths) == 16 + len(OTHER_CELLS), "of knapsack easy and medium, and of each other family"
    rest = set()
    for path in paths:
        config = read_benchmark_config(path)
        limits = config.limits
        times = 5 if re.search("-navigation-(med|hard)", path.stem) else 1  # up to 160 moves, beside scans
        assert limits.seconds == times * (600 if config.runtime is REACT else 900)
        assert (limits.turns, limits.tool_calls, config.context) == (times * 40, 25, 40_960)
        assert (config.sampling.temperature, config.sampling.max_tokens, config.nothink) == (0.2, 12_288, True)
        values = config.model_dump(exclude={"name", "adapter", "runtime", "tasks"})
        del values["limits"]["seconds"], values["limits"]["turns"]
        rest.add(yaml.safe_dump(values))
    assert len(rest) == 1


def test_the_defaults_are_those_written_out_in_the_files() -> None:
    config = read_benchmark_config(CONFIGS / "bench-easy-lora.yaml")
    bare = BenchmarkConfig(name=config.name, adapter=config.adapter, runtime=config.runtime, tasks=config.tasks)
    assert bare.decisive() == config.decisive()
    assert (bare.base_url, bare.concurrency, bare.isolation) == (config.base_url, config.concurrency, config.isolation)


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"adaptor": "base"}, "unknown key 'adaptor'", "did you mean adapter"),
        ({"limits": {"turn": 3}}, "unknown key 'limits.turn'", "did you mean turns? allowed keys: turns, seconds"),
        ({"tasks": {"difficulty": "mini", "seed": 1}}, "unknown key 'tasks.seed'", "did you mean seed_start"),
        ({"runtime": "reset"}, "runtime: 'reset' is no runtime; there are persistent, forget, react, or", "allowed"),
        ({"limits": {"tool_calls": 0}}, "limits.tool_calls", "tool_calls"),
        ({"limits": {"turns": 0}}, "limits.turns: Input should be greater than or equal to 1 (found 0)", "turns"),
        (
            {"limits": {"turns": 10**17}},
            "limits.turns: Input should be less than or equal to 9007199254740992",
            "turns",
        ),
        ({"limits": {"memory_mib": 10**17}}, "limits.memory_mib: Input should be less than or equal", "memory_mib"),
        ({"tasks": {}}, "exactly one of config, folder, difficulty (found none)", "allowed keys: config, folder"),
        ({"tasks": {"folder": "x", "difficulty": "mini"}}, "found folder, difficulty", "config"),
        ({"adapter": "a b"}, "adapter: allowed are up to 100 letters", "allowed"),
        ({"name": "../x"}, "name: allowed are up to 80 of a-z", "allowed"),
        ({"isolation": "chroot"}, "isolation: allowed are auto, namespaces", "isolation"),
        ({"isolation": "auto+"}, "+ behind a rung", "isolation"),
    ],
)
def test_what_is_wrong_with_a_config_is_named(
    changes: dict[str, object], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read_benchmark_config(written(tmp_path, **changes))
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("content", ["", "- a", "a: [", "\x00", "name: b\nadapter: base"])
def test_files_that_are_no_config_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        read_benchmark_config(path)
    with pytest.raises(UserError, match="cannot read"):
        read_benchmark_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_are_read_as_editors_write_them(encoding: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_text().encode(encoding))
    assert read_benchmark_config(path).name == "a"
    task_set = tmp_path / "set.json"
    task_set.write_bytes('{"count": 3}'.encode(encoding))
    assert len(TaskSource(config=task_set).load()) == 3


def test_a_weakest_rung_can_be_required(tmp_path: Path) -> None:
    assert read_benchmark_config(written(tmp_path, isolation="landlock+")).isolation == "landlock+"


def test_relative_task_paths_start_at_the_config(tmp_path: Path) -> None:
    config = read_benchmark_config(written(tmp_path, tasks={"folder": "there"}))
    assert config.tasks.folder == tmp_path / "there"
    with pytest.raises(UserError, match="no such folder"):
        config.tasks.load()


def test_tasks_are_the_first_so_many() -> None:
    three, two = (TaskSource(difficulty="mini", count=count).load() for count in (3, 2))
    assert three[:2] == two


def test_a_set_is_played_whole_unless_a_count_is_given(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", TaskSource(difficulty="mini", count=130).load())
    (tmp_path / "set.json").write_text('{"count": 130}')
    for place in ({"folder": tmp_path / "tasks"}, {"config": tmp_path / "set.json"}):
        where = next(iter(place.values()))
        for count, played, words in (
            (None, 130, None),
            (130, 130, None),
            (100, 100, f"the first 100 of the 130 tasks of {where} (count: 100)"),
            (200, 130, f"{where} holds 130 tasks only (count: 200)"),
        ):
            source = TaskSource.model_validate({**place, "count": count})
            assert (len(source.load()), source.capped()) == (played, words)
    assert len(TaskSource(difficulty="mini").load()) == 100


def test_the_matrix_has_every_cell_that_fits_and_no_other() -> None:
    tasks = TaskSource(difficulty="mini", count=4)
    configs = list(matrix_configs(tasks, "mini", context=4096))
    assert [config.name for config in configs] == [
        "base-persistent-mini",
        "base-forget-mini",
        "base-react-mini",
        "persistent-persistent-mini",
        "persistent-forget-mini",
        "forget-persistent-mini",
        "forget-forget-mini",
        "react-react-mini",
    ]
    assert {config.context for config in configs} == {4096}
    assert {config.served_name for config in configs} == {"base", "persistent", "forget", "react"}


def test_the_matrix_follows_from_what_adapters_were_trained_for() -> None:
    adapters = {
        "Org/Mine.v2": TrainedFor(runtimes=(REACT,)),
        "mixed": TrainedFor(runtimes=(PERSISTENT, FORGET)),
        "theirs": None,
        "all": TrainedFor(runtimes=(FORGET, REACT)),
    }
    configs = list(matrix_configs(TaskSource(difficulty="mini", count=1), "mini", adapters=adapters))
    assert [config.name for config in configs] == [
        "org-mine-v2-react-mini",
        "mixed-persistent-mini",
        "mixed-forget-mini",
        "theirs-persistent-mini",
        "theirs-forget-mini",
        "theirs-react-mini",
        "all-persistent-mini",
        "all-forget-mini",
        "all-react-mini",
    ]
    assert configs[0].served_name == "Org/Mine.v2"


def test_cells_are_picked_by_adapter_and_runtime() -> None:
    configs = list(matrix_configs(TaskSource(difficulty="mini", count=1), "mini"))

    def names(*patterns: str) -> list[str]:
        return [config.name for config in picked(configs, patterns)]

    assert names() == [config.name for config in configs]
    assert names("react:react", "persistent:*") == [
        "persistent-persistent-mini", "persistent-forget-mini", "react-react-mini"
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"--cells react:forget: there is no such cell") as caught:
        picked(configs, ["base:*", "react:forget"])
    assert "base:persistent, base:forget" in caught.value.hint


@pytest.mark.parametrize(("runtime", "seconds"), [(REACT, 600), (FORGET, 900)])
def test_an_episodes_seconds_are_the_runtimes_unless_they_are_given(runtime: str, seconds: int, tmp_path: Path) -> None:
    def of(**limits: object) -> float:
        return read_benchmark_config(written(tmp_path, runtime=str(runtime), limits=limits)).limits.seconds

    assert (of(), of(turns=3), of(seconds=900), of(seconds=600)) == (seconds, seconds, 900, 600)


def test_a_config_cannot_be_changed() -> None:
    config = BenchmarkConfig(name="a", adapter="base", runtime=REACT, tasks=TaskSource(difficulty="mini"))
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]


THEIRS = """\
output_dir: out
cache_db_path: cache.db
max_concurrent_runs: 7
agents:
- name: PS_cap25
  max_turns: 40
  timeout_s: 3000.0
  max_tool_calls: 25
  persistent_state: false
  llm: {model: openai/persistent, temperature: 0.2, max_tokens: 900, seed: 7}
- name: SP carried
  persistent_state: false
  state_carryover_on_cap: true
  announce_carryover: true
  max_tool_calls: 80
  llm: {model: hosted_vllm/some/model}
- {name: base_react_easy, agent_type: react, llm: {model: Qwen/Qwen3-8B}}
"""


def test_a_benchmark_file_of_the_research_code_is_a_config_for_each_agent(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(THEIRS)
    tasks = TaskSource(difficulty="mini", count=3)
    first, second, third = read_configs(path, tasks)
    assert [config.name for config in (first, second, third)] == ["ps_cap25", "sp-carried", "base_react_easy"]
    assert [config.adapter for config in (first, second, third)] == ["persistent", "model", "base"]
    assert [config.served_name for config in (first, second, third)] == ["persistent", "some/model", "Qwen/Qwen3-8B"]
    assert [str(config.runtime) for config in (first, second, third)] == [
        "forget",
        "carry-after-cap-announced",
        "react",
    ]
    limits = [
        (config.limits.turns, config.limits.seconds, config.limits.tool_calls) for config in (first, second, third)
    ]
    assert limits == [(40, 3000, 25), (12, 300, 80), (12, 300, "none")]
    assert (first.seed, first.concurrency, second.seed) == (7, 7, 0)
    assert first.sampling == Sampling(temperature=0.2, max_tokens=900)
    assert second.sampling == Sampling()
    assert {config.tasks for config in (first, second, third)} == {tasks}


def test_such_a_file_names_no_tasks_and_its_faults_are_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(THEIRS)
    with pytest.raises(UserError, match="of the research code, whose files name no tasks") as caught:
        read_configs(path)
    assert "--tasks FOLDER" in caught.value.hint
    path.write_text("agents: [{name: a, max_tool_calls: 0, llm: {model: base}}]")
    with pytest.raises(UserError, match=r"limits.tool_calls.*a cap is 1 or more, or none"):
        read_configs(path, TaskSource(difficulty="mini"))
    for broken in ("agents: [5]", "agents: [{name: a}]", "agents: [{llm: {model: base}}]"):
        path.write_text(broken)
        with pytest.raises(UserError, match="an agent lacks its name, or its llm the model"):
            read_configs(path, TaskSource(difficulty="mini"))
    path.write_text("agents: []")
    with pytest.raises(UserError, match="it has no agents"):
        read_configs(path, TaskSource(difficulty="mini"))


def test_tasks_that_are_given_replace_those_of_a_config(tmp_path: Path) -> None:
    path, given = written(tmp_path, tasks={"folder": "there"}), TaskSource(difficulty="mini")
    assert [config.tasks for config in read_configs(path, given)] == [given]
    assert [config.tasks.folder for config in read_configs(path)] == [tmp_path / "there"]
