"""The loop, driven by scripts through the real runtimes: what is sent, what is seen, what ends it, who is to blame."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from keepstate.agents import episode as loop
from keepstate.agents.episode import run_episode, turn_seed
from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import ContextOverflow, Message, Reply
from keepstate.models.scripted import ScriptedModel
from keepstate.runtimes import Sandbox, base
from keepstate.tasks import environment_for, make_tasks
from keepstate.tasks.base import Environment, Task, Verdict
from keepstate.traces import read_trace, write_trace
from keepstate.traces.check import trace_problems
from keepstate.traces.parsing import parse_answer
from keepstate.traces.record import ErrorEvent, Limits, ModelResponseEvent, Trace
from keepstate.traces.summary import seconds
from keepstate.vocabulary import FinishReason, Origin, Rung, RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName
CODEACT = (PERSISTENT, FORGET)
TASK, OTHER = make_tasks("knapsack", "mini", 2, 0)
FAST = Limits(turns=6, seconds=30, tool_calls=3, action_seconds=5)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(allow_unsafe=True) as made:
        yield made


def block(code: str) -> str:
    return f"I try this.\n```python\n{code}\n```"


def calls(runtime: RuntimeName, *names: str) -> str:
    """An answer that calls tools without arguments."""
    if runtime is REACT:
        return "Thought: go on\nAction: " + json.dumps([{"tool": name, "args": {}} for name in names])
    return block("\n".join(f"print({name}())" for name in names))


async def play(
    answers: Sequence[str | Reply | Exception],
    runtime: RuntimeName,
    sandbox: Sandbox,
    limits: Limits = FAST,
    task: Task = TASK,
) -> tuple[Trace, ScriptedModel]:
    model = ScriptedModel(answers)
    trace = await run_episode(task, runtime=runtime, model=model, sandbox=sandbox, limits=limits)
    assert list(trace_problems(trace)) == []
    return trace, model


def observations(trace: Trace) -> list[str]:
    return [message["content"] for message in trace.messages[3::2]]


@pytest.mark.parametrize("runtime", RuntimeName)
async def test_the_conversation_only_grows(runtime: RuntimeName, sandbox: Sandbox) -> None:
    script = [
        calls(runtime, "list_items"),
        "no action",
        calls(runtime),
        calls(runtime, "inspect"),
        calls(runtime, "finish"),
    ]
    trace, model = await play(script, runtime, sandbox)
    assert trace.finish_reason is FinishReason.FINISHED
    for shorter, longer in itertools.pairwise([*model.conversations, trace.messages]):
        assert longer[: len(shorter)] == shorter
        assert len(longer) > len(shorter)
    assert [m["role"] for m in trace.messages] == ["system", *["user", "assistant"] * 5]
    assert trace.messages[1]["content"] == environment_for(TASK).goal
    assert [m["content"] for m in trace.messages[2::2]] == script
    assert all(observations(trace)), "every action is answered, also one that was silent or broken"


@pytest.mark.parametrize("runtime", RuntimeName)
async def test_finish_ends_at_once_also_on_the_last_turn(runtime: RuntimeName, sandbox: Sandbox) -> None:
    limits = Limits(turns=1, seconds=30, tool_calls=2, action_seconds=5)
    trace, _ = await play(
        [calls(runtime, "list_items", "list_items", "finish", "list_items")], runtime, sandbox, limits
    )
    assert trace.finish_reason is FinishReason.FINISHED
    assert trace.verdict is not None
    assert trace.messages[-1]["role"] == "assistant"
    assert [call.tool for call in trace.steps[0].interpreter_result.results if call.error is None] == [
        "list_items",
        "list_items",
        "finish",
    ]
    assert trace.steps[0].observation is None


@pytest.mark.parametrize("runtime", RuntimeName)
async def test_the_turn_limit_ends_and_is_graded(runtime: RuntimeName, sandbox: Sandbox) -> None:
    trace, model = await play([calls(runtime, "list_items")] * 9, runtime, sandbox)
    assert trace.finish_reason is FinishReason.TURN_LIMIT
    assert trace.verdict is not None
    assert len(model.conversations) == FAST.turns == trace.summary.num_steps
    assert trace.messages[-1]["role"] == "assistant"


async def test_an_episode_takes_as_long_as_it_took_however_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    class SetBack(datetime):
        hours = 0

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            cls.hours += 1
            return datetime(2026, 1, 2, 24 - cls.hours, tzinfo=tz)

    monkeypatch.setattr("keepstate.agents.recorder.datetime", SetBack)
    trace = await run_episode(TASK, runtime=REACT, model=ScriptedModel([calls(REACT, "finish")]))
    took = seconds(trace)
    assert took is not None
    assert 0 <= took < 60


async def test_state_is_kept_or_forgotten(sandbox: Sandbox) -> None:
    script = [block("import math\nseen = list_items()"), block("print(len(seen), math.pi)"), block("finish()")]
    kept, _ = await play(script, PERSISTENT, sandbox)
    lost, _ = await play(script, FORGET, sandbox)
    assert kept.summary.errors == {}
    assert "seen" in json.loads(observations(kept)[0])["globals"]
    assert json.loads(observations(kept)[1])["output"].endswith("3.141592653589793\n")
    assert lost.summary.errors == {"NameError": 1}
    assert lost.missed_variable
    assert json.loads(observations(lost)[0])["globals"] == []
    assert "NameError: name 'seen' is not defined" in json.loads(observations(lost)[1])["error"]
    assert kept.messages[1] == lost.messages[1]


@pytest.mark.parametrize("runtime", CODEACT)
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("I wonder.", "no code block"),
        (block("x = 1") + "\n" + block("y = 2"), "2 code blocks"),
        ("```python\nx = 1", "not closed"),
        (block("x = = 1"), "SyntaxError"),
        (block("for i in range(4): list_items()"), "tool call"),
    ],
)
async def test_what_went_wrong_is_said(runtime: RuntimeName, answer: str, words: str, sandbox: Sandbox) -> None:
    trace, _ = await play([answer, block("finish()")], runtime, sandbox)
    assert words in json.loads(observations(trace)[0])["error"]
    assert sum(trace.summary.errors.values()) == 1
    assert trace.failure is None


@pytest.mark.parametrize("runtime", CODEACT)
async def test_a_fence_inside_the_code_is_told_beside_the_syntax_error(runtime: RuntimeName, sandbox: Sandbox) -> None:
    cut = 'text = """# Title\n```sh\nls\n```\nend"""\nprint(len(text))'
    trace, _ = await play([block(cut), block("1/0") + "\n```json\n1\n```", block("finish()")], runtime, sandbox)
    errors = [json.loads(text)["error"] for text in observations(trace)]
    assert "unterminated triple-quoted string" in errors[0]
    assert errors[0].splitlines()[-1].startswith("The block ended at its first line ```")
    assert "fence" not in errors[1], "an error of another kind has another cause"


