"""Navigation and rule diagnosis: what they promise, their references against other solvers, their teacher."""

import itertools
import json
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from keepstate.agents.episode import run_episode
from keepstate.errors import UserError
from keepstate.models.teacher import ScriptedTeacher
from keepstate.runtimes import Sandbox
from keepstate.tasks import Environment, Move, Task, ToolError, environment_for, make_tasks, read_task, write_tasks
from keepstate.tasks.checking import check_family
from keepstate.tasks.families import family, reference_scores
from keepstate.tasks.families.rule_diagnosis import Rule, RuleContent, output, rules_of
from keepstate.traces.record import Limits, Trace
from keepstate.vocabulary import FinishReason, RuntimeName

FAMILIES = ("navigation", "rule_diagnosis")
GOLDEN = {
    ("navigation", "mini"): "0805f8ab495d3d4d032df73eb92a26e38129dfc0d4891878f7cd07a4f2e056f5",
    ("navigation", "easy"): "915447cec5a817f84f96959a104291fddcffa20fe224431b5478646e541329ca",
    ("navigation", "medium"): "9b565e06ad11bc1dfabd22074ef677405a06fe0c6e8f8f472c5370672d7fd8b0",
    ("navigation", "hard"): "41731c13348588d2acc263a93b14eebf40197e2a3d14922f58a02eaebf5286a3",
    ("rule_diagnosis", "mini"): "b327ea5088919f1a5907734f684733256538526ca4537bf94cd6542dd9cbd2b9",
    ("rule_diagnosis", "easy"): "36283e11fce1ac102f167f30bfc7d6601e0873267fdbeff2868ed568c6eebda4",
    ("rule_diagnosis", "medium"): "25f6b24d0d57c77cbea7153bf23c9a50be4f2f573ff7f9e574de9bbc2e57b6b3",
    ("rule_diagnosis", "hard"): "1fcf638c84642fc9ff93b2f58f7d79efca57dd57d025988931c4e6a3567c5266",
}
"""Content hash of the third task of seed 123456789: changes only when every published set changes."""


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(allow_unsafe=True) as sandbox:
        yield sandbox


def played(task: Task, *calls: tuple[str, dict[str, Any]]) -> tuple[list[Any], Environment]:
    environment = environment_for(task)
    said: list[object] = []
    for tool, arguments in calls:
        try:
            said.append(environment.call(tool, arguments))
        except ToolError as error:
            said.append(f"refused: {error}")
    return said, environment


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_that_comes_with_keepstate_keeps_every_promise(name: str) -> None:
    told = list(check_family(family(name), 12))
    assert any(line.startswith("reference answers score 1 and end the episode: 48 of 48") for line in told)
    assert any("the plan plays 48 tasks" in line for line in told)


@pytest.mark.parametrize(("name", "difficulty"), GOLDEN)
def test_the_same_seed_gives_the_same_bytes_everywhere(name: str, difficulty: str) -> None:
    *_, third = make_tasks(name, difficulty, 3, 123456789)
    assert third.content_hash == GOLDEN[name, difficulty]


@pytest.mark.parametrize("difficulty", family("navigation").difficulties)
def test_the_shortest_path_agrees_with_ortools(difficulty: str) -> None:
    from ortools.graph.python import min_cost_flow

    parameters = family("navigation").difficulties[difficulty]
    for task in make_tasks("navigation", difficulty, 25, 5):
        graph, steps = task.private["graph"], len(task.reference["path"]) - 1
        number = {node: index for index, node in enumerate(graph)}
        flow = min_cost_flow.SimpleMinCostFlow()
        for node, near in graph.items():
            for other in near:
                flow.add_arc_with_capacity_and_unit_cost(number[node], number[other], 1, 1)
        flow.set_node_supply(number[task.public["start"]], 1)
        flow.set_node_supply(number[task.public["goal"]], -1)
        assert flow.solve() == flow.OPTIMAL
        assert flow.optimal_cost() == steps
        assert parameters.horizon[0] <= steps <= parameters.horizon[1]
        assert task.public["step_limit"] == math.ceil(parameters.step_factor * steps)
        extra = len(graph) - steps - 1
        assert parameters.extra_nodes[0] <= extra <= parameters.extra_nodes[1]
        assert sum(map(len, graph.values())) // 2 >= len(graph), "it has a cycle"


def test_moves_cost_and_only_neighbours_are_reached() -> None:
    task = next(make_tasks("navigation", "mini", 1, 0))
    start, path = task.public["start"], task.reference["path"]
    near = task.private["graph"][start]
    said, environment = played(task, ("scan", {}), ("move", {"node_id": path[-1]}), ("move", {"node_id": "x" * 99}))
    assert json.loads(str(said[0])) == {"node": start, "neighbors": near}
    assert all(str(refusal).startswith("refused: ") and "no neighbour" in str(refusal) for refusal in said[1:])
    assert environment.verdict().metrics["moves"] == 0
    there_and_back = [("move", {"node_id": near[0]}), ("move", {"node_id": start})]
    detour = [*there_and_back, *(("move", {"node_id": node}) for node in path[1:])]
    verdict = played(task, *detour)[1].verdict()
    steps = len(path) - 1
    assert (verdict.score, verdict.is_solved) == (steps / (steps + 2), False)
    _, lost = played(task, *there_and_back * task.public["step_limit"])
    assert lost.finished, "with the last move"
    assert lost.verdict().score == 0


