"""Opaque Knapsack: the solver is exact, the sampler keeps its promises, the environment withstands hostile calls."""

import contextlib
import itertools
import json
import re
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from exact_play import World, best_mean_value
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstate.errors import UserError
from keepstate.tasks import environment_for, make_tasks
from keepstate.tasks.base import Task, ToolError
from keepstate.tasks.families import family, reference_scores
from keepstate.tasks.families.knapsack.content import Content, RuleSet
from keepstate.tasks.families.knapsack.sampling import DIFFICULTIES
from keepstate.tasks.families.knapsack.solver import best_of_few, solve, worth_of_unseen

ROOT = Path(__file__).parents[2]
ITEMS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), max_size=9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

POLICIES = family("knapsack").policies


def one(difficulty: str = "mini", rules: str = "strict", seed: int = 0) -> Task:
    return next(make_tasks("knapsack", difficulty, 1, seed, rules=rules))


def split(task: Task) -> tuple[list[str], list[str]]:
    """Ids of allowed and of forbidden classes."""
    content = Content.of(task)
    allowed = [i for i, item in content.private.items.items() if content.allows(item.class_)]
    return allowed, [i for i in content.private.items if i not in allowed]


@given(ITEMS, st.integers(0, 90), st.integers(0, 9))
@settings(max_examples=150)
def test_solver_agrees_with_trying_everything(items: list[tuple[int, int]], capacity: int, count: int) -> None:
    weights, values = [w for w, _ in items], [v for _, v in items]
    feasible = [
        subset
        for size in range(len(items) + 1)
        for subset in combinations(range(len(items)), size)
        if sum(weights[i] for i in subset) <= capacity
    ]
    packing = solve(weights, values, capacity)
    assert packing.value == max(sum(values[i] for i in subset) for subset in feasible)
    assert packing.value == sum(values[i] for i in packing.chosen)
    assert packing.weight == sum(weights[i] for i in packing.chosen) <= capacity
    few = max(sum(values[i] for i in subset) for subset in feasible if len(subset) <= count)
    assert best_of_few(weights, values, capacity, count) == few


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_optimum_agrees_with_ortools(difficulty: str) -> None:
    from ortools.algorithms.python import knapsack_solver

    solver = knapsack_solver.KnapsackSolver(
        knapsack_solver.SolverType.KNAPSACK_MULTIDIMENSION_BRANCH_AND_BOUND_SOLVER, "check"
    )
    for task in make_tasks("knapsack", difficulty, 25, 7):
        items = [task.private["items"][i] for i in split(task)[0]]
        solver.init([i["value"] for i in items], [[i["weight"] for i in items]], [task.public["capacity"]])
        assert solver.solve() == task.reference["optimal_value"], task.name


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_instances_keep_the_promises_of_their_difficulty(difficulty: str) -> None:
    parameters = DIFFICULTIES[difficulty]
    for task in make_tasks("knapsack", difficulty, 60, 3):
        public, items = task.public, task.private["items"]
        assert list(items) == public["item_ids"]
        assert parameters.items[0] <= len(items) <= parameters.items[1]
        for item in items.values():
            assert parameters.weight[0] <= item["weight"] <= parameters.weight[1]
            assert parameters.value[0] <= item["value"] <= parameters.value[1]
        assert len(set(public["allowed_classes"])) == parameters.allowed_classes
        assert items[public["item_ids"][0]]["class"] in public["allowed_classes"]
        allowed, _ = split(task)
        total = sum(items[i]["weight"] for i in allowed)
        low, high = parameters.capacity_ratio
        assert low * total - 0.5 <= public["capacity"] <= high * total + 0.5
        assert len(allowed) >= 5
        chosen = [items[i] for i in task.reference["optimal_item_ids"]]
        assert len(chosen) >= 3
        assert max(i["value"] for i in chosen) <= 0.4 * task.reference["optimal_value"]
        assert min(5, len(items)) <= public["inspect_budget"] <= len(items)
        assert public["inspect_budget"] >= len(chosen)


def test_every_value_of_a_range_is_drawn() -> None:
    weights = {i["weight"] for t in make_tasks("knapsack", "easy", 100, 0) for i in t.private["items"].values()}
    assert weights == set(range(5, 21))


