"""Replays of recorded episodes: the same bytes, a planted difference, another contract, and what cannot be repeated."""

import asyncio
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keepstate.agents import prompts
from keepstate.agents.episode import run_episode
from keepstate.bench.replay import Contract, FolderReplay, replay
from keepstate.cli import cli
from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import ContextOverflow, Reply
from keepstate.models.scripted import ScriptedModel
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, collect
from keepstate.runtimes import Sandbox
from keepstate.tasks import make_tasks, write_tasks
from keepstate.tasks.base import Task
from keepstate.traces.record import Limits, Trace
from keepstate.traces.writer import trace_path, write_trace
from keepstate.vocabulary import AUTO, Origin, RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName
TASK = next(iter(make_tasks("knapsack", "mini", 1, 7)))
RECORDED = Contract()
TOOLS = "ids = __import__('json').loads(list_items())"


def block(code: str) -> str:
    return f"Go on.\n```python\n{code}\n```"


async def record(
    folder: Path,
    answers: Sequence[str | Reply | Exception],
    *,
    runtime: RuntimeName = PERSISTENT,
    task: Task = TASK,
    **limits: Any,
) -> Path:
    """Play answers, and write the trace."""
    async with Sandbox(isolation=AUTO, allow_unsafe=True) as sandbox:
        asked = Limits(**limits)
        trace = await run_episode(task, runtime=runtime, model=ScriptedModel(answers), sandbox=sandbox, limits=asked)
    return write_trace(folder, trace)


async def replayed(folder: Path, contract: Contract = RECORDED, **options: Any) -> FolderReplay:
    [found] = await replay([folder], contract, allow_unsafe=True, **options)
    return found


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def command(*arguments: object) -> Result:
    """Run the command, which has a loop of its own."""
    words = ["bench", "replay", *map(str, arguments), "--allow-unsafe"]
    return await asyncio.to_thread(CliRunner().invoke, cli, words)


async def test_a_whole_collection_is_repeated_byte_for_byte_and_nothing_is_written(tmp_path: Path) -> None:
    tasks = [task for name in ("knapsack", "navigation", "rule_diagnosis") for task in make_tasks(name, "mini", 1, 0)]
    runtimes = tuple(RuntimeName)
    await collect(CollectPlan(tasks, runtimes, ScriptedTeacher, tmp_path), allow_unsafe=True)
    before = files(tmp_path)
    found = await replay([tmp_path], Contract(), allow_unsafe=True)
    assert [(each.folder.name, each.same) for each in found] == [("forget", 3), ("persistent", 3), ("react", 3)]
    assert all(each.good for each in found)
    assert files(tmp_path) == before


async def test_a_planted_difference_is_shown_with_episode_and_turn(tmp_path: Path) -> None:
    path = await record(tmp_path, [block(f"{TOOLS}\nprint(len(ids))"), block("print('seen')"), block("finish()")])

    def plant(trace: dict[str, Any]) -> None:
        step = [event for event in trace["events"] if event["type"] == "StepEvent"][1]
        step["observation"] = step["observation"].replace("seen", "SEEN")

    change(path, plant)
    found = await replayed(tmp_path)
    assert (found.same, found.different, found.good) == (0, 1, False)
    first = found.first["step"]
    assert (first.task, first.place) == (TASK.name, "turn 1, observation")
    assert "SEEN" in first.recorded
    assert "seen" in first.replayed


@pytest.mark.parametrize("key", ["verdict", "results", "state_lost"])
async def test_what_the_agent_does_not_see_is_compared_too(tmp_path: Path, key: str) -> None:
    path = await record(tmp_path, [block(TOOLS), block("finish()")])

    def plant(trace: dict[str, Any]) -> None:
        step = next(event for event in trace["events"] if event["type"] == "StepEvent")["interpreter_result"]
        changes: dict[str, Callable[[], None]] = {
            "verdict": lambda: trace["verdict"].update(score=0.25),
            "results": lambda: step["results"][0].update(output="[]"),
            "state_lost": lambda: step.update(state_lost=True),
        }
        changes[key]()

    change(path, plant)
    if key == "verdict":
        path.with_name(f"{TASK.name}.json").unlink()
    found = await replayed(tmp_path)
    assert found.different == 1
    assert key.replace("_", " ") in next(iter(found.first.values())).place.replace("_", " ")


