"""Where episodes are played: the seam between those who decide (jobs, admission, models, records) and the machines.

An engine is handed an episode and who answers in it, and gives back the trace, or (nodes that write to shared storage)
what is counted of one that it staged. `Here` plays in this process; the other one, over all nodes of a Ray cluster, is
`keepstate.play.cluster`. An engine asks no server, counts nothing, and puts no result in its place.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from keepstate.agents.episode import run_episode
from keepstate.models.base import Model
from keepstate.runtimes import Sandbox
from keepstate.tasks.base import Task
from keepstate.traces.record import Limits, Trace
from keepstate.traces.writer import Staged
from keepstate.vocabulary import RuntimeName


@dataclass(frozen=True, slots=True)
class ToPlay:
    """What is played."""

    task: Task
    runtime: RuntimeName
    limits: Limits
    seed: int
    isolation: str
    """Rung of the sandbox."""
    folder: Path | None = None
    """Where its trace belongs, absolute; None where it is not written."""


class NodeGone(Exception):
    """The machine that played an episode is gone, and the episode with it: it is played again.

    Args:
        message: What happened; empty where it was told with another episode.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Player(Protocol):
    """Plays episodes, any number at once."""

    async def __call__(self, episode: ToPlay, model: Model) -> Trace | Staged:
        """Play one. Staged is only one that was graded and has a folder.

        Raises:
            UserError: The run has to stop: something that the user has to mend, or what the model raised.
            NodeGone: It was lost.
        """


class Engine(Protocol):
    """Machines that play."""

    def ready(
        self, rungs: Collection[str], *, allow_unsafe: bool, folders: Collection[Path] = ()
    ) -> AbstractAsyncContextManager[Player]:
        """Open sandboxes on these rungs, and close them in the end.

        Args:
            rungs: Those that episodes will ask for; none where all are of the runtime react.
            allow_unsafe: Run model-written code without a sandbox where there is none.
            folders: Where traces belong; nobody else writes there meanwhile.

        Raises:
            UserError: There is no sandbox as asked, or no machine.
        """


class Here:
    """The engine of one machine: this process, and sandboxes below it."""

    @asynccontextmanager
    async def ready(
        self, rungs: Collection[str], *, allow_unsafe: bool, folders: Collection[Path] = ()
    ) -> AsyncIterator[Player]:
        """See `Engine`."""
        async with AsyncExitStack() as stack:
            sandboxes = {
                rung: await stack.enter_async_context(Sandbox(isolation=rung, allow_unsafe=allow_unsafe))
                for rung in sorted(rungs)
            }

            async def play(episode: ToPlay, model: Model) -> Trace:
                return await run_episode(
                    episode.task,
                    runtime=episode.runtime,
                    model=model,
                    sandbox=sandboxes.get(episode.isolation),
                    limits=episode.limits,
                    seed=episode.seed,
                )

            yield play