@pytest.mark.parametrize("rules", RuleSet)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_gold_answer_solves_the_task(difficulty: str, rules: RuleSet) -> None:
    for task in make_tasks("knapsack", difficulty, 20, 11, rules=rules):
        environment = environment_for(task)
        for move in family("knapsack").gold(task):
            environment.call(move.tool, move.arguments)
        verdict = environment.verdict()
        assert (verdict.score, verdict.is_solved, environment.finished) == (1.0, True, True)
        assert verdict.metrics["refused_calls"] == 0


@given(
    st.text().filter(lambda tool: tool not in ("finish", "list_items")), st.dictionaries(st.text(), JSON, max_size=3)
)
@settings(max_examples=200)
def test_any_json_is_refused_without_effect(tool: str, arguments: dict[str, object]) -> None:
    environment = environment_for(one())
    for name in (tool, "inspect", "take_item"):
        with pytest.raises(ToolError):
            environment.call(name, arguments)
    verdict = environment.verdict()
    assert (verdict.metrics["inspected"], verdict.metrics["taken"], environment.finished) == (0, 0, False)


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("inspect", {}, "takes item_id"),
        ("inspect", {"item": "x"}, "takes item_id"),
        ("inspect", {"item_id": "x", "more": 1}, "takes item_id"),
        ("inspect", {"item_id": ["x"]}, "must be a str, got list"),
        ("take_item", {"item_id": None}, "must be a str, got NoneType"),
        ("take_item", {"item_id": "x" * 100_000}, "no item"),
        ("take_item", {"item_id": "\ud800"}, "no item"),
        ("inspect", {"item_id": {"a": {1, 2}}}, "must be a str, got dict"),
        ("finish", {"item_id": "x"}, "takes no arguments"),
        ("solve", {}, "unknown tool"),
        ("call", {}, "unknown tool"),
        (["inspect"], {}, "unknown tool"),
        ("inspect", "item", "takes item_id"),
        ("inspect", None, "takes item_id"),
    ],
)
def test_refusals_say_what_is_wrong_in_few_words(tool: str, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ToolError, match=says) as refusal:
        environment_for(one()).call(tool, arguments)
    assert len(str(refusal.value)) < 200
    str(refusal.value).encode()


def test_inspections_are_budgeted_and_a_second_look_is_free() -> None:
    drawn = make_tasks("knapsack", "easy", 50, 0)
    task = next(task for task in drawn if task.public["inspect_budget"] < len(task.public["item_ids"]))
    environment = environment_for(task)
    ids = json.loads(environment.call("list_items", {}))
    budget = task.public["inspect_budget"]
    assert ids == task.public["item_ids"]
    for item in ids[:budget] * 2:
        assert json.loads(environment.call("inspect", {"item_id": item})) == task.private["items"][item]
    with pytest.raises(ToolError, match="budget used up"):
        environment.call("inspect", {"item_id": ids[budget]})
    assert environment.verdict().metrics["inspected"] == budget


def test_strict_takes_need_an_inspection_and_all_refusals_without_one_look_alike() -> None:
    task = one("easy")
    environment = environment_for(task)
    allowed, forbidden = split(task)
    told = set()
    for item in [*allowed[:3], *forbidden[:3]]:
        with pytest.raises(ToolError) as refusal:
            environment.call("take_item", {"item_id": item})
        told.add(str(refusal.value).replace(item, "ID"))
    assert told == {"not inspected: ID"}
    assert all(f"{c}" in environment.goal for c in [f"Allowed classes: {', '.join(task.public['allowed_classes'])}"])


def test_paper_takes_need_no_inspection_and_the_goal_hides_the_allowed_classes() -> None:
    task = one("easy", "paper")
    environment = environment_for(task)
    allowed, forbidden = split(task)
    environment.call("take_item", {"item_id": allowed[0]})
    assert environment.verdict().metrics["value"] == task.private["items"][allowed[0]]["value"]
    with pytest.raises(ToolError, match=f"class {task.private['items'][forbidden[0]]['class']} is not allowed"):
        environment.call("take_item", {"item_id": forbidden[0]})
    assert "Allowed" not in environment.goal
    classes = sorted({item["class"] for item in task.private["items"].values()})
    assert f"Classes: {', '.join(classes)}\n" in environment.goal


