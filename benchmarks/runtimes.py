"""What running model-written code costs: the sandbox, a naive `exec` in a thread, and an IPython kernel, in one run.

    python benchmarks/runtimes.py [--quick] [--isolation auto] [--asyncio] [--no-ipykernel]

Measures p50 and p99 of the first result, a trivial step and a step of 30 tool calls; steps/s with 64 and 500 live
episodes; blocks/s in the forget runtime; memory (PSS) per episode; overshoot of the time limit; how long the event loop
stands still under attack; how soon all is gone after SIGKILL of the host. Prints each figure beside its target, which
is for the rung `namespaces` on two idle cores, and its ratio to the references. Takes about two minutes. Timings beside
other work are noisy: compare the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

TESTS = Path(__file__).parents[1] / "tests" / "runtimes"
sys.path.insert(0, str(TESTS))

from attacks import prelude  # noqa: E402
from attacks.suite import ATTACKS  # noqa: E402
from hosting import LagMeter, alive, descendants, until  # noqa: E402
from playground import FORGET, PERSISTENT, Session, Toolbox, opened  # noqa: E402
from runtime_references import CALLS, TRIVIAL, NaiveThread, ipykernel_figures, pss_mib  # noqa: E402

from keepstate import eventloop  # noqa: E402
from keepstate.runtimes import Sandbox  # noqa: E402
from keepstate.traces.record import Limits  # noqa: E402


def attack(name: str) -> str:
    """The script of one attack of the tests' suite, ready to run."""
    return prelude({}) + ATTACKS[name].code


REAL = """
import collections, json, math
rows = [add(a=n, b=n) for n in range(5)]
table = collections.Counter(str(n * n)[0] for n in range(2000))
print(json.dumps({"rows": rows, "table": table, "root": math.sqrt(sum(rows))}))
"""
"""Imports, five tool calls, some arithmetic, JSON: like a block of an agent."""

FLOODS = {
    "tool calls": "while True: nothing()",
    "output": "while True: print('x' * 10_000)",
    "loop in C": "sum(range(10 ** 13))",
    "memory": "while True:\n    try:\n        x = [bytes(2**20) for _ in range(999)]\n    except MemoryError: pass",
    "exits": "import os\nos._exit(1)",
    "frames of 5 MB": attack("frames: a frame of 5 MB"),
    "answers never read": attack("channel: calls whose answers are never read"),
    "ends without end": attack("channel: ends without end"),
}
LIMITS = Limits(tool_calls=50, action_seconds=20)
CROWD_LIMITS = Limits(tool_calls=50, action_seconds=20, memory_mib=64)
"""With 256 MiB each, 500 episodes would have to wait for seats where less than 16 GiB are free."""


class InMemory(Toolbox):
    """Tools that are run as those of the built-in task family are."""

    in_memory = True