@pytest.mark.parametrize("runtime", RuntimeName)
async def test_the_same_text_is_read_the_same_from_the_trace(
    runtime: RuntimeName, sandbox: Sandbox, tmp_path: Path
) -> None:
    texts = [
        "  ```python\n  x = 1\n  ```",
        "```python:\nx\n```",
        "\ud83d ```python\n'\ud83d'\n```\r\n",
        "```python\n'\udc80'\x00\u2028\n```",
        "Action: [{'tool': 1}]",
        'Action: ```\n[{"tool": "\ud83d\\ud83d"}]\n```',
    ]
    script = [Reply(text, truncated=cut) for text in texts for cut in (False, True)]
    limits = Limits(turns=len(script), seconds=30, tool_calls=3, action_seconds=5)
    trace, _ = await play(script, runtime, sandbox, limits)
    read = read_trace(write_trace(tmp_path, trace))
    replies = [event for event in read.events if isinstance(event, ModelResponseEvent)]
    for step, reply in zip(read.steps, replies, strict=True):
        again = parse_answer(runtime, step.assistant_text, truncated=reply.truncated)
        assert again.action == step.code
        assert step.code is not None or again.problem == step.interpreter_result.error


@pytest.mark.parametrize("runtime", CODEACT)
async def test_a_silent_block_is_answered(runtime: RuntimeName, sandbox: Sandbox) -> None:
    trace, _ = await play([block("pass"), block(""), block("finish()")], runtime, sandbox)
    assert [json.loads(text) for text in observations(trace)] == [{"output": "", "globals": []}] * 2