@pytest.mark.parametrize("rules", RuleSet)
def test_capacity_holds_and_an_item_is_taken_once(rules: RuleSet) -> None:
    task = one("mini", rules)
    environment = environment_for(task)
    for item in task.public["item_ids"][: task.public["inspect_budget"]]:
        environment.call("inspect", {"item_id": item})
    refusals = []
    for item in [*split(task)[0]] * 2:
        try:
            environment.call("take_item", {"item_id": item})
        except ToolError as refusal:
            refusals.append(str(refusal))
    metrics = environment.verdict().metrics
    assert metrics["weight"] <= metrics["capacity"]
    assert any("already taken" in text for text in refusals)
    assert any("does not fit" in text for text in refusals)
    environment.call("finish", {})
    with pytest.raises(ToolError, match="finished"):
        environment.call("finish", {})


@pytest.mark.parametrize("rules", RuleSet)
@pytest.mark.parametrize("difficulty", ["mini", "easy", "hard"])
def test_reference_policies_are_ordered(difficulty: str, rules: RuleSet) -> None:
    tasks = list(make_tasks("knapsack", difficulty, 60, 5, rules=rules))
    scores = [reference_scores(task) for task in tasks]
    for score in scores:
        assert tuple(score) == tuple(POLICIES)
        assert score["greedy"] <= score["dp"] <= score["oracle"] == 1.0
        assert rules is RuleSet.PAPER or score["best"] == score["dp"]
    means = {policy: float(np.mean([score[policy] for score in scores])) for policy in POLICIES}
    assert 0.5 < means["blind"] < means["greedy"] < means["dp"] < 0.97
    if rules is RuleSet.PAPER:
        left, dense = (np.mean([takes_what_is_left(task, dense=dense) for task in tasks]) for dense in (False, True))
        assert means["dp"] + 0.005 < min(left, dense)
        assert max(left, dense) < means["best"]


@pytest.mark.parametrize(("difficulty", "rules"), [("mini", RuleSet.STRICT), ("easy", RuleSet.PAPER)])
def test_the_docs_tell_what_the_policies_score(difficulty: str, rules: RuleSet) -> None:
    scores = [reference_scores(task) for task in make_tasks("knapsack", difficulty, 200, 123_456_789, rules=rules)]
    row = re.search(rf"^\| `{difficulty}` \| {rules} \|(.*)\|$", (ROOT / "docs/tasks.md").read_text(), re.MULTILINE)
    assert row
    for policy, told in zip(POLICIES, row[1].split("|"), strict=True):
        found = [score[policy] for score in scores]
        mean, solved = 100 * np.mean(found), 100 * np.mean([score == 1 for score in found])
        assert [float(word) for word in told.replace("(", " ").replace(")", " ").split()] == [
            pytest.approx(mean, abs=0.051),
            pytest.approx(solved, abs=0.51),
        ]


def takes_what_is_left(task: Task, *, dense: bool) -> float:
    """A player of two lines: packs what it inspected, then tries every other id, as a refused take is free under the
    paper rules. It packs as `dp` does, or (`dense`) what is at least of mean value per weight, by value per weight."""
    environment = environment_for(task)
    public, items = task.public, task.private["items"]
    seen = public["item_ids"][: public["inspect_budget"]]
    allowed = [item for item in seen if items[item]["class"] in public["allowed_classes"]]
    packing = solve([items[i]["weight"] for i in allowed], [items[i]["value"] for i in allowed], public["capacity"])
    first = [allowed[place] for place in packing.chosen]
    unseen = [item for item in public["item_ids"] if item not in allowed]
    if dense:
        mean = sum(items[i]["value"] for i in allowed) / max(sum(items[i]["weight"] for i in allowed), 1)
        allowed.sort(key=lambda i: -items[i]["value"] / items[i]["weight"])
        first = [i for i in allowed if items[i]["value"] >= mean * items[i]["weight"]]
    for item in [*first, *unseen, *allowed]:
        with contextlib.suppress(ToolError):
            environment.call("take_item", {"item_id": item})
    return environment.verdict().score


