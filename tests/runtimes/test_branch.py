"""A branch of a runtime: the same state twice, then neither changes the other; refused where it cannot be had."""

import asyncio
from typing import Any

import pytest
from playground import FORGET, LIMITS, PERSISTENT, REACT, Session, Toolbox, opened

from keepstate.errors import EpisodeFailure
from keepstate.runtimes import CannotBranch, Sandbox
from keepstate.runtimes.base import ToolGate
from keepstate.runtimes.branch import Ran, run_again
from keepstate.runtimes.sandbox.block import BlockResult
from keepstate.tasks.tools import ToolError
from keepstate.traces.record import Limits, ToolCall
from keepstate.vocabulary import Origin, RuntimeName

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATE = """
import json
class Point:
    def __init__(self, x): self.x = x
points, total, told = [Point(1)], add(40, 2), echo('seen')
gen = (n for n in range(9)); next(gen)
shared = points
try: refuse('it')
except ToolError as error: why = str(error)
"""


async def branched(session: Session) -> Session:
    gate = await session.gate.branch()
    assert isinstance(gate.environment, Toolbox)
    return Session(await session.runtime.branch(gate), gate, gate.environment)


async def test_both_branches_have_the_state_and_go_on_alone(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as one:
        await one.output(STATE)
        await one.output("1 + 1\npoints.append(Point(2))")
        assert (await one.run("1 / 0")).error_type == "ZeroDivisionError"
        log = list(one.environment.log)
        two = await branched(one)
        try:
            ask = "print(total, told, why, [p.x for p in shared], shared is points, next(gen))"
            assert await one.output(ask) == await two.output(ask) == "42 seen refused: it [1, 2] True 1\n"
            await one.output("points.clear(); one = echo('one')")
            assert await two.output("print(len(points), 'one' in globals())") == "2 False\n"
            assert (two.environment.log, one.environment.log) == (log, [*log, ("echo", {"value": "one"})])
            assert (await two.run("finish()")).error is None
            assert (two.environment.over, one.environment.over) == (True, False)
            await two.runtime.close()
            assert await one.works(), "the end of one is not that of the other"
            again = await branched(one)
            await one.runtime.close()
            assert await again.works()
            await again.runtime.close()
        finally:
            await two.runtime.close()


@pytest.mark.needs("files")
async def test_files_and_places_in_open_files_are_each_branchs_own(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as one:
        await one.output("file = open('/tmp/mine', 'w+'); file.write('ab'); file.flush(); file.seek(1); None")
        two = await branched(one)
        try:
            await one.output("file.write('ONE'); file.flush(); open('/tmp/other', 'w').close()")
            see = "import os; print(file.read(), open('/tmp/mine').read(), sorted(os.listdir('/tmp')))"
            assert await two.output(see) == "b ab ['mine']\n"
        finally:
            await two.runtime.close()


async def test_counts_caps_and_limits_are_those_of_each(sandbox: Sandbox) -> None:
    limits = LIMITS.model_copy(update={"tool_calls": 2, "action_seconds": 0.5})
    async with opened(RuntimeName("carry-after-cap-announced"), sandbox, limits) as one:
        assert (await one.run("x = 1\nfor n in range(3): echo('a')")).error_type == "ToolCallLimit"
        two = await branched(one)
        try:
            assert (await two.run("print(x); echo('a'); echo('b')")).error is None
            assert (await one.run("x; echo('a'); echo('b'); echo('c')")).error_type == "ToolCallLimit"
            assert (await two.run("x")).error_type == "NameError", "that block was not cut"
            assert (await two.run("while True: pass")).error_type == "TimeLimit"
        finally:
            await two.runtime.close()


async def test_a_lifetime_goes_on_counting_and_forget_has_nothing_to_repeat(sandbox: Sandbox) -> None:
    async with opened(RuntimeName("lifetime-3"), sandbox) as one, opened(FORGET, sandbox) as forgets:
        await one.output("x = 1")
        await one.output("x = 2")
        two = await branched(one)
        assert await two.output("print(x)") == "2\n"
        assert (await two.run("x")).error_type == "NameError"
        await two.runtime.close()
        await forgets.output("x = 1")
        none = await branched(forgets)
        assert await none.works()
        await none.runtime.close()


async def test_variables_only_holds_in_a_branch(sandbox: Sandbox) -> None:
    async with opened(RuntimeName("variables-only"), sandbox) as one:
        await one.output("import math\nx = math.pi")
        two = await branched(one)
        assert (await two.run("math")).error_type == "NameError"
        assert await two.output("print(x > 3)") == "True\n"
        await two.runtime.close()


async def test_a_branch_while_a_block_runs_is_refused(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as one:
        running = asyncio.create_task(one.run("import time; time.sleep(0.3)"))
        await asyncio.sleep(0.05)
        with pytest.raises(CannotBranch, match="an action is running"):
            await branched(one)
        assert (await running).error is None
        two = await branched(one)
        await two.runtime.close()


class Waits(Toolbox):
    """Its tools do not return at once."""

    in_memory = False

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        if tool == "add":
            raise ToolError("not here") from None
        return super().call(tool, arguments)


async def test_a_branch_while_a_tool_call_is_pending_is_refused(sandbox: Sandbox) -> None:
    gate = ToolGate(Waits(), 5)
    gate._asked = asyncio.get_running_loop().create_future()
    with pytest.raises(EpisodeFailure, match="a tool call is running still") as told:
        await gate.branch()
    assert told.value.origin is Origin.TASK
    gate._asked = None
    other = await gate.branch()
    assert isinstance(other.environment, Waits)
    assert other.environment is not gate.environment


async def test_an_environment_that_cannot_be_copied_is_a_failure_of_its_own() -> None:
    environment = Toolbox()
    environment.secret = (n for n in ())  # type: ignore[assignment]
    with pytest.raises(EpisodeFailure, match="copy of Toolbox: TypeError: cannot pickle") as told:
        await ToolGate(environment, 5).branch()
    assert told.value.origin is Origin.TASK


CHANCE = [
    ("clock", "import time; print(time.time_ns())", "came out otherwise"),
    ("chance decides a call", "import random; echo(str(random.random()))", "another tool call"),
    ("time limit", "while True: pass", "cut by its time limit"),
]


@pytest.mark.parametrize(("code", "why"), [row[1:] for row in CHANCE], ids=[row[0] for row in CHANCE])
async def test_what_has_no_second_time_is_refused_and_the_first_goes_on(sandbox: Sandbox, code: str, why: str) -> None:
    async with opened(PERSISTENT, sandbox, Limits(action_seconds=0.3)) as one:
        await one.output("x = 1")
        await one.run(code)
        with pytest.raises(CannotBranch, match=rf"block 2 of the interpreter.*{why}"):
            await branched(one)
        assert await one.output("print(x)") == "1\n"


async def test_a_call_that_is_not_made_again_is_refused(sandbox: Sandbox) -> None:
    made = Ran("pass", (ToolCall("echo", {"value": "a"}, output="a"),), BlockResult("", None, None, ()))
    worker = await sandbox.take(LIMITS.memory_mib)
    try:
        with pytest.raises(CannotBranch, match="came out otherwise"):
            await run_again(worker, [made], Toolbox.tools, LIMITS, variables_only=False)
    finally:
        worker.close()


async def test_addresses_do_not_count_and_a_lost_interpreter_leaves_nothing_to_repeat(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as one:
        await one.output("print(object())")
        two = await branched(one)
        await two.runtime.close()
        assert (await one.run("import os; os._exit(1)")).state_lost
        three = await branched(one)
        assert await three.works()
        await three.runtime.close()


async def test_a_branch_is_a_worker_like_any_other(real_sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, real_sandbox) as one:
        await one.output("import os, threading")
        two = await branched(one)
        tries = (
            "def denied(f, *a):\n    try: f(*a)\n    except (OSError, RuntimeError) as e: return True\n"
            "print(denied(os.fork), denied(threading.Thread(target=print).start),"
            " denied(os.kill, os.getppid() or 2, 9), denied(open, '/etc/passwd'))"
        )
        assert await two.output(tries) == "True True True True\n"
        await two.runtime.close()


async def test_react_has_its_calls_alone() -> None:
    async with opened(REACT, None) as one:
        await one.run('[{"tool": "echo", "args": {"value": "a"}}]')
        two = await branched(one)
        await two.run('[{"tool": "finish"}]')
        assert (two.environment.finished, one.environment.finished) == (True, False)
