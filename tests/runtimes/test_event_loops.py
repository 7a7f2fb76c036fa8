"""The sandbox on both event loops: what the command line runs on (uvloop where installed) and Python's own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hosting import alive, children, descendants, until
from playground import FORGET, PERSISTENT, opened

from keepstate import eventloop
from keepstate.runtimes import Sandbox
from keepstate.traces.record import Limits


async def _life() -> None:
    others = children()
    async with Sandbox(allow_unsafe=True) as sandbox:
        limits = Limits(action_seconds=0.2, tool_calls=10**6)
        async with opened(PERSISTENT, sandbox, limits) as one, opened(FORGET, sandbox, limits) as two:
            assert await one.output("x = 41\nprint(x + add(0, 1))") == "42\n"
            assert (await two.run("y = repeat(300_000)\nprint(len(y))")).output == "300000\n"
            assert (await two.run("y")).error_type == "NameError"
            assert (await one.run("while True: nothing()")).error_type == "TimeLimit"
            assert (await two.run("sum(range(10**13))")).error_type == "TimeLimit"
            assert (await one.run("import os\nos._exit(3)")).error_type == "InterpreterExit"
            assert await one.works()
        many = [opened(PERSISTENT, sandbox) for _ in range(20)]

        async def play(session: Any) -> bool:
            async with session as entered:
                return bool(await entered.works())

        assert all(await asyncio.gather(*map(play, many)))
        pids = (started := children() - others) | set().union(*map(descendants, started))
    assert await until(lambda: not alive(pids))


@pytest.mark.parametrize("run", [eventloop.run, asyncio.run], ids=["of the command line", "asyncio"])
def test_a_life_of_a_sandbox(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    run(_life())