@pytest.mark.parametrize("world", [World(4, 2, 3, 2), World(4, 2, 4, 6), World(4, 1, 4, 4)])
def test_no_player_is_said_to_be_better_than_the_very_best(world: World) -> None:
    means: dict[str, float] = defaultdict(float)
    for chance, task in world.tasks():
        if optimum := task.reference["optimal_value"]:
            for name, score in reference_scores(task).items():
                means[name] += chance * optimum * score
    exact = best_mean_value(world)
    assert 0.9 * exact < means["best"] < exact < means["oracle"]
    assert means["dp"] < 0.8 * exact


def test_what_unseen_items_are_worth_is_their_mean_over_all_that_can_come() -> None:
    count, share, weights, value, capacity = 3, 0.5, (1, 2, 2, 5), 7.0, 4
    chance = 1 / (2 * len(weights)) ** count
    after = np.stack([np.zeros(capacity + 1), np.arange(capacity + 1)], axis=1)  # nothing; one for every unit left free
    for free, worth in enumerate(worth_of_unseen(count, share, weights, value, after)):
        total = with_left = 0.0
        for drawn in itertools.product([None] * len(weights) + list(weights), repeat=count):  # None: half of the draws
            left = free
            for weight in drawn:
                if weight is not None and weight <= left:
                    left -= weight
                    total += value * chance
            with_left += left * chance
        assert worth.tolist() == pytest.approx([total, total + with_left])
    assert worth_of_unseen(3, 0.0, (), 0.0, after).tolist() == after.tolist()


@pytest.mark.parametrize("rules", RuleSet)
@pytest.mark.parametrize("budget", [0, 1, 2, 14])
def test_the_oracle_is_the_best_of_all_packings(rules: RuleSet, budget: int) -> None:
    for task in make_tasks("knapsack", "mini", 3, 11, rules=rules):
        items, public = task.private["items"], {**task.public, "inspect_budget": budget}
        allowed = [i for i in public["item_ids"] if items[i]["class"] in public["allowed_classes"]]
        most = budget if rules is RuleSet.STRICT else len(allowed)
        values = [
            sum(items[i]["value"] for i in chosen)
            for count in range(min(most, len(allowed)) + 1)
            for chosen in combinations(allowed, count)
            if sum(items[i]["weight"] for i in chosen) <= public["capacity"]
        ]
        scores = reference_scores(task.model_copy(update={"public": public}))
        assert scores["oracle"] == pytest.approx(max(values) / task.reference["optimal_value"])
        assert max(scores.values()) == scores["oracle"]


def test_oracle_is_bounded_by_the_budget() -> None:
    task = one()
    chosen = [task.private["items"][i]["value"] for i in task.reference["optimal_item_ids"]]
    poor = task.model_copy(update={"public": {**task.public, "inspect_budget": 1}})
    assert reference_scores(poor)["oracle"] <= max(i["value"] for i in task.private["items"].values()) / sum(chosen) < 1


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("public", {"capacity": -1}, "capacity"),
        ("public", {"item_ids": ["a"]}, "different items"),
        ("reference", {"optimal_value": 1}, "not what the file states"),
        ("reference", {"optimal_item_ids": ["a", "a"]}, "twice"),
        ("private", {"items": {"a": {"weight": "x", "value": 1, "class": "A"}}}, "items.a.weight"),
        ("private", {"extra": 1}, "extra"),
    ],
)
def test_a_task_that_contradicts_itself_is_named(part: str, change: dict[str, object], says: str) -> None:
    task = one()
    broken = task.model_copy(update={part: {**getattr(task, part), **change}})
    with pytest.raises(UserError, match=says) as error:
        environment_for(broken)
    assert task.name in error.value.message


def test_a_reference_that_breaks_the_rules_is_refused() -> None:
    task = one()
    forbidden = split(task)[1][0]
    item = task.private["items"][forbidden]
    reference = {
        "optimal_item_ids": [forbidden],
        "optimal_value": item["value"],
        "optimal_weight": item["weight"],
    }
    with pytest.raises(UserError, match="own rules"):
        environment_for(task.model_copy(update={"reference": reference}))
