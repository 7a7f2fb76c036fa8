"""The sandbox: one zygote on the strongest rung that this machine offers, and the workers it gives out.

    async with Sandbox() as sandbox:
        runtime = await open_runtime(RuntimeName.PERSISTENT, gate, limits, sandbox)

Rungs, strongest first, are those of `keepstate.vocabulary.Rung`; docs/sandbox.md says what each guarantees. `probe()`
reports for every rung whether it is usable here, why not, and what its self-test tried. Does not execute blocks
itself: the runtimes do.
"""

from __future__ import annotations

import asyncio
import resource
from types import TracebackType

from keepstate.errors import EpisodeFailure, UserError
from keepstate.runtimes.sandbox.memory import Seats, watch
from keepstate.runtimes.sandbox.selftest import RungReport, open_rung
from keepstate.runtimes.sandbox.stock import Stock
from keepstate.runtimes.sandbox.worker import Worker
from keepstate.runtimes.sandbox.zygote import Zygote, ZygoteEnded
from keepstate.vocabulary import AUTO, LADDER, OR_STRONGER, Origin, Rung

WANTED_DESCRIPTORS = 8192


def probe() -> list[RungReport]:
    """Try every rung on this machine, strongest first. Takes about a second; not to be called from a coroutine."""
    return asyncio.run(_probe())


async def _probe() -> list[RungReport]:
    reports = []
    for rung in LADDER:
        report, zygote = await open_rung(rung)
        reports.append(report)
        if zygote is not None:
            await zygote.close()
    return reports


class Sandbox:
    """Where model-written code runs.

    Args:
        isolation: `auto` for the strongest rung that passes its self-test, the name of the one rung to use, or a name
            with `+` for that rung or a stronger one.
        allow_unsafe: Also admit `process`, which is no sandbox, where no other rung is to be had.

    Raises:
        UserError: A name that is no rung; on entering, no admissible rung on this machine.
    """

    def __init__(self, isolation: str = AUTO, *, allow_unsafe: bool = False) -> None:
        self._admissible = admissible(isolation, allow_unsafe)
        self._zygote: Zygote | None = None
        self._rung: Rung | None = None
        self._restarting = asyncio.Lock()
        self._stocks: dict[int, Stock] = {}
        self._workers: dict[Worker, int] = {}
        """Those in use, and the limit of each in MiB."""
        self._seats = Seats()
        self._watch: asyncio.Task[None] | None = None

    @property
    def rung(self) -> Rung:
        """The rung in use.

        Raises:
            RuntimeError: The sandbox is not open.
        """
        if self._rung is None:
            raise RuntimeError("the sandbox is not open")
        return self._rung

    async def __aenter__(self) -> Sandbox:
        reports = []
        for rung in self._admissible:
            report, zygote = await open_rung(rung)
            if zygote is not None:
                self._zygote, self._rung = zygote, rung
                self._watch = asyncio.get_running_loop().create_task(watch(lambda: self._workers, self._seats))
                _raise_descriptor_limit()
                return self
            reports.append(report)
        raise _unavailable(reports)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for stock in self._stocks.values():
            stock.close()
        for worker in tuple(self._workers):
            worker.close()
        zygote, self._zygote = self._zygote, None
        if zygote is not None:
            await zygote.close()

    async def enter(self, memory_mib: int) -> None:
        """Begin an episode whose interpreters have this limit; waits while memory is promised to others."""
        await self._seats.take(memory_mib)
        stock = self._stocks.setdefault(memory_mib, Stock(lambda: self._spawn(memory_mib)))
        stock.episodes += 1
        stock.fill()

    def leave(self, memory_mib: int) -> None:
        """End an episode that `enter` began."""
        self._stocks[memory_mib].episodes -= 1
        self._seats.give_back(memory_mib)

    async def take(self, memory_mib: int) -> Worker:
        """A fresh interpreter, to be closed, for an episode that was begun.

        Raises:
            EpisodeFailure: There is none to be had (origin sandbox).
        """
        worker = await self._stocks[memory_mib].take()
        self._workers[worker] = memory_mib
        worker.on_end(lambda ended: self._workers.pop(ended, None))
        return worker

    async def _spawn(self, memory_mib: int) -> Worker:
        try:
            return await (await self._living()).spawn(memory_mib)
        except ZygoteEnded:
            return await (await self._living()).spawn(memory_mib)

    async def _living(self) -> Zygote:
        """The zygote, or a new one in its place."""
        async with self._restarting:
            if self._zygote is None:
                raise EpisodeFailure(Origin.SANDBOX, "the sandbox is not open")
            if not self._zygote.alive:  # somebody killed it: the episodes of that time are lost, not the run
                await self._zygote.close()
                report, zygote = await open_rung(self.rung)
                if zygote is None:
                    raise EpisodeFailure(Origin.SANDBOX, f"the zygote ended, a new one cannot start: {report.reason}")
                self._zygote = zygote
            return self._zygote


def _raise_descriptor_limit() -> None:
    """Each interpreter takes two descriptors of this process; 1,024 is a usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < WANTED_DESCRIPTORS:
        wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(WANTED_DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def admissible(isolation: str, allow_unsafe: bool) -> tuple[Rung, ...]:
    """The rungs to try, strongest first.

    Raises:
        UserError: There is no such rung, or it is no sandbox and that was not accepted.
    """
    name = isolation.removesuffix(OR_STRONGER)
    if isolation == AUTO:
        name = Rung.PROCESS if allow_unsafe else Rung.SECCOMP
    elif name not in LADDER:
        raise UserError(
            f"no rung of the sandbox is named {isolation!r}",
            f"name one of: {AUTO}, {', '.join(LADDER)}; with {OR_STRONGER} behind it a stronger one is taken as well",
        )
    at_least = isolation == AUTO or isolation != name
    asked = LADDER[: LADDER.index(Rung(name)) + 1] if at_least else (Rung(name),)
    if asked[-1] is Rung.PROCESS and not allow_unsafe:
        raise UserError(
            "the rung 'process' is no sandbox: model-written code could read your files and use your network",
            "take another rung, or accept the risk with --allow-unsafe",
        )
    return asked


def _unavailable(reports: list[RungReport]) -> UserError:
    lines = "".join(f"\n  {report.rung}: {report.reason}" for report in reports)
    return UserError(
        f"model-written code cannot be sandboxed here as asked:{lines}",
        "see: keepstate doctor. A container needs user namespaces or Landlock and seccomp permitted;"
        " to run without a sandbox, at your own risk: --allow-unsafe",
    )