class Steps(Protocol):
    """Something that executes blocks."""

    async def run(self, action: str, /) -> Any:
        """Execute one block."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str
    target: str = ""
    naive: float | None = None
    kernel: float | None = None

    def __str__(self) -> str:
        ratios = ""
        for name, other in (("naive", self.naive), ("ipykernel", self.kernel)):
            if other is not None:
                ratios += f"  {name} {other:.4g} (x {self.value / other:.3g})" if other else ""
        return f"{self.what:42}{self.value:10.4g} {self.unit:9}{self.target:>10}{ratios}"


def percentile(values: Sequence[float], share: int) -> float:
    """The percentile `share`, by rank."""
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else values[0]


async def timed(step: Callable[[], Awaitable[Any]], count: int, pause: float = 0.0) -> list[float]:
    """Milliseconds of each of `count` awaits."""
    took = []
    for _ in range(count):
        await asyncio.sleep(pause)
        started = time.perf_counter()
        await step()
        took.append(1000 * (time.perf_counter() - started))
    return took


async def checked(session: Session, code: str) -> None:
    """One step that must succeed."""
    result = await session.run(code)
    assert result.error is None, result.error


async def latencies(sandbox: Sandbox, count: int, kernel: dict[str, Any]) -> list[Figure]:
    """First result, trivial step and step of 30 calls, one episode at a time."""

    async def first() -> None:
        async with opened(PERSISTENT, sandbox, LIMITS, environment=InMemory()) as session:
            await checked(session, TRIVIAL)

    async def naive_first() -> None:
        await NaiveThread(Toolbox()).run(TRIVIAL)

    naive = NaiveThread(Toolbox())
    rows: list[tuple[str, list[float], list[float], str, tuple[str, str]]] = []
    rows.append(
        ("first result", await timed(first, count, 0.02), await timed(naive_first, count), "first", ("5", "15"))
    )
    async with opened(PERSISTENT, sandbox, LIMITS, environment=InMemory()) as session:
        for what, code, key, number, targets in (
            ("trivial step", TRIVIAL, "trivial", 10 * count, ("0.15", "1")),
            ("step of 30 tool calls", CALLS, "calls", count, ("3", "")),
        ):
            ours = await timed(lambda code=code: checked(session, code), number)  # type: ignore[misc]
            theirs = await timed(lambda code=code: naive.run(code), number)  # type: ignore[misc]
            rows.append((what, ours, theirs, key, targets))
    async with opened(FORGET, sandbox, LIMITS, environment=InMemory()) as session:
        block = await timed(lambda: checked(session, TRIVIAL), count, 0.02)
    rows.append(("forget: trivial block", block, [], "", ("1", "")))
    return [
        Figure(
            f"{what}, p{share}",
            percentile(ours, share),
            "ms",
            f"<= {target}" if target else "",
            percentile(theirs, share) if theirs else None,
            percentile(kernel[key], share) if key in kernel else None,
        )
        for what, ours, theirs, key, targets in rows
        for share, target in zip((50, 99), targets, strict=True)
    ]


async def rate(sessions: Sequence[Steps], code: str, seconds: float) -> float:
    """Steps/s of all sessions together; a failed step is an error."""
    done = 0
    end = time.perf_counter() + seconds

    async def work(session: Steps) -> None:
        nonlocal done
        while time.perf_counter() < end:
            result = await session.run(code)
            assert getattr(result, "error", None) is None, result
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(work(session) for session in sessions))
    return done / (time.perf_counter() - started)


async def crowd(sandbox: Sandbox, episodes: int, seconds: float, targets: tuple[str, str, str]) -> list[Figure]:
    """Live episodes at once: start, memory, steps/s."""
    before = descendants()
    async with AsyncExitStack() as stack:
        started = time.perf_counter()
        entered = [
            stack.enter_async_context(opened(PERSISTENT, sandbox, CROWD_LIMITS, environment=InMemory()))
            for _ in range(episodes)
        ]
        sessions = await asyncio.gather(*entered)
        await asyncio.gather(*(checked(session, TRIVIAL) for session in sessions))
        figures = [Figure(f"{episodes} live: all started and stepped", time.perf_counter() - started, "s")]
        made = [pss_mib(pid) for pid in descendants() - before]
        memory = statistics.mean(size for size in made if size)
        figures.append(Figure(f"{episodes} live: memory per interpreter (PSS)", memory, "MiB", "<= 3"))
        naive = [NaiveThread(Toolbox()) for _ in range(episodes)]
        for (what, code), target in zip(
            (("trivial", TRIVIAL), ("REAL", REAL), ("30-call", CALLS)), targets, strict=True
        ):
            ours = await rate(sessions, code, seconds)
            theirs = await rate(naive, code, seconds / 2)
            figures.append(Figure(f"{episodes} live: {what} steps", ours, "/s", target, theirs))
    return figures


async def resets(sandbox: Sandbox, seconds: float) -> list[Figure]:
    """Blocks/s of 64 episodes in the forget runtime."""
    async with AsyncExitStack() as stack:
        entered = [
            stack.enter_async_context(opened(FORGET, sandbox, LIMITS, environment=InMemory())) for _ in range(64)
        ]
        sessions = await asyncio.gather(*entered)
        return [Figure("64 live: forget, REAL blocks", await rate(sessions, REAL, seconds), "/s", ">= 250")]


async def branches(sandbox: Sandbox, count: int) -> list[Figure]:
    """What a branch takes after so many blocks, environment included; beside it what they took the first time."""
    figures = []
    for blocks in (1, 5, 20):
        async with opened(PERSISTENT, sandbox, LIMITS, environment=InMemory()) as session:
            ran = sum(await timed(lambda: checked(session, REAL), blocks))

            async def branch() -> None:
                made = await session.runtime.branch(await session.gate.branch())
                await made.close()

            took = await timed(branch, count, 0.02)
        figures.append(Figure(f"branch after {blocks} blocks of {ran:.1f} ms, p50", percentile(took, 50), "ms"))
    return figures


async def overshoot(sandbox: Sandbox, count: int) -> list[Figure]:
    """How much longer than its limit a step takes: one that an exception stops, one that must be killed."""
    figures = []
    limit = 0.2
    for what, code, target in (("loop", "while True: pass", "<= 20"), ("loop in C", "sum(range(10 ** 13))", "<= 350")):
        async with opened(PERSISTENT, sandbox, Limits(action_seconds=limit)) as session:
            await checked(session, TRIVIAL)
            took = await timed(lambda code=code: session.run(code), count)  # type: ignore[misc]
        figures.append(Figure(f"time limit overshoot, {what}, worst", max(took) - 1000 * limit, "ms", target))
    return figures


async def lags(sandbox: Sandbox, attackers: int) -> list[Figure]:
    """Longest stand-still of the event loop while episodes attack, for each kind of flood."""
    limits = Limits(tool_calls=10**6, action_seconds=1)
    figures = []
    for what, code in FLOODS.items():

        async def suffer(code: str = code) -> None:
            async with opened(PERSISTENT, sandbox, limits) as session:
                await session.run(code)

        gc.collect()
        async with LagMeter(0.002) as lag:
            await asyncio.gather(*(suffer() for _ in range(attackers)))
        figures.append(Figure(f"loop lag, {attackers} x {what}, worst", 1000 * lag.worst, "ms", "<= 100"))
    return figures


async def death_of_the_host(rung: str) -> list[Figure]:
    """Time from SIGKILL of a host with three episodes to the end of its last process."""
    command = [sys.executable, str(TESTS / "doomed_host.py"), rung]
    doomed = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert doomed.stdout is not None
    await doomed.stdout.readline()
    pids = descendants(doomed.pid)
    started = time.perf_counter()
    doomed.kill()
    assert await until(lambda: not alive(pids))
    took = time.perf_counter() - started
    await doomed.wait()
    return [Figure("host killed, all gone after", 1000 * took, "ms", "<= 100")]


async def measure(options: argparse.Namespace) -> None:
    """Measure and print, section by section."""
    quick = options.quick
    kernel = {} if quick or options.no_ipykernel else ipykernel_figures(5, 60)
    if isinstance(kernel, str):
        print(f"ipykernel was NOT measured: {kernel}")
        kernel = {}
    started = time.perf_counter()
    async with Sandbox(isolation=options.isolation, allow_unsafe=options.isolation == "process") as sandbox:
        ready = Figure("sandbox ready, self-test included", 1000 * (time.perf_counter() - started), "ms")
        loop = type(asyncio.get_running_loop()).__module__
        print(
            f"rung {sandbox.rung}, event loop {loop}\n{'':42}{'measured':>10} {'':9}{'target':>10}\n{ready}", flush=True
        )
        seconds = 0.5 if quick else 3.0
        sections: list[Callable[[], Awaitable[list[Figure]]]] = [
            lambda: latencies(sandbox, 20 if quick else 300, kernel),
            lambda: crowd(sandbox, 64, seconds, (">= 8000", ">= 1500", ">= 500")),
            lambda: resets(sandbox, seconds),
            lambda: branches(sandbox, 5 if quick else 60),
            lambda: overshoot(sandbox, 2 if quick else 8),
            lambda: lags(sandbox, 4 if quick else 16),
            lambda: death_of_the_host(sandbox.rung),
        ]
        if not quick:
            sections.append(lambda: crowd(sandbox, 500, seconds, ("", "", "")))
        for section in sections:
            for figure in await section():
                print(figure, flush=True)
    if "memory" in kernel:
        print(Figure("memory of one ipykernel (PSS)", kernel["memory"], "MiB"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run of some seconds, without ipykernel")
    parser.add_argument("--isolation", default="auto", help="rung (default: the highest)")
    parser.add_argument("--asyncio", action="store_true", help="Python's own event loop instead of uvloop")
    parser.add_argument("--no-ipykernel", action="store_true")
    options = parser.parse_args()
    (asyncio.run if options.asyncio else eventloop.run)(measure(options))


if __name__ == "__main__":
    main()
