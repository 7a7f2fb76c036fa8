"""The scripted teacher: optimal play of what its inspections bought, paired across runtimes, from public knowledge."""

import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstate.agents.episode import run_episode
from keepstate.errors import UserError
from keepstate.models.scripted import ScriptedModel
from keepstate.models.teacher import ScriptedTeacher
from keepstate.runtimes import Sandbox
from keepstate.tasks import make_tasks
from keepstate.tasks.base import Task
from keepstate.tasks.families.knapsack.solver import solve
from keepstate.tasks.families.knapsack.teacher import decide
from keepstate.tasks.families.knapsack.teacher_text import best_packing
from keepstate.traces.record import Limits, Trace
from keepstate.vocabulary import FinishReason, Origin, RuntimeName


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(allow_unsafe=True) as sandbox:
        yield sandbox


async def play(task: Task, runtime: RuntimeName, sandbox: Sandbox, model: object = None, calls: int = 25) -> Trace:
    return await run_episode(
        task,
        runtime=runtime,
        model=model or ScriptedTeacher(task, runtime, tool_calls=calls),  # type: ignore[arg-type]
        sandbox=sandbox,
        limits=Limits(tool_calls=calls),
    )


def calls_of(trace: Trace, *tools: str) -> list[tuple[str, str]]:
    results = [call for step in trace.steps for call in step.interpreter_result.results]
    return [(call.tool, call.arguments["item_id"]) for call in results if call.tool in tools]


def best_of_inspected(task: Task, trace: Trace) -> int:
    seen = [task.private["items"][item] for _, item in calls_of(trace, "inspect")]
    usable = [item for item in seen if item["class"] in task.public["allowed_classes"]]
    return solve([i["weight"] for i in usable], [i["value"] for i in usable], task.public["capacity"]).value


@pytest.mark.parametrize(("difficulty", "count"), [("mini", 8), ("easy", 2), ("medium", 1), ("hard", 2)])
async def test_plays_optimally_and_alike_in_every_runtime(sandbox: Sandbox, difficulty: str, count: int) -> None:
    for task in make_tasks("knapsack", difficulty, count, 17):
        traces = [await play(task, runtime, sandbox) for runtime in RuntimeName]
        for trace in traces:
            assert trace.failure is None
            assert trace.finish_reason is FinishReason.FINISHED
            assert trace.summary.errors == {}
            assert len(trace.steps) >= 3
            assert trace.verdict is not None
            assert trace.verdict.metrics["inspected"] == task.public["inspect_budget"]
            assert trace.verdict.metrics["value"] == best_of_inspected(task, trace)
            assert trace.verdict.metrics["refused_calls"] == 0
            assert calls_of(trace, "inspect", "take_item") == calls_of(traces[0], "inspect", "take_item")
            assert trace.verdict == traces[0].verdict


async def test_needs_no_hidden_data(sandbox: Sandbox) -> None:
    task = next(make_tasks("knapsack", "mini", 1, 3))
    for runtime in RuntimeName:
        told = task.model_copy(update={"private": {}, "reference": {}})
        trace = await play(task, runtime, sandbox, ScriptedTeacher(told, runtime))
        assert trace.verdict is not None
        assert trace.verdict.metrics["value"] == best_of_inspected(task, trace)


async def test_persistent_answers_miss_their_variables_in_forget(sandbox: Sandbox) -> None:
    task = next(make_tasks("knapsack", "mini", 1, 4))
    taught = await play(task, RuntimeName.PERSISTENT, sandbox)
    answers = ScriptedModel([step.assistant_text for step in taught.steps])
    mismatched = await play(task, RuntimeName.FORGET, sandbox, answers)
    assert mismatched.steps[0].interpreter_result.error is None
    assert {step.interpreter_result.error_type for step in mismatched.steps[1:]} == {"NameError"}
    assert mismatched.missed_variable


async def test_forget_answers_work_in_persistent_and_cost_more_text(sandbox: Sandbox) -> None:
    longer = 0
    for task in make_tasks("knapsack", "mini", 6, 5):
        persistent = await play(task, RuntimeName.PERSISTENT, sandbox)
        forget = await play(task, RuntimeName.FORGET, sandbox)
        answers = ScriptedModel([step.assistant_text for step in forget.steps])
        mismatched = await play(task, RuntimeName.PERSISTENT, sandbox, answers)
        assert mismatched.verdict == persistent.verdict
        written = [sum(len(step.assistant_text) for step in trace.steps) for trace in (persistent, mismatched)]
        longer += written[1] > 1.3 * written[0]
    assert longer >= 5


@pytest.mark.parametrize("runtime", RuntimeName)
async def test_keeps_to_a_small_cap_on_tool_calls(sandbox: Sandbox, runtime: RuntimeName) -> None:
    task = next(make_tasks("knapsack", "mini", 1, 6))
    trace = await play(task, runtime, sandbox, calls=6)
    assert trace.summary.errors == {}
    assert trace.verdict is not None
    assert trace.verdict.metrics["value"] == best_of_inspected(task, trace)


@pytest.mark.parametrize("runtime", RuntimeName)
async def test_an_observation_that_is_not_of_its_making_is_our_failure(sandbox: Sandbox, runtime: RuntimeName) -> None:
    task, other = make_tasks("knapsack", "mini", 2, 7)
    trace = await play(task, runtime, sandbox, ScriptedTeacher(other, runtime), calls=2)
    assert trace.failure is not None
    assert trace.failure.origin is Origin.MODEL
    assert trace.verdict is None


def test_plays_no_other_rules() -> None:
    paper = next(make_tasks("knapsack", "mini", 1, 0, rules="paper"))
    with pytest.raises(UserError, match="strict"):
        ScriptedTeacher(paper, RuntimeName.FORGET)


@given(st.text(min_size=1), st.integers(1, 130), st.integers(1, 20))
@settings(deadline=None)
def test_batches_cover_the_budget_within_the_cap(task_hash: str, budget: int, max_batch: int) -> None:
    bounds = decide(task_hash, 0, budget, max_batch).bounds
    assert bounds[0][0] == 0
    assert bounds[-1][1] == budget
    assert all(first < last <= first + max_batch for first, last in bounds)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(bounds))


def test_decisions_vary_by_task_and_seed_and_by_nothing_else() -> None:
    plans = [decide(f"task {number}", 0, 10, 20) for number in range(60)]
    assert plans == [decide(f"task {number}", 0, 10, 20) for number in range(60)]
    assert len({plan.style.order for plan in plans}) == 3
    assert len({plan.style.name for plan in plans}) == 3
    assert {len(plan.bounds) for plan in plans} == {2}
    assert len({plan.bounds for plan in plans}) >= 4
    assert decide("task 1", 1, 10, 20) != plans[1]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=12), st.integers(0, 60))
@settings(deadline=None)
def test_the_packing_it_teaches_is_exact(items: list[tuple[int, int]], capacity: int) -> None:
    known = {f"item_{number}": item for number, item in enumerate(items)}
    pack = best_packing(known, capacity)
    assert sum(known[item][1] for item in pack) <= capacity
    best = solve([weight for _, weight in items], [value for value, _ in items], capacity)
    assert sum(known[item][0] for item in pack) == best.value