async def test_react_says_what_went_wrong(sandbox: Sandbox) -> None:
    script = ["Thought: hm", calls(REACT, *["list_items"] * 4), 'Action: [{"tool": "nope", "args": {}}]', "Action: [1]"]
    trace, _ = await play([*script, calls(REACT, "finish")], REACT, sandbox)
    seen = observations(trace)
    assert seen[0] == 'Observation: error: No tool was called: no action. Write Action: [{"tool": ..., "args": {...}}].'
    assert seen[1].count("Observation: [list_items] [") == 3
    assert "Observation: error:" in seen[1].splitlines()[3]
    assert all("error" in text for text in seen[2:])
    assert trace.rung is Rung.NONE


async def test_what_only_python_takes_for_json_is_refused_and_nothing_is_called(sandbox: Sandbox) -> None:
    script = [
        'Action: [{"tool": "list_items"}, {"tool": "list_items", "tool": "finish"}]',
        'Action: [{"tool": "inspect", "args": {"item_id": "a", "item_id": "b"}}]',
        'Action: [{"tool": "inspect", "args": {"item_id": NaN}}]',
        'Action: [{"tool": "inspect", "args": {"item_id": -1e999}}]',
    ]
    trace, _ = await play([*script, calls(REACT, "finish")], REACT, sandbox)
    assert [len(step.interpreter_result.results) for step in trace.steps] == [0, 0, 0, 0, 1]
    words = ("key 'tool' twice", "key 'item_id' twice", "NaN is no JSON number", "-1e999 is no JSON number")
    assert [word in text for word, text in zip(words, observations(trace), strict=True)] == [True] * 4


@pytest.mark.parametrize("runtime", RuntimeName)
async def test_a_full_context_is_graded_as_it_stands(runtime: RuntimeName, sandbox: Sandbox) -> None:
    trace, _ = await play([calls(runtime, "list_items"), ContextOverflow("8193 tokens")], runtime, sandbox)
    assert trace.finish_reason is FinishReason.CONTEXT_LIMIT
    assert trace.verdict is not None
    assert trace.failure is None
    assert trace.messages[-1]["role"] == "user"


class Slow:
    """Answers after a while."""

    name = "slow"

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        await asyncio.sleep(0.15)
        return Reply(block("print(1)"))