async def test_a_changed_prompt_is_a_difference_beside_equal_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record(tmp_path, [block(TOOLS), block("finish()")])
    told = prompts.RUNTIME_PARAGRAPHS | {PERSISTENT: "State persists, they say."}
    monkeypatch.setattr(prompts, "RUNTIME_PARAGRAPHS", told)
    found = await replayed(tmp_path)
    assert (found.different, dict(found.kinds)) == (1, {"prompt": 1})
    assert "they say" in found.first["prompt"].replayed
    result = await command(tmp_path)
    assert result.exit_code == 1
    assert f"prompt: 1 episodes, first {TASK.name}, system prompt" in result.output


async def test_a_trace_of_an_older_version_is_replayed(tmp_path: Path) -> None:
    path = await record(tmp_path, [block(TOOLS), block("finish()")])

    def older(trace: dict[str, Any]) -> None:
        trace["versions"] = {"keepstate": "0.1.0", "python": "3.11.2"}
        for event in trace["events"]:
            event.get("interpreter_result", {}).pop("state_lost", None)
            event.get("interpreter_result", {}).pop("seconds", None)

    change(path, older)
    assert (await replayed(tmp_path)).same == 1


async def test_a_difference_names_both_pythons_where_they_are_two(tmp_path: Path) -> None:
    path = await record(tmp_path, [block("1 + None"), block("finish()")])
    assert not (await replayed(tmp_path)).other_python

    def elsewhere(trace: dict[str, Any]) -> None:
        trace["versions"]["python"] = "3.99.1"

    change(path, elsewhere)
    assert (await replayed(tmp_path)).same == 1
    change(path, lambda trace: trace["events"][4]["interpreter_result"].update(error="in other words"))
    found = await replayed(tmp_path)
    assert found.first["step"].pythons == ("3.99.1", platform.python_version())
    told = (await command(tmp_path)).output
    assert "1 were recorded by Python 3.99.1, not the one here" in told
    assert f"(by Python 3.99.1, and again by {platform.python_version()})" in told


async def test_older_traces_tell_of_the_time_after_the_finish_which_depended_on_the_load(tmp_path: Path) -> None:
    path = await record(tmp_path, [block(TOOLS), block("print('a')\nfinish()")])
    late = {"tool": "finish", "arguments": {}, "output": None, "error": "the episode is over"}

    def older(trace: dict[str, Any]) -> None:
        told = [event for event in trace["events"] if event["type"] == "StepEvent"][-1]["interpreter_result"]
        told.update(globals=["ids"], state_lost=True, output="a\nlate\n", error="NameError: x", error_type="NameError")
        told["results"].append(late)

    change(path, older)
    assert (await replayed(tmp_path)).same == 1
    change(path, lambda trace: trace["events"][-2]["interpreter_result"].update(output="b\n"))
    assert (await replayed(tmp_path)).first["step"].place == "turn 1, output"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("class A: pass\nprint(A())", "addresses"),
        ("import random\nprint(random.random())", "chance"),
        ("import time\nprint(time.time_ns())", "chance"),
    ],
)
async def test_what_is_not_repeatable_by_nature_is_counted_as_such(tmp_path: Path, code: str, kind: str) -> None:
    await record(tmp_path, [block(code), block("finish()")])
    found = await replayed(tmp_path)
    assert getattr(found, kind) == 1, found
    assert (found.same, found.different, found.good) == (0, 0, True)
    assert found.first[kind].place == "turn 0, observation"
    assert any(line.endswith("0 the same, 1 " + line.rpartition(", 1 ")[2]) for line in found.lines())


