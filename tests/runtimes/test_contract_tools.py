"""The contract, part 3: tool calls, in all three runtimes. Values, refusals, the cap, the end of the episode."""

import asyncio
import threading
from typing import Any

import pytest
from playground import CODEACT, LIMITS, PERSISTENT, REACT, Toolbox, calls_action, opened

from keepstate.errors import EpisodeFailure
from keepstate.runtimes import Sandbox
from keepstate.tasks import aside
from keepstate.traces.record import Limits, ToolCall
from keepstate.vocabulary import Origin, Rung, RuntimeName

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVERY = pytest.mark.parametrize("runtime", RuntimeName)
CODE = pytest.mark.parametrize("runtime", CODEACT)


@EVERY
async def test_calls_reach_the_environment_in_order(sandbox: Sandbox, runtime: RuntimeName) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("echo", {"value": "é\n\ud800"}),
        ("add", {"a": 2**70, "b": -1}),
        ("nothing", {}),
    ]
    async with opened(runtime, sandbox) as session:
        result = await session.run(calls_action(runtime, calls))
        assert session.environment.log == calls
    assert result.error is None
    assert [(call.tool, call.arguments) for call in result.results] == calls
    assert [call.output for call in result.results] == ["é\n\ud800", 2**70 - 1, None]


@EVERY
async def test_a_refusal_is_the_agents_to_see(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        result = await session.run(calls_action(runtime, [("refuse", {"value": "because"})]))
    assert [call.error for call in result.results] == ["refused: because"]
    if runtime is not REACT:
        assert result.error_type == "ToolError"
        assert result.error is not None
        assert result.error.splitlines()[-1].endswith("ToolError: refused: because")
        assert not result.state_lost


@EVERY
async def test_a_cap_counts_calls_of_one_action(sandbox: Sandbox, runtime: RuntimeName) -> None:
    limits = Limits(tool_calls=3, action_seconds=10)
    async with opened(runtime, sandbox, limits) as session:
        for _ in range(2):  # each action has its own count
            result = await session.run(calls_action(runtime, [("echo", {"value": str(n)}) for n in range(5)]))
            assert result.error_type == "ToolCallLimit"
            assert result.error is not None
            assert "3 tool calls" in result.error
            assert [call.output for call in result.results] == ["0", "1", "2"]
            assert not result.state_lost
        assert len(session.environment.log) == 6


@EVERY
async def test_finish_ends_the_action_at_once_and_is_free(sandbox: Sandbox, runtime: RuntimeName) -> None:
    calls = [("nothing", {}), ("nothing", {}), ("finish", {}), ("echo", {"value": "late"})]
    async with opened(runtime, sandbox, Limits(tool_calls=2, action_seconds=10)) as session:
        result = await session.run(calls_action(runtime, calls))
        assert session.environment.log == calls[:3]
        assert session.environment.finished
    assert result.error is None
    assert [call.tool for call in result.results] == ["nothing", "nothing", "finish"]


@EVERY
async def test_a_defect_of_the_environment_is_ours(
    sandbox: Sandbox, runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: Any) -> Any:
        raise KeyError("ours")

    monkeypatch.setattr(Toolbox, "call", defect)
    async with opened(runtime, sandbox) as session:
        with pytest.raises(EpisodeFailure, match="ours") as caught:
            await session.run(calls_action(runtime, [("nothing", {})]))
    assert caught.value.origin is Origin.TASK


NO_JSON = {"nan": float("nan"), "infinite": [{"a": float("-inf")}], "an object": object(), "huge": 10**5000}


class Faulty(Toolbox):
    """Raises what `echo` is asked for, or does not return."""

    def __init__(self, *, in_memory: bool = False) -> None:
        super().__init__()
        self.in_memory = in_memory
        self.released = threading.Event()

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        match arguments.get("value"):
            case "exit":
                raise SystemExit(3)
            case "interrupt":
                raise KeyboardInterrupt
            case "cancel":
                raise asyncio.CancelledError
            case "stop":
                raise StopIteration
            case "wait":
                self.released.wait(20)
            case str() as value if value in NO_JSON:
                return NO_JSON[value]
        return super().call(tool, arguments)


@EVERY
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("fault", ["exit", "interrupt", "cancel", "stop"])
async def test_whatever_a_tool_raises_is_ours(
    sandbox: Sandbox, runtime: RuntimeName, fault: str, in_memory: bool
) -> None:
    async with opened(runtime, sandbox, environment=Faulty(in_memory=in_memory)) as session:
        with pytest.raises(EpisodeFailure, match="tool echo") as caught:
            await session.run(calls_action(runtime, [("echo", {"value": fault})]))
    assert caught.value.origin is Origin.TASK


@EVERY
@pytest.mark.any_rung
@pytest.mark.parametrize("value", NO_JSON)
async def test_what_is_no_json_value_is_no_answer(sandbox: Sandbox, runtime: RuntimeName, value: str) -> None:
    async with opened(runtime, sandbox, environment=Faulty(in_memory=True)) as session:
        with pytest.raises(EpisodeFailure, match="tool echo") as caught:
            await session.run(calls_action(runtime, [("echo", {"value": value})]))
    assert caught.value.origin is Origin.TASK


@CODE
@pytest.mark.any_rung
async def test_a_call_that_outlives_its_interpreter_is_on_record(sandbox: Sandbox, runtime: RuntimeName) -> None:
    """Asked by hand, so that the interpreter can end before the answer comes."""
    faulty = Faulty()
    code = """
import gc, os
send, step = next(c.send for c in gc.get_objects() if type(c).__name__ == 'Channel'), 1
frame = b'{"step":1,"kind":"call","call":1,"tool":"echo","output":["",0,""],"arguments":{"value":"wait"}}'
send(len(frame).to_bytes(4, 'big') + frame)
os._exit(0)
"""
    async with opened(runtime, sandbox, environment=faulty) as session:
        asyncio.get_running_loop().call_later(0.5, faulty.released.set)
        result = await session.run(code)
        assert result.error_type == "InterpreterExit"
        assert [call.output for call in result.results] == ["wait"]
        assert await session.works()


@EVERY
@pytest.mark.any_rung
async def test_a_tool_that_hangs_holds_up_nobody_and_is_ours(
    sandbox: Sandbox, runtime: RuntimeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "SECONDS", 0.4)
    faulty = Faulty()
    async with opened(runtime, sandbox) as other, opened(runtime, sandbox, environment=faulty) as session:
        hangs = asyncio.create_task(session.run(calls_action(runtime, [("echo", {"value": "wait"})])))
        for number in range(5):
            result = await other.run(calls_action(runtime, [("add", {"a": number, "b": 1})]))
            assert [call.output for call in result.results] == [number + 1]
        with pytest.raises(EpisodeFailure, match=r"did not return within 0\.4 s") as caught:
            await hangs
        assert caught.value.origin is Origin.TASK
        with pytest.raises(EpisodeFailure, match="did not return"):
            await session.gate.settled()
    faulty.released.set()


@CODE
@pytest.mark.any_rung
async def test_the_time_of_a_slow_tool_is_not_the_agents(sandbox: Sandbox, runtime: RuntimeName) -> None:
    faulty = Faulty()
    async with opened(runtime, sandbox, Limits(action_seconds=0.4), environment=faulty) as session:
        asyncio.get_running_loop().call_later(1.2, faulty.released.set)
        assert await session.output("print(echo('wait'), echo('then'))") == "wait then\n"
        result = await session.run("while True: pass")
        assert result.error_type == "TimeLimit"


@EVERY
async def test_all_arguments_of_an_action_are_bounded_together(sandbox: Sandbox, runtime: RuntimeName) -> None:
    """Each call is within its own bound; too many values in all are refused, and the agent is told."""
    if runtime is REACT:
        action = calls_action(runtime, [("echo", {"value": [0] * 1500})] * 10)
    else:
        action = "for _ in range(10):\n    try: echo([0] * 1500)\n    except ToolError as error: print(error)"
    async with opened(runtime, sandbox) as session:
        result = await session.run(action)
        assert len(session.environment.log) == 6
        assert [call.error is None for call in result.results] == [True] * 6 + [False] * 4
        assert all(not call.arguments and "10,000 values" in (call.error or "") for call in result.results[6:])
        assert runtime is REACT or result.output.count("10,000 values and 262,144 characters are allowed") == 4
        again = await session.run(calls_action(runtime, [("echo", {"value": [0] * 1500})]))
        assert [call.error for call in again.results] == [None], "each action has its own count"


@CODE
@pytest.mark.any_rung
async def test_large_arguments_are_refused_where_they_are_made(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        for value in ("[0] * 250_000", "[[]] * 170_000", "[{'a': 0}] * 55_000", "{str(n): 0 for n in range(50_000)}"):
            result = await session.run(f"for _ in range(25): echo({value})")
            assert result.error_type == "ValueError"
            assert "the arguments are too long" in (result.error or "")
            assert "65536 are allowed" in (result.error or "")
        assert session.environment.log == []
        assert await session.works()


@EVERY
async def test_the_rung_is_known(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        assert session.runtime.name is runtime
        assert session.runtime.rung is (Rung.NONE if runtime is REACT else sandbox.rung)


@CODE
async def test_tools_are_functions_with_python_values(sandbox: Sandbox, runtime: RuntimeName) -> None:
    code = """
print(echo("a"), echo(value="b"), add(1, b=2), nothing())
print(echo.__name__, callable(add), sorted([3, 1], key=lambda n: add(n, 0)))
try:
    refuse("x")
except Exception as error:
    print(type(error).__name__, error)
"""
    async with opened(runtime, sandbox) as session:
        assert await session.output(code) == "a b 3 None\necho True [1, 3]\nToolError refused: x\n"


BAD_CALLS = [
    ("missing argument", "echo()"),
    ("unknown keyword", "echo(nope=1)"),
    ("too many", "echo(1, 2)"),
    ("twice", "echo('a', value='b')"),
    ("not JSON", "echo(object())"),
    ("a set", "echo({1})"),
    ("bytes", "echo(b'x')"),
    ("contains itself", "x = []\nx.append(x)\necho(x)"),
    ("nested too deeply", "x = []\nfor _ in range(100_000): x = [x]\necho(x)"),
    ("not a number", "echo(float('nan'))"),
    ("huge", "echo('x' * 50_000_000)"),
    ("huge int", "add(1, 10 ** 100_000)"),
]


@CODE
@pytest.mark.any_rung
@pytest.mark.parametrize("code", [row[1] for row in BAD_CALLS], ids=[row[0] for row in BAD_CALLS])
async def test_a_bad_call_is_a_python_error(sandbox: Sandbox, runtime: RuntimeName, code: str) -> None:
    limits = Limits(action_seconds=10)
    async with opened(runtime, sandbox, limits) as session:
        result = await session.run(code)
        assert session.environment.log == []
        assert result.error_type is not None
        assert result.error_type in ("TypeError", "ValueError", "RecursionError", "ToolError", "OverflowError")
        assert not result.state_lost
        assert await session.works()


@CODE
async def test_great_values_pass_both_ways(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox) as session:
        assert await session.output("text = 'é' * 10_000\nprint(echo(text) == text)") == "True\n"
        assert await session.output("print(len(repeat(900_000)))") == "900000\n"
        assert await session.output(f"print(len('{'y' * 900_000}'))") == "900000\n"


async def test_tools_are_back_after_being_overwritten(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as session:
        await session.output("echo = 5\ndel add\nnothing = None\nprint(echo)")
        assert await session.output("print(echo('x'), add(1, 2), nothing())") == "x 3 None\n"


@CODE
async def test_the_cap_cannot_be_swallowed(sandbox: Sandbox, runtime: RuntimeName) -> None:
    code = (
        "for n in range(50):\n    try:\n        echo(str(n))\n    except BaseException:\n        pass\nprint('went on')"
    )
    async with opened(runtime, sandbox, Limits(tool_calls=3, action_seconds=10)) as session:
        result = await session.run(code)
        assert result.error_type == "ToolCallLimit"
        assert len(session.environment.log) == 3
        assert await session.works()


@CODE
@pytest.mark.parametrize("after", ["", "print('late'); echo('late')", "1 / 0", "import time; time.sleep(60)"])
async def test_the_result_of_the_last_block_is_that_at_its_finish_however_fast_it_ends(
    sandbox: Sandbox, runtime: RuntimeName, after: str
) -> None:
    code = f"x = 1\nprint('seen', end='')\ntry:\n    finish()\nexcept BaseException:\n    pass\n{after}"
    async with opened(runtime, sandbox, Limits(action_seconds=9)) as session:
        result = await session.run(code)
        assert session.environment.log == [("finish", {})]
    assert (result.output, result.error, result.globals, result.state_lost) == ("seen", None, (), False)
    assert result.results == (ToolCall("finish", {}),)
    assert result.seconds < 9, "nothing is waited for"


async def test_a_finish_hides_no_cap(sandbox: Sandbox) -> None:
    code = "try:\n    nothing(); nothing()\nexcept BaseException:\n    finish()"
    async with opened(PERSISTENT, sandbox, Limits(tool_calls=1)) as session:
        assert (await session.run(code)).error_type == "ToolCallLimit"


BAD_ACTIONS = [
    ("not JSON", "[{"),
    ("no list", '{"tool": "echo", "args": {"value": "x"}}'),
    ("no objects", "[1]"),
    ("no tool", '[{"args": {}}]'),
    ("tool is no name", '[{"tool": 5, "args": {}}]'),
    ("unknown tool", '[{"tool": "nope", "args": {}}]'),
    ("hidden attribute", '[{"tool": "verdict", "args": {}}]'),
    ("dunder", '[{"tool": "__init__", "args": {}}]'),
    ("args no object", '[{"tool": "echo", "args": ["x"]}]'),
    ("args missing", '[{"tool": "echo"}]'),
    ("wrong argument", '[{"tool": "echo", "args": {"other": 1}}]'),
    ("empty", ""),
    ("deeply nested", "[" * 100_000),
    ("huge number", '[{"tool": "add", "args": {"a": ' + "9" * 10_000 + ', "b": 1}}]'),
    ("not a number", '[{"tool": "add", "args": {"a": NaN, "b": 1}}]'),
]


@pytest.mark.parametrize("action", [row[1] for row in BAD_ACTIONS], ids=[row[0] for row in BAD_ACTIONS])
async def test_react_answers_a_bad_action(action: str) -> None:
    async with opened(REACT, None) as session:
        result = await session.run(action)
        assert session.environment.log == []
        assert result.error or any(call.error for call in result.results)
        good = await session.run(calls_action(REACT, [("echo", {"value": "x"})]))
        assert [call.output for call in good.results] == ["x"]


async def test_react_goes_on_after_a_refused_call() -> None:
    calls = [("refuse", {"value": "no"}), ("echo", {"value": "yes"})]
    async with opened(REACT, None) as session:
        result = await session.run(calls_action(REACT, calls))
    assert [(call.error, call.output) for call in result.results] == [("refused: no", None), (None, "yes")]
    assert result.globals is None


async def test_codeact_without_a_sandbox_is_refused() -> None:
    with pytest.raises(Exception, match="sandbox"):
        async with opened(PERSISTENT, None):
            pass


@EVERY
async def test_close_is_safe_twice_and_after_a_failure(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox, LIMITS) as session:
        await session.runtime.close()
        await session.runtime.close()