@pytest.mark.parametrize("runtime", [PERSISTENT, REACT])
async def test_a_call_that_the_clock_overtakes_counts(
    sandbox: Sandbox, runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made in time; that its tool is slow is not the agent's doing, and no failure."""

    def slow(task: Task) -> Environment:
        made = environment_for(task)
        quick = made.call

        def call(tool: str, arguments: dict[str, Any]) -> Any:
            time.sleep(0.6)
            return quick(tool, arguments)

        monkeypatch.setattr(made, "call", call, raising=False)
        monkeypatch.setattr(made, "in_memory", False, raising=False)
        return made

    monkeypatch.setattr(base, "environment_for", slow)
    limits = Limits(turns=40, seconds=0.3, tool_calls=3, action_seconds=5)
    trace, _ = await play([calls(runtime, "list_items"), calls(runtime, "finish")], runtime, sandbox, limits)
    assert trace.failure is None
    assert trace.verdict is not None
    assert trace.finish_reason is FinishReason.TIME_LIMIT
    assert [[call.tool for call in step.interpreter_result.results] for step in trace.steps] == [["list_items"]]


async def test_the_time_limit_is_graded_as_it_stands(sandbox: Sandbox) -> None:
    limits = Limits(turns=40, seconds=0.4, tool_calls=3, action_seconds=5)
    trace = await run_episode(TASK, runtime=PERSISTENT, model=Slow(), sandbox=sandbox, limits=limits)
    assert trace.finish_reason is FinishReason.TIME_LIMIT
    assert trace.verdict is not None
    assert 0 < trace.summary.num_steps < 40


class Silent:
    """Never answers, or answers late after waiting for others."""

    name = "silent"

    def __init__(self, waits: float, seconds: float | None = None) -> None:
        self.waits, self.seconds = waits, seconds

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        await asyncio.sleep(self.waits)
        return Reply(block("finish()" if turn else "pass"), seconds=self.seconds)


async def test_an_answer_that_never_comes_is_our_failure_and_no_time_limit(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PATIENCE", 0.1)
    limits = Limits(seconds=0.2)
    trace = await run_episode(TASK, runtime=PERSISTENT, model=Silent(3_600), sandbox=sandbox, limits=limits)
    assert trace.verdict is None
    assert trace.failure is not None
    assert (trace.failure.origin, trace.failure.message) == (Origin.MODEL, "no answer within 0.3 s")


async def test_only_answers_and_actions_are_on_the_clock(sandbox: Sandbox) -> None:
    limits = Limits(seconds=0.5)
    waited = await run_episode(TASK, runtime=PERSISTENT, model=Silent(0.4, 0.01), sandbox=sandbox, limits=limits)
    assert waited.finish_reason is FinishReason.FINISHED, "what a model waited for others is not its time"
    late = await run_episode(TASK, runtime=PERSISTENT, model=Silent(0.01, 0.6), sandbox=sandbox, limits=limits)
    assert late.finish_reason is FinishReason.TIME_LIMIT
    assert late.verdict is not None
    assert late.messages[-1]["role"] == "assistant"
    assert late.steps == (), "an answer that came after the time is recorded and not executed"
    assert list(trace_problems(late)) == []


async def test_the_time_limit_also_cuts_an_action(sandbox: Sandbox) -> None:
    limits = Limits(turns=40, seconds=0.4, action_seconds=20)
    item = TASK.public["item_ids"][0]
    code = f"inspect({item!r})\ntake_item({item!r})\nwhile True: pass"
    trace, _ = await play([block(code)], PERSISTENT, sandbox, limits)
    assert trace.finish_reason is FinishReason.TIME_LIMIT
    assert trace.verdict is not None
    assert trace.verdict.metrics["taken"] == 1
    step = trace.steps[-1]
    assert [call.tool for call in step.interpreter_result.results] == ["inspect", "take_item"], "what it is graded by"
    assert "the episode's 0.4 s were over" in (step.interpreter_result.error or "")
    assert (step.code, step.observation) == (code, None)
    assert trace.summary.errors == {"EpisodeTimeLimit": 1}


@pytest.mark.parametrize("runtime", RuntimeName)
@pytest.mark.parametrize(
    ("raised", "message"),
    [(EpisodeFailure(Origin.MODEL, "server gone"), "server gone"), (TimeoutError("t"), "TimeoutError: t")],
)
async def test_a_failing_model_is_ours_and_not_graded(
    runtime: RuntimeName, raised: Exception, message: str, sandbox: Sandbox
) -> None:
    trace, _ = await play([calls(runtime, "list_items"), raised], runtime, sandbox)
    assert trace.failure is not None
    assert (trace.failure.origin, trace.failure.message) == (Origin.MODEL, message)
    assert (trace.verdict, trace.finish_reason) == (None, FinishReason.FAILED)
    error = next(event for event in trace.events if isinstance(event, ErrorEvent))
    assert error.traceback is not None
    assert "Traceback" in error.traceback


def broken(environment: Environment, name: str) -> Environment:
    """`environment` with one method that has a defect."""

    def defect(*_: Any) -> Any:
        raise KeyError(name)

    setattr(environment, name, defect)
    return environment


@pytest.mark.parametrize("runtime", RuntimeName)
@pytest.mark.parametrize(("method", "origin"), [("call", Origin.TASK), ("verdict", Origin.GRADER)])
async def test_a_defect_of_the_task_is_ours(
    runtime: RuntimeName, method: str, origin: Origin, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "environment_for", lambda task: broken(environment_for(task), method))
    limits = Limits(turns=1, seconds=30, tool_calls=3, action_seconds=5)
    trace, _ = await play([calls(runtime, "list_items")], runtime, sandbox, limits)
    assert trace.failure is not None
    assert trace.failure.origin is origin
    assert "KeyError" in trace.failure.message
    assert trace.verdict is None


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict.model_construct(is_solved=True, score=float("nan"), metrics={}),
        Verdict.model_construct(is_solved=False, score=85.0, metrics={}),
        Verdict.model_construct(is_solved=False, score=0.5, metrics={"value": float("inf")}),
        Verdict.model_construct(is_solved="yes", score=1.0, metrics={}),
        None,
    ],
)
async def test_a_verdict_out_of_bounds_is_our_failure(
    verdict: object, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def graded(task: Task) -> Environment:
        environment = environment_for(task)
        environment.verdict = lambda: verdict  # type: ignore[assignment, method-assign, return-value]
        return environment

    monkeypatch.setattr(base, "environment_for", graded)
    limits = Limits(turns=1, seconds=30, tool_calls=3, action_seconds=5)
    trace, _ = await play([calls(RuntimeName.REACT, "list_items")], RuntimeName.REACT, sandbox, limits)
    assert trace.failure is not None
    assert trace.failure.origin is Origin.GRADER
    assert trace.verdict is None


async def test_a_task_that_cannot_be_set_up_is_ours(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(task: Task) -> Environment:
        raise KeyError(task.task_id)

    monkeypatch.setattr(base, "environment_for", defect)
    trace = await run_episode(TASK, runtime=REACT, model=ScriptedModel([]), sandbox=sandbox, limits=FAST)
    assert trace.failure is not None
    assert trace.failure.origin is Origin.TASK
    assert trace.messages == ()


async def test_an_invalid_task_stops_the_run(sandbox: Sandbox) -> None:
    task = TASK.model_copy(update={"public": {}, "private": {}})
    with pytest.raises(UserError, match="not a valid knapsack task"):
        await run_episode(task, runtime=REACT, model=ScriptedModel([]), sandbox=sandbox, limits=FAST)


async def test_what_the_user_must_mend_stops_the_run(sandbox: Sandbox) -> None:
    with pytest.raises(UserError, match="no such model"):
        await play([UserError("no such model", "name another")], PERSISTENT, sandbox)


async def test_many_episodes_at_once(sandbox: Sandbox) -> None:
    script = [block("n = len(list_items())"), block("print(n)"), block("finish()")]
    traces = await asyncio.gather(
        *(play(script, runtime, sandbox, task=task) for runtime in CODEACT for task in (TASK, OTHER) for _ in range(4))
    )
    assert [trace.summary.errors for trace, _ in traces] == [{}] * 8 + [{"NameError": 1}] * 8


async def test_seeds_depend_on_task_and_turn_alone(sandbox: Sandbox) -> None:
    seeds = []
    for runtime in RuntimeName:
        _, model = await play([calls(runtime, "list_items")] * 3 + [calls(runtime, "finish")], runtime, sandbox)
        seeds.append(model.seeds)
    assert seeds[0] == seeds[1] == seeds[2]
    assert seeds[0] == [turn_seed(TASK.content_hash, 0, turn) for turn in range(4)]
    assert len({*seeds[0], turn_seed(OTHER.content_hash, 0, 0), turn_seed(TASK.content_hash, 1, 0)}) == 6
    assert all(0 <= seed < 2**31 for seed in seeds[0])


def test_limits_of_the_specification() -> None:
    for runtime in RuntimeName:
        limits = Limits().of(runtime)
        assert (limits.turns, limits.tool_calls) == (40, 25)
        assert limits.seconds == (600 if runtime is REACT else 900)
