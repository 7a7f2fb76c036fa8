"""The side of a cluster's node: plays episodes in sandboxes of its own, and asks the driver for every answer.

So a node needs no way to a model server and no key, and what decides (admission, retries, budget, records) is in one
place. Orders come and events go in batches, as a message costs as much as a turn does (1 ms), and packed, as Ray's own
way with objects costs three times pickle's. Knows nothing of Ray: `keepstate.play.cluster` makes an actor of `Node`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import pickle
import platform
import secrets
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepstate.errors import EpisodeFailure, UserError
from keepstate.eventloop import seldom_collected
from keepstate.models.base import ContextOverflow, Message, Model, Reply, Sampling
from keepstate.play.engine import Here, Player, ToPlay
from keepstate.play.sharing import Token, answered
from keepstate.tasks.families import use_family
from keepstate.traces.record import Failure, Trace
from keepstate.traces.writer import Staged, stage_trace

GATHER_SECONDS, GATHERED = 0.005, 4
"""What is to be sent is gathered for so long, and so many times as long while more is on its way."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a node plays with."""

    rungs: tuple[str, ...]
    allow_unsafe: bool
    families: tuple[tuple[str, str], ...] = ()
    """Families that the user named: how, and their sources, which tell what is in their files."""
    shared: tuple[Token, ...] = field(default=(), compare=False)
    """In folders into which it writes; none where it writes no result."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A node that can play."""

    program: str
    """Which keepstate runs there, and in which Python."""
    mark: str = ""
    """Of what it wrote beside tokens."""


# Without slots, with which pickle calls Python for each.
@dataclass(frozen=True)
class Begin:
    """Order: play an episode. Name, sampling and patience are its model's."""

    key: int
    episode: ToPlay
    name: str
    sampling: Sampling | None
    patience: float | None


@dataclass(frozen=True)
class Answered:
    """Order: the model answered, or could not."""

    key: int
    reply: Reply | Failure | ContextOverflow


@dataclass(frozen=True)
class Drop:
    """Order: nobody waits for this episode any more."""

    key: int


Order = Begin | Answered | Drop


@dataclass(frozen=True)
class Asked:
    """Event: the model is asked. Only what is new of the conversation is sent."""

    key: int
    messages: tuple[Message, ...]
    seed: int
    turn: int


@dataclass(frozen=True)
class Played:
    """Event: an episode is over."""

    key: int
    trace: Trace | Staged
    unwritten: str = ""
    """Why the trace is sent though the node writes."""


@dataclass(frozen=True)
class Stopped:
    """Event, or what comes of `Node.open`: an error that a user can mend; without a hint one that he cannot."""

    key: int
    message: str
    hint: str

    def error(self) -> Exception:
        """What to raise."""
        return UserError(self.message, self.hint) if self.hint else RuntimeError(self.message)


class Unshared(Stopped):
    """What comes of `Node.open` on a node that does not see the folders of results, or cannot write there."""


Event = Asked | Played | Stopped


def packed(what: Sequence[Order | Event]) -> bytes:
    """Orders or events as one message."""
    return pickle.dumps(what, pickle.HIGHEST_PROTOCOL)


def unpacked(message: bytes) -> Any:
    """What was `packed`."""
    return pickle.loads(message)


class Outbox:
    """What waits to be sent; taken all at once.

    Args:
        coming: Whether more is on its way.
    """

    def __init__(self, coming: Callable[[], bool]) -> None:
        self._coming = coming
        self._waiting: list[Order | Event] = []
        self._filled = asyncio.Event()

    def put(self, each: Order | Event) -> None:
        """Add to it."""
        self._waiting.append(each)
        self._filled.set()

    def close(self) -> None:
        """Let who waits go, with nothing."""
        self._waiting = []
        self._filled.set()

    async def take(self) -> list[Order | Event]:
        """All that is there, as soon as there is something."""
        await self._filled.wait()
        for _ in range(GATHERED):
            await asyncio.sleep(GATHER_SECONDS)
            if not self._coming():
                break
        self._filled.clear()
        taken, self._waiting = self._waiting, []
        return taken