async def test_an_address_hides_no_later_difference(tmp_path: Path) -> None:
    path = await record(tmp_path, [block("class A: pass\nprint(A())"), block("print('b')"), block("finish()")])

    def plant(trace: dict[str, Any]) -> None:
        [event for event in trace["events"] if event["type"] == "StepEvent"][1]["observation"] += " "

    change(path, plant)
    found = await replayed(tmp_path)
    assert (found.addresses, found.different, dict(found.kinds)) == (0, 1, {"addresses": 1, "step": 1})


async def test_episodes_cut_by_a_server_or_their_context_are_replayed_as_far_as_recorded(tmp_path: Path) -> None:
    other = next(iter(make_tasks("knapsack", "mini", 1, 8)))
    third = next(iter(make_tasks("knapsack", "mini", 1, 9)))
    await record(tmp_path, [block(TOOLS), EpisodeFailure(Origin.MODEL, "gone")])
    await record(tmp_path, [block(TOOLS), ContextOverflow()], task=other)
    await record(tmp_path, [EpisodeFailure(Origin.MODEL, "gone")], task=third)
    found = await replayed(tmp_path)
    assert (found.same, found.short, found.empty, found.left_out) == (2, 1, 1, [])


async def test_a_truncated_answer_and_turn_and_time_limits_are_repeated(tmp_path: Path) -> None:
    tasks = list(make_tasks("knapsack", "mini", 3, 9))
    await record(tmp_path, [Reply("Go on.\n```python\nprint(1)", truncated=True), block("finish()")], task=tasks[0])
    await record(tmp_path, [block("print(1)"), block("print(2)")], task=tasks[1], turns=2)
    slow = [Reply(block("x = 1"), seconds=1.0), Reply(block("while True: pass"), seconds=2.0)]
    path = await record(tmp_path, slow, task=tasks[2], seconds=3.3)
    assert json.loads(path.read_text())["summary"]["errors"] == {"EpisodeTimeLimit": 1}
    found = await replayed(tmp_path)
    assert (found.same, found.short, found.different) == (3, 1, 0), found.first


async def test_another_runtime_and_another_cap_tell_what_would_have_become_of_the_same_answers(tmp_path: Path) -> None:
    code = [block(TOOLS), block("for i in ids[:5]:\n    inspect(i)\ntake_item(ids[0])"), block("finish()")]
    await record(tmp_path, code)
    forgetting = (await replayed(tmp_path, Contract(FORGET))).effects
    assert (forgetting.episodes, forgetting.missing, forgetting.unchanged, forgetting.beyond) == (1, [0, 1], 0, 0)
    capped = (await replayed(tmp_path, Contract(tool_calls=3))).effects
    assert (capped.exposed, capped.exposure, capped.cut, capped.beyond) == (1, 1.0, [0, 1], 3)
    assert not capped.at_least
    assert (capped.missing, capped.actions, capped.left) == ([0, 0], 3, 0)
    wide = (await replayed(tmp_path, Contract(tool_calls=6))).effects
    assert (wide.exposed, wide.beyond, wide.unchanged) == (0, 0, 1)
    same = await replayed(tmp_path, Contract(PERSISTENT, 25))
    assert (same.same, same.effects.episodes) == (1, 0), "the recorded contract, asked for: a test"


async def test_a_wider_cap_shows_what_a_cut_action_had_intended(tmp_path: Path) -> None:
    code = [block(f"{TOOLS}\nfor i in ids[:5]:\n    inspect(i)"), block("finish()")]
    await record(tmp_path, code, tool_calls=2)
    effects = (await replayed(tmp_path, Contract(tool_calls=25))).effects
    assert (effects.cut, effects.beyond, effects.at_least, effects.exposed) == ([1, 0], 4, False, 0)
    narrow = (await replayed(tmp_path, Contract(tool_calls=1))).effects
    assert (narrow.cut, narrow.beyond, narrow.at_least, narrow.exposed) == ([1, 1], 1, True, 1)