def fits(rule: Rule, tried: dict[int, int]) -> bool:
    return all(output(rule, x) == y for x, y in tried.items())


def told_by(rule: dict[str, Any]) -> dict[int, int]:
    """What a rule makes of every input, by its definition."""
    a, b, m = rule["a"], rule["b"], rule.get("m")
    return {x: (a * x + b) % m if m else a * x + b for x in range(-100, 101)}


def brute(task: Task) -> Iterator[dict[str, int]]:
    """Every rule that the goal admits, by the words of the goal alone."""
    (a_low, a_high), (b_low, b_high) = task.public["a"], task.public["b"]
    for a, b in itertools.product(range(a_low, a_high + 1), range(b_low, b_high + 1)):
        if a:
            yield {"a": a, "b": b}
        yield from ({"a": a, "b": b, "m": m} for m in task.public["moduli"] if a % m)


@pytest.mark.parametrize("difficulty", family("rule_diagnosis").difficulties)
def test_the_reference_is_the_one_rule_that_every_input_fits(difficulty: str) -> None:
    for task in make_tasks("rule_diagnosis", difficulty, 2, 8):
        y = told_by(task.private)
        content = RuleContent.of(task)
        assert fits(content.rule, y)
        rules = rules_of(content.public.a, content.public.b, content.public.moduli)
        assert [rule for rule in rules if fits(rule, y)] == [content.rule]
        right = 0
        for number, params in enumerate(brute(task)):
            if number % 97 and told_by(params) != y:
                continue  # of the wrong ones a few
            _, environment = played(task, ("submit", {"params": params}))
            assert environment.verdict().is_solved == (told_by(params) == y)
            right += told_by(params) == y
        assert right >= 1
        assert reference_scores(task)["split"] == 1.0


def test_tries_are_budgeted_and_odd_answers_are_refused() -> None:
    task = next(make_tasks("rule_diagnosis", "easy", 1, 0))
    budget = task.public["probes"]
    tries = [("test_input", {"x": x}) for x in range(budget)]
    said, environment = played(task, *tries, *tries, ("test_input", {"x": 99}), ("test_input", {"x": 101}))
    assert said[:budget] == said[budget : 2 * budget]
    assert "used up" in str(said[-2])
    assert "between" in str(said[-1])
    for params in ({"a": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "m": 0}, {"a": "1", "b": 2}, [1, 2], None):
        with pytest.raises(ToolError):
            environment.call("submit", {"params": params})
    assert not environment.finished


@pytest.mark.parametrize("name", FAMILIES)
async def test_the_teacher_plays_alike_in_every_runtime(sandbox: Sandbox, name: str) -> None:
    for task in make_tasks(name, "mini", 4, 17):
        traces = [await taught(task, runtime, sandbox) for runtime in RuntimeName]
        first = traces[0]
        for trace in traces:
            assert trace.failure is None
            assert trace.finish_reason is FinishReason.FINISHED
            assert trace.summary.errors == {}
            assert trace.verdict == first.verdict
            assert made(trace) == made(first)
        assert first.verdict is not None
        if name == "rule_diagnosis":
            assert first.verdict.score == 1.0


async def taught(task: Task, runtime: RuntimeName, sandbox: Sandbox) -> Trace:
    told = task.model_copy(update={"private": {}, "reference": {}})
    model = ScriptedTeacher(told, runtime)
    return await run_episode(task, runtime=runtime, model=model, sandbox=sandbox, limits=Limits().of(runtime))


def made(trace: Trace) -> list[tuple[str, dict[str, object]]]:
    return [(call.tool, call.arguments) for step in trace.steps for call in step.interpreter_result.results]


@pytest.mark.parametrize(
    ("name", "part", "change"),
    [
        ("navigation", "reference", {"path": ["a", "b"]}),
        ("navigation", "public", {"start": "nowhere"}),
        ("rule_diagnosis", "reference", {"params": {"a": 1, "b": 77}}),
        ("rule_diagnosis", "private", {"a": 0, "b": 0, "kind": "linear_int", "m": None}),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    name: str, part: str, change: dict[str, object], tmp_path: Path
) -> None:
    task = next(make_tasks(name, "mini", 1, 3))
    broken = task.model_copy(update={part: getattr(task, part) | change})
    (path,) = write_tasks(tmp_path, [broken])
    with pytest.raises(UserError, match=f"not a valid {name} task"):
        read_task(path)


def test_a_policy_is_played_through_the_tools() -> None:
    task = next(make_tasks("navigation", "mini", 1, 0))
    wrong = [Move("move", {"node_id": "no"}), *(family("navigation").gold(task) or [])]
    assert family("navigation").score(task, wrong) == 1.0
