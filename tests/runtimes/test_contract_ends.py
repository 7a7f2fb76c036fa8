"""The contract, part 4: how blocks and interpreters end. Exits, time, memory, closing in the middle, many at once."""

import asyncio
import time

import pytest
from playground import CODEACT, PERSISTENT, opened

from keepstate.runtimes import Sandbox
from keepstate.traces.record import Limits
from keepstate.vocabulary import RuntimeName

pytestmark = pytest.mark.asyncio(loop_scope="module")
CODE = pytest.mark.parametrize("runtime", CODEACT)
SHORT = Limits(action_seconds=0.2)

DEATHS = [
    ("os._exit", "import os\nprint('before', flush=True)\nos._exit(0)"),
    ("abort", "import os\nos.abort()"),
    ("killed by itself", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nimport ctypes\nctypes.string_at(0)"),
]


@CODE
@pytest.mark.parametrize("code", [row[1] for row in DEATHS], ids=[row[0] for row in DEATHS])
async def test_an_interpreter_that_ends_is_replaced_and_said(sandbox: Sandbox, runtime: RuntimeName, code: str) -> None:
    async with opened(runtime, sandbox) as session:
        await session.output("x = 1")
        result = await session.run(code)
        assert result.error_type == "InterpreterExit"
        assert result.error is not None
        assert "interpreter" in result.error
        assert result.state_lost is (runtime is PERSISTENT)
        assert await session.works()
        assert (await session.run("print(x)")).error_type == "NameError"


async def test_sys_exit_keeps_the_state(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as session:
        result = await session.run("x = 41\nimport sys\nsys.exit()")
        assert not result.state_lost
        assert await session.output("x + 1") == "42\n"


async def test_a_loop_ends_at_its_time_and_keeps_the_state(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox, SHORT) as session:
        await session.output("x = 41")
        result = await session.run("x = 41\nprint('started')\nwhile True: pass")
        assert (result.error_type, result.state_lost) == ("TimeLimit", False)
        assert result.output == "started\n"
        assert result.error is not None
        assert "0.2" in result.error, "says which limit"
        assert result.globals == ("x",)
        assert await session.output("x + 1") == "42\n"


@CODE
@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("code", ["sum(range(10 ** 13))", "while True:\n    try:\n        while True: pass\n"
                                  "    except BaseException: pass"])  # fmt: skip
async def test_what_does_not_stop_is_killed_and_said(sandbox: Sandbox, runtime: RuntimeName, code: str) -> None:
    async with opened(runtime, sandbox, SHORT) as session:
        result = await session.run(code)
        assert result.error_type == "TimeLimit"
        assert result.seconds < 30
        assert await session.works()


@CODE
async def test_sleep_is_bounded_too(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox, SHORT) as session:
        result = await session.run("import time\ntime.sleep(3600)")
        assert result.error_type == "TimeLimit"
        assert await session.works()


async def test_tool_calls_do_not_stop_the_clock(sandbox: Sandbox) -> None:
    limits = Limits(tool_calls=10**6, action_seconds=0.2)
    async with opened(PERSISTENT, sandbox, limits) as session:
        assert (await session.run("while True: nothing()")).error_type == "TimeLimit"
        assert await session.works()


@CODE
async def test_memory_is_bounded_and_the_interpreter_lives(sandbox: Sandbox, runtime: RuntimeName) -> None:
    async with opened(runtime, sandbox, Limits(memory_mib=128, action_seconds=10)) as session:
        result = await session.run("x = bytearray(10 ** 10)")
        assert (result.error_type, result.state_lost) == ("MemoryError", False)
        assert await session.output("y = bytearray(90 * 2**20)\nprint(len(y))\ndel y") == f"{90 * 2**20}\n"
        result = await session.run("z = []\nwhile True: z.append(bytearray(2**20))")
        assert result.error_type == "MemoryError"
        assert (await session.run("z = None\nprint('on')")).output.startswith("on")


async def test_closing_in_the_middle_of_a_step_leaves_no_one(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox, Limits(action_seconds=20)) as session:
        step = asyncio.create_task(session.run("while True: pass"))
        await asyncio.sleep(0.1)
        started = time.monotonic()
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        await session.runtime.close()
        assert time.monotonic() - started < 5
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.works()


async def test_many_busy_episodes_do_not_time_each_other_out(sandbox: Sandbox) -> None:
    code = "import time\nstart = time.process_time()\nwhile time.process_time() - start < 0.08: pass\nprint('done')"

    async def one() -> tuple[str, str | None]:
        async with opened(PERSISTENT, sandbox, Limits(action_seconds=0.4)) as session:
            result = await session.run(code)
            return result.output, result.error_type

    outcomes = await asyncio.gather(*(one() for _ in range(16)))
    assert outcomes == [("done\n", None)] * 16, "16 x 0.08 s of work need more than 0.4 s of wall clock on two cores"