async def test_an_end_that_comes_earlier_leaves_answers_unplayed(tmp_path: Path) -> None:
    code = [block("x = 1"), block("try:\n    x\nexcept NameError:\n    finish()"), block("print(2)"), block("finish()")]
    await record(tmp_path, code)
    effects = (await replayed(tmp_path, Contract(FORGET))).effects
    assert (effects.actions, effects.left) == (2, 2)


def imported(trace: dict[str, Any]) -> None:
    trace["versions"] = {"source": "elsewhere"}


def of_a_family_elsewhere(trace: dict[str, Any]) -> None:
    for ref in (trace["summary"]["task"], trace["events"][0]["task"]):
        ref["family"] = "elsewhere"


def of_another_set(trace: dict[str, Any]) -> None:
    for ref in (trace["summary"]["task"], trace["events"][0]["task"]):
        ref["content_hash"] = "0" * 64


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (imported, "imported: the contract"),
        (of_a_family_elsewhere, "unknown task family 'elsewhere'"),
        (of_another_set, "its task is not at hand"),
        (lambda trace: trace.update(schema="x"), "it is a row of messages, no trace"),
    ],
)
async def test_what_cannot_be_replayed_is_named_beside_what_is(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], why: str
) -> None:
    await record(tmp_path, [block("finish()")])
    other = next(iter(make_tasks("knapsack", "mini", 1, 8)))
    path = await record(tmp_path, [block("finish()")], task=other)
    change(path, edit)
    result = await command(tmp_path)
    assert result.exit_code == 1
    assert "1 episodes replayed: 1 the same" in result.output
    assert f"left out: {path}: {why}" in result.output


async def test_react_reads_no_answers_of_codeact(tmp_path: Path) -> None:
    await record(tmp_path, [block("finish()")])
    found = await replayed(tmp_path, Contract(REACT))
    assert found.left_out == [
        (f"{TASK.name}.trace.json", "its answers are those of a codeact agent, which react does not read")
    ]


async def test_tasks_that_ids_do_not_tell_are_given(tmp_path: Path) -> None:
    task = TASK.model_copy(update={"task_id": "mine"})
    path = await record(tmp_path / "run", [block(TOOLS), block("finish()")], task=task)
    assert [why for _, why in (await replayed(path.parent)).left_out] == [
        "its task is not at hand (name the folder of its tasks: --tasks FOLDER)"
    ]
    write_tasks(tmp_path / "tasks", [task])
    result = await command(path.parent, "--tasks", tmp_path / "tasks", "--json")
    assert result.exit_code == 0, result.output
    assert [figures["same"] for figures in json.loads(result.stdout)] == [1]


async def test_tasks_are_sampled_again_from_ids_of_every_rule_set(tmp_path: Path) -> None:
    for rules in ("strict", "paper"):
        for task in list(make_tasks("knapsack", "mini", 4, -3, rules=rules))[1::2]:
            await record(tmp_path, [block(TOOLS), block("finish()")], task=task)
    assert (await replayed(tmp_path)).same == 4


async def test_a_folder_without_traces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no traces in"):
        await replay([tmp_path], Contract())


async def test_an_episode_that_fails_in_the_replay_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await record(tmp_path, [block("finish()")])
    assert trace_path(tmp_path, TASK.name) == path

    async def fail(*_: object, **__: object) -> Trace:
        raise EpisodeFailure(Origin.SANDBOX, "no interpreter")

    monkeypatch.setattr("keepstate.agents.episode.open_runtime", fail)
    found = await replayed(tmp_path)
    assert found.left_out == [(TASK.name, "failed in the replay (sandbox): no interpreter")]
    assert not found.good