class Asking:
    """The model of an episode, who answers through the driver."""

    def __init__(self, begin: Begin, outbox: Outbox) -> None:
        self.name, self.sampling, self.patience = begin.name, begin.sampling, begin.patience
        self._key, self._outbox = begin.key, outbox
        self._sent = 0
        self._answer: asyncio.Future[Reply] | None = None

    @property
    def waits(self) -> bool:
        """Whether it was asked and has not answered."""
        return self._answer is not None and not self._answer.done()

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """Its answer, as the driver has it.

        Raises:
            EpisodeFailure: It could not be asked.
            ContextOverflow: The conversation is too long for it.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._outbox.put(Asked(self._key, tuple(messages[self._sent :]), seed, turn))
        self._sent = len(messages)
        return await self._answer

    def answered(self, reply: Reply | Failure | ContextOverflow) -> None:
        """Hand the answer over, if it is still waited for."""
        if self._answer is None or not self.waits:
            return
        if isinstance(reply, Reply):
            self._answer.set_result(reply)
        elif isinstance(reply, Failure):
            self._answer.set_exception(EpisodeFailure(reply.origin, reply.message))
        else:
            self._answer.set_exception(reply)


class Node:
    """Plays on one machine, for one driver."""

    def __init__(self) -> None:
        self._setting: Setting | None = None
        self._stack = AsyncExitStack()
        self._player: Player | None = None
        self._outbox = Outbox(self._acts)
        self._playing: dict[int, tuple[asyncio.Task[None], Asking]] = {}

    async def open(self, setting: Setting) -> Opened | Stopped:
        """Begin anew: with no episode, and with sandboxes and families as asked; what is open as asked stays open."""
        self._outbox.close()
        self._outbox = Outbox(self._acts)
        await self._drop_all()
        try:
            mark = await asyncio.to_thread(answered, setting.shared) if setting.shared else ""
        except UserError as error:
            return Unshared(-1, error.message, error.hint)
        try:
            if setting != self._setting:
                await self._stack.aclose()
                self._setting, self._stack = None, AsyncExitStack()
                for named, source in setting.families:
                    _use(named, source)
                ready = Here().ready(setting.rungs, allow_unsafe=setting.allow_unsafe)
                self._player = await self._stack.enter_async_context(ready)
                self._stack.enter_context(seldom_collected())
                self._setting = setting
        except UserError as error:
            return Stopped(-1, error.message, error.hint)
        return Opened(program(), mark)

    async def give(self, orders: bytes) -> None:
        """Take orders."""
        for order in unpacked(orders):
            if isinstance(order, Begin):
                asking = Asking(order, self._outbox)
                task = asyncio.get_running_loop().create_task(self._play(order, asking, self._outbox))
                self._playing[order.key] = (task, asking)
            elif order.key in self._playing:
                task, asking = self._playing[order.key]
                if isinstance(order, Answered):
                    asking.answered(order.reply)
                else:
                    task.cancel()

    async def take(self) -> bytes:
        """What happened since the last call; waits until something has."""
        return packed(await self._outbox.take())

    async def rest(self) -> None:
        """End every episode; when this returns, nothing is being written."""
        await self._drop_all()

    async def close(self) -> None:
        """End every episode and the sandboxes."""
        await self._drop_all()
        await self._stack.aclose()

    def _acts(self) -> bool:
        """Whether an episode does anything but wait for an answer: it will soon be over or ask."""
        return not all(asking.waits for _, asking in self._playing.values())

    async def _play(self, order: Begin, model: Model, outbox: Outbox) -> None:
        assert self._player is not None
        try:
            trace = await self._player(order.episode, model)
            outbox.put(await _written(order, trace))
        except UserError as error:
            outbox.put(Stopped(order.key, error.message, error.hint))
        except Exception:
            outbox.put(Stopped(order.key, f"a node's own failure:\n{traceback.format_exc()}", ""))
        finally:
            self._playing.pop(order.key, None)

    async def _drop_all(self) -> None:
        tasks = [task for task, _ in self._playing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _written(order: Begin, trace: Trace | Staged) -> Played:
    """Stage a graded episode that has a folder; the trace itself where it has none, or nothing can be written."""
    folder = order.episode.folder
    if folder is None or not isinstance(trace, Trace) or trace.verdict is None:
        return Played(order.key, trace)
    mark = secrets.token_hex(8)
    staging = asyncio.get_running_loop().run_in_executor(None, stage_trace, folder, trace, mark)
    try:
        await asyncio.shield(staging)
    except asyncio.CancelledError:
        await asyncio.wait((staging,))  # no thread can be cancelled: a dropped episode is over when its file is written
        staging.exception()  # looked at, else asyncio prints it
        raise
    except UserError as error:
        return Played(order.key, trace, error.message)
    return Played(order.key, Staged(trace.summary, trace.verdict, mark))


@functools.cache
def program() -> str:
    """Which keepstate this is, by what is in its files, and its Python: nodes that differ would record other traces."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"keepstate {digest.hexdigest()[:12]}, Python {platform.python_version()}"


def _use(named: str, source: str) -> None:
    """Load a user's family as the driver has it.

    Raises:
        UserError: It is not here, or another one is.
    """
    if (found := use_family(named).source) != source:
        raise UserError(
            f"{named} is {found} here, and {source} where the command was typed",
            "put one file at one path of every node, on a shared folder say",
        )
