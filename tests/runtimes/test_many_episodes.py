"""What the sandbox does for many episodes at once: interpreters in stock, seats by memory, restart of the zygote."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import pytest_asyncio
from hosting import alive, children, descendants, until
from playground import FORGET, PERSISTENT, opened

from keepstate.errors import EpisodeFailure
from keepstate.runtimes import Sandbox
from keepstate.runtimes.sandbox import memory, zygote
from keepstate.traces.record import Limits
from keepstate.vocabulary import Origin

LIMITS = Limits(memory_mib=256, action_seconds=20)


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(allow_unsafe=True) as made:
        yield made


async def test_a_killed_zygote_is_replaced(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.works()
        pids = descendants()
        os.kill(max(children()), signal.SIGKILL)
        assert await until(lambda: not alive(pids))
        with pytest.raises(EpisodeFailure):
            await session.works()
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.works()


async def test_a_zygote_that_was_stopped_is_replaced(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "SILENCE_SECONDS", 2.0)
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.works()
        stopped = descendants()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        async with asyncio.timeout(40), opened(FORGET, sandbox) as other:
            with suppress(EpisodeFailure):  # of a spare that came when the others had been stopped
                await other.works()
            for _ in range(4):
                assert await other.works()
        assert await until(lambda: not alive(stopped))
        with pytest.raises(EpisodeFailure, match="zygote"):
            await session.works()


def with_room_for(count: int) -> int:
    """The limit at which so many descriptors may still be opened."""
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    return next(limit for limit in range(10**6) if sum(number not in taken for number in range(limit)) == count)


async def test_want_of_descriptors_is_said_at_once(sandbox: Sandbox) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(opened(PERSISTENT, sandbox)) for _ in range(12)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (with_room_for(8), hard))
        try:
            async with asyncio.timeout(10):
                outcomes = await asyncio.gather(*(session.works() for session in sessions), return_exceptions=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        failures = [outcome for outcome in outcomes if outcome is not True]
        assert failures
        for failure in failures:
            assert isinstance(failure, EpisodeFailure)
            assert failure.origin is Origin.SANDBOX
            assert "open files" in failure.message or "out of file descriptors" in failure.message
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.works()


async def test_interpreters_in_stock_are_fresh_and_go_with_the_sandbox(sandbox: Sandbox) -> None:
    async with opened(FORGET, sandbox) as session:
        pids = set()
        for _ in range(10):
            pids.add(await session.output("import os, random\nprint(os.getpid(), random.random())"))
        assert len(pids) == 10
    assert await until(lambda: len(descendants()) <= 6), "a zygote and few spares"


async def test_episodes_wait_for_a_seat_while_memory_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_mib", lambda: 2 * 256 / memory.OVERCOMMIT + 1)
    monkeypatch.setattr(memory, "LEAST_RESERVE_MIB", 0)
    monkeypatch.setattr(memory, "RESERVE_SHARE", 10**9)
    async with Sandbox(allow_unsafe=True) as sandbox:
        together, most = 0, 0

        async def play() -> None:
            nonlocal together, most
            async with opened(PERSISTENT, sandbox, LIMITS) as session:
                together += 1
                most = max(most, together)
                assert await session.works()
                together -= 1

        async with asyncio.timeout(20):
            await asyncio.gather(*(play() for _ in range(7)))
        assert most == 2
        waiting = asyncio.create_task(play())
        waiting.cancel()
        async with asyncio.timeout(20):
            await play()


async def test_the_largest_interpreter_ends_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Sandbox(allow_unsafe=True) as sandbox,
        opened(PERSISTENT, sandbox, LIMITS) as small,
        opened(PERSISTENT, sandbox, LIMITS) as large,
        opened(PERSISTENT, sandbox, LIMITS) as larger,
    ):
        assert await small.works()
        await large.output(f"kept = b'x' * {80 * 2**20}")
        await larger.output(f"kept = b'x' * {160 * 2**20}")
        scarce = True

        def available() -> float:
            nonlocal scarce
            answer = 0.0 if scarce else 10.0**6
            scarce = False
            return answer

        monkeypatch.setattr(memory, "available_mib", available)
        assert await until(lambda: not scarce)
        await asyncio.sleep(0.1)
        with pytest.raises(EpisodeFailure, match="memory ran out") as caught:
            await larger.run("print(1)")
        assert caught.value.origin is Origin.SANDBOX
        assert await large.output("print(len(kept) > 0)") == "True\n"
        assert await small.works()


async def test_one_interpreter_ends_when_memory_is_short_by_less_than_it_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interpreter held counts as missing until its process is gone; only then may another be judged."""
    async with Sandbox(allow_unsafe=True) as sandbox, AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(opened(PERSISTENT, sandbox, LIMITS)) for _ in range(5)]
        for number, session in enumerate(sessions):
            await session.output(f"kept = b'x' * {(60 + number) << 20}")
        held = {pid: memory._resident_mib(pid) for pid in descendants()}
        reserve = max(memory.LEAST_RESERVE_MIB, memory.memory_gib() * 1024 / memory.RESERVE_SHARE)
        monkeypatch.setattr(
            memory, "available_mib", lambda: reserve - 20 + sum(held[pid] for pid in held.keys() - alive(set(held)))
        )
        assert await until(lambda: len(alive(set(held))) < len(held))
        await asyncio.sleep(0.5)
        with pytest.raises(EpisodeFailure, match="memory ran out"):
            await sessions[-1].run("print(1)")
        for session in sessions[:-1]:
            assert await session.output("print(len(kept) > 0)") == "True\n"


def status_mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


async def test_what_an_interpreter_holds_includes_its_page_tables(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox, LIMITS) as session:
        # one page in every 2 MiB: as much again in page tables
        code = "import mmap\nkept = [mmap.mmap(-1, 4096 + (2 << 20)) for _ in range(60)]\nfor m in kept: m[0] = 1"
        await session.output(code)
        (pid,) = {worker.pid for worker in sandbox._workers}
        pages, tables = (status_mib(pid, name) for name in ("VmRSS", "VmPTE"))
        assert tables > 0.3
        assert memory._resident_mib(pid) == pytest.approx(pages + tables, abs=0.1)
    assert memory._resident_mib(2**22 + 1) == 0


async def test_a_worker_that_is_woken_puts_nobody_aside(sandbox: Sandbox) -> None:
    async with opened(PERSISTENT, sandbox) as session:
        assert await session.works()
        assert {os.sched_getscheduler(pid) for pid in descendants()} == {os.SCHED_BATCH}
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "the host is as it was started"


async def test_nobody_is_admitted_beside_others_while_memory_is_short() -> None:
    seats = memory.Seats()
    seats.hold_back(True)
    await seats.take(16)
    second = asyncio.create_task(seats.take(16))
    await asyncio.sleep(0)
    assert not second.done(), "who was ended for want of memory would come back into the same want"
    seats.hold_back(False)
    await asyncio.wait_for(second, 1)


async def test_a_hundred_at_once_start_step_and_end(sandbox: Sandbox) -> None:
    async def play(number: int) -> str:
        async with opened(PERSISTENT if number % 2 else FORGET, sandbox) as session:
            return await session.output(f"print(add({number}, 1))")

    outputs = await asyncio.gather(*(play(number) for number in range(100)))
    assert outputs == [f"{number + 1}\n" for number in range(100)]