async def test_several_contracts_are_one_table(tmp_path: Path) -> None:
    code = [block(TOOLS), block("for i in ids[:5]:\n    inspect(i)\nids"), block("print(ids[0])"), block("finish()")]
    await record(tmp_path, code)
    several = ("--runtime", "persistent,forget, carry-after-cap", "--tool-calls", "25,3")
    result = await command(tmp_path, *several)
    assert result.exit_code == 0, result.output
    folder, heads, recorded, *rows = [line for line in result.stdout.splitlines() if line]
    assert folder == f"{tmp_path}:"
    assert heads.split()[:4] == ["contract", "episodes", "unchanged", "E_c"]
    assert recorded.split() == ["recorded", "1", "-", "-", "-", "0", "0", "0.0"]
    told = {tuple(row.rsplit(None, 7)[0].split(", ")): row.rsplit(None, 7)[1:6] for row in rows}
    assert [*told] == [
        (runtime, cap) for runtime in ("  persistent", "  forget", "  carry-after-cap") for cap in ("cap 25", "cap 3")
    ]
    assert told["  persistent", "cap 25"] == ["1", "1", "0.000", "0", "0"], "the record's own"
    assert told["  persistent", "cap 3"] == ["1", "0", "1.000", "2", "0"]
    assert told["  forget", "cap 25"][-1] == told["  carry-after-cap", "cap 25"][-1] == "1", "a missing variable"
    both = json.loads((await command(tmp_path, *several, "--json")).stdout)
    assert [each["contract"]["tool_calls"] for each in both] == [25, 3] * 3
    wrong = await command(tmp_path, "--runtime", "forget,never")
    assert "'never' is no runtime" in wrong.output
    assert "'x' is neither a number of calls nor none" in (await command(tmp_path, "--tool-calls", "25,x")).output


async def test_several_folders_are_replayed_each_once(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        await record(tmp_path / name, [block("finish()")])
    told = await command(tmp_path / "a", tmp_path / "b", tmp_path / "a", "--json")
    assert told.exit_code == 0
    assert [(Path(each["folder"]).name, each["same"]) for each in json.loads(told.stdout)] == [("a", 1), ("b", 1)]
    nowhere = await command(tmp_path / "a", tmp_path / "d")
    assert f"no such folder: {tmp_path / 'd'}" in str(nowhere.exception)
    assert (await command()).exit_code == 2


@pytest.mark.parametrize("runtime", [PERSISTENT, REACT])
async def test_without_a_cap_no_call_is_refused_and_the_prompt_names_none(tmp_path: Path, runtime: RuntimeName) -> None:
    calls = json.dumps([{"tool": "list_items"}] * 30 + [{"tool": "finish"}])
    code = block("for _ in range(30):\n    list_items()\nfinish()")
    path = await record(
        tmp_path, [f"Action: {calls}" if runtime is REACT else code], runtime=runtime, tool_calls="none"
    )
    told = json.loads(path.read_text())
    assert (told["limits"]["tool_calls"], told["summary"]["errors"]) == ("none", {})
    assert "at most" not in told["messages"][0]["content"]
    assert (await replayed(tmp_path)).same == 1
    capped = (await replayed(tmp_path, Contract(tool_calls=25))).effects
    assert (capped.exposed, capped.beyond, capped.at_least) == (1, 5, False)
    result = await command(tmp_path, "--tool-calls", "25,none", "--json")
    assert [each["contract"]["tool_calls"] for each in json.loads(result.stdout)] == [25, "none"]


async def test_an_action_without_a_cap_ends_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstate.traces.record.RUNAWAY_CALLS", 40)
    path = await record(tmp_path, [block("while True:\n    list_items()"), block("finish()")], tool_calls="none")
    assert json.loads(path.read_text())["summary"]["errors"] == {"ToolCallLimit": 1}
