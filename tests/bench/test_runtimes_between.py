"""The runtimes between persistent and forget, through the whole pipeline: recorded, repeated, proven, trained for."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstate.agents.prompts import runtime_paragraph
from keepstate.bench.benchmark_config import matrix_configs, read_benchmark_config
from keepstate.bench.cells import make_cell
from keepstate.bench.replay import Contract, replay
from keepstate.bench.sweep import Sweep
from keepstate.cli import cli
from keepstate.errors import UserError
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, collect
from keepstate.tasks import make_tasks
from keepstate.traces import read_trace
from keepstate.train.axolotl_config import config_path
from keepstate.train.trained_for import TrainedFor, as_word, by_name, runtimes_in
from keepstate.vocabulary import RuntimeName

BETWEEN = tuple(
    RuntimeName(name) for name in ("carry-after-cap", "carry-after-cap-announced", "lifetime-2", "variables-only")
)
LIFETIME_2 = BETWEEN[2]
TASK = next(iter(make_tasks("knapsack", "mini", 1, 7)))


async def test_each_is_played_recorded_and_repeated_byte_for_byte(tmp_path: Path) -> None:
    await collect(CollectPlan([TASK], BETWEEN, ScriptedTeacher, tmp_path), allow_unsafe=True)
    for runtime in BETWEEN:
        trace = read_trace(tmp_path / runtime / f"{TASK.name}.trace.json")
        assert (trace.runtime, trace.agent) == (runtime, "codeact")
        assert (trace.finish_reason, trace.summary.errors) == ("finished", {})
        assert runtime_paragraph(runtime) in trace.messages[0]["content"]
        record = json.loads((tmp_path / runtime / "collection.json").read_text())
        assert record["decisive"]["runtime"] == runtime
    found = await replay([tmp_path], Contract(), allow_unsafe=True)
    assert {each.folder.name: each.same for each in found} == {str(name): 1 for name in BETWEEN}
    [once] = await replay([tmp_path / LIFETIME_2], Contract(RuntimeName.PERSISTENT), allow_unsafe=True)
    assert once.effects.episodes == 1, "persistent is another contract"
    await collect(CollectPlan([TASK], [LIFETIME_2], ScriptedTeacher, tmp_path / "l3"), allow_unsafe=True)
    (tmp_path / "l3" / LIFETIME_2).rename(tmp_path / "l3" / "lifetime-3")
    with pytest.raises(UserError, match="finished traces"):
        await collect(CollectPlan([TASK], [RuntimeName("lifetime-3")], ScriptedTeacher, tmp_path / "l3"))


def test_what_an_adapter_was_trained_for_may_be_one_of_them() -> None:
    own = TrainedFor(runtimes=(LIFETIME_2,))
    assert TrainedFor.model_validate_json(own.model_dump_json()) == own == by_name("lifetime-2")
    assert runtimes_in(as_word((RuntimeName.FORGET, LIFETIME_2))) == (RuntimeName.FORGET, LIFETIME_2)
    assert own.playable == (RuntimeName.PERSISTENT, RuntimeName.FORGET, LIFETIME_2)
    assert by_name("lifetime-1") is None
    assert config_path("lifetime-2", laptop=True) == config_path("forget", laptop=True)


def test_a_benchmark_config_names_one_and_its_errors_name_all(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: c\nadapter: base\nruntime: lifetime-2\ntasks: {difficulty: mini, count: 1}\n")
    config = read_benchmark_config(path)
    cell = make_cell(config, tmp_path)
    assert (config.runtime, config.limits.seconds, cell.decisive["runtime"]) == (LIFETIME_2, 900, "lifetime-2")
    path.write_text(path.read_text().replace("lifetime-2", "lifetime-1"))
    with pytest.raises(UserError, match=r"runtime: 'lifetime-1' is no runtime; there are .* variables-only"):
        read_benchmark_config(path)
    names = [
        each.name for each in matrix_configs(config.tasks, "mini", adapters={"mine": TrainedFor(runtimes=BETWEEN)})
    ]
    assert [name for name in names if "lifetime" in name] == ["mine-lifetime-2-mini"]


@pytest.mark.parametrize("command", [["traces", "collect", "--tasks", "t"], ["bench", "replay", "r"]])
def test_a_command_names_all_that_there_are(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--runtime", "lifetime-1"])
    assert result.exit_code == 2
    assert "'lifetime-1' is no runtime" in result.output
    assert "carry-after-cap-announced" in " ".join(result.output.split())


def test_a_benchmark_sweeps_over_runtimes_of_the_configs_kind_of_agent(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: c\nadapter: base\nruntime: forget\ntasks: {difficulty: mini, count: 1}\n")
    config = read_benchmark_config(path)
    cells = list(Sweep((RuntimeName.FORGET, LIFETIME_2), tool_calls=(80,)).of(config))
    assert [(each.name, each.runtime, each.limits.tool_calls) for each in cells] == [
        ("c-calls80", "forget", 80),
        ("c-lifetime-2-calls80", LIFETIME_2, 80),
    ]
    with pytest.raises(UserError, match="--runtime react: c is of forget, another kind of agent"):
        list(Sweep((RuntimeName.REACT,)).of(config))
    of_caps = list(Sweep(tool_calls=(25, "none")).of(config))
    assert [(cell.name, cell.limits.tool_calls) for cell in of_caps] == [
        (config.name, 25),
        (f"{config.name}-callsnone", "none"),
    ]
    result = CliRunner().invoke(cli, ["bench", "run", str(path), "--runtime", "forget,react"])
    assert isinstance(result.exception, UserError)
    assert result.exception.hint == "name a config of a react agent"
