"""The engine over all nodes of a Ray cluster, the optional extra `[ray]`.

    with cluster("auto") as engine:
        eventloop.run(bench(configs, run, engine=engine))

An actor a node plays episodes there (`keepstate.play.node`); everything else stays in this process. A node that dies
loses its episodes in flight alone, which are played again; one that comes, or comes back, takes part. Ray is imported
here and in `keepstate.play.connect`. Starts servers of no model.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from keepstate.agents.episode import attributed
from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import PATIENCE, ContextOverflow, Message, Model, Sampling
from keepstate.play.connect import connected, words_of
from keepstate.play.engine import NodeGone, Player, ToPlay
from keepstate.play.node import (
    Answered,
    Asked,
    Begin,
    Drop,
    Event,
    Node,
    Opened,
    Outbox,
    Played,
    Setting,
    Stopped,
    Unshared,
    packed,
    program,
    unpacked,
)
from keepstate.play.sharing import look_for, offered
from keepstate.tasks.families import named_families
from keepstate.traces.record import Failure, Trace
from keepstate.traces.writer import Staged
from keepstate.vocabulary import Origin

Share = TypeVar("Share")
Result = TypeVar("Result")

SAME = "install the same keepstate[ray], in the same Python, on every node; then repeat the command"
LOOK_SECONDS = 2.0
"""Between two looks at which nodes there are."""
START_SECONDS = 120.0
"""In which a node must be able to play: it loads keepstate from a disk that may be far."""
WRITE_SECONDS = 5.0
"""In which a node ends what it is writing when a run ends; one that hangs leaves a file that the next run removes."""
WAIT_SECONDS = 60.0
"""How long a run without any node waits for one."""
FAILED_IN_A_ROW, REST_SECONDS = 3, 60.0
"""So many failures of sandbox or runtime and a node rests: else one with a full disk, which fails at once, would get
every episode."""
AHEAD = 4
"""Shares handed out for each processor: the next is there when one is done, and few wait for the first."""


class NotShared(UserError):
    """A node does not see the folders of results, or cannot write there."""


@dataclass(eq=False)
class NodeActor:
    """A node's actor, as the driver sees it."""

    actor: Any
    name: str
    cpus: float
    open: dict[int, asyncio.Queue[Event | Exception]] = field(default_factory=dict)
    """Where events of an episode go, by its key."""
    asked: int = 0
    """Answers that are on their way to it."""
    serving: asyncio.Task[None] | None = None
    gone: str = ""
    """Why it plays no more."""
    failed: deque[float] = field(default_factory=lambda: deque(maxlen=FAILED_IN_A_ROW))
    """When episodes failed there one after another, on the clock of `time.monotonic`."""

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Nothing is open there."""
        self.serving, self.open = None, {}
        self.orders = Outbox(lambda: self.asked > 0)

    @property
    def rests(self) -> bool:
        """Whether it failed too often just now."""
        return len(self.failed) == FAILED_IN_A_ROW and time.monotonic() - self.failed[-1] < REST_SECONDS

    def note(self, trace: Trace | Staged) -> None:
        """An episode is over there."""
        if trace.failure and trace.failure.origin in (Origin.SANDBOX, Origin.RUNTIME):
            self.failed.append(time.monotonic())
        else:
            self.failed.clear()

    async def serve(self) -> None:
        """Send orders and take events until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send())
            group.create_task(self._receive())

    async def _send(self) -> None:
        while True:
            await self.actor.give.remote(packed(await self.orders.take()))

    async def _receive(self) -> None:
        while True:
            for event in unpacked(await self.actor.take.remote()):
                if event.key in self.open:
                    self.open[event.key].put_nowait(event)

    def lose(self, why: str) -> None:
        """It is gone: all that it plays is lost, and told once."""
        self.gone = why
        for number, events in enumerate(self.open.values()):
            events.put_nowait(NodeGone("" if number else why))


class Cluster:
    """The engine. Made by `cluster`."""

    def __init__(self, ray: Any, *, nodes_write: bool = False) -> None:
        self._ray, self._nodes_write = ray, nodes_write
        self._workers: dict[str, NodeActor] = {}
        self._look_at: dict[str, float] = {}
        """When a node may be tried again, on the clock of `time.monotonic`."""
        self._told: set[str] = set()
        self._keys = itertools.count()

    @asynccontextmanager
    async def ready(
        self, rungs: Collection[str], *, allow_unsafe: bool, folders: Collection[Path] = ()
    ) -> AsyncIterator[Player]:
        """See `Engine`; every node that is there now must be able to play, unless it dies meanwhile.

        One that cannot write where it should takes no part, if there are others. Actors stay for the next time.
        """
        with offered(folders if self._nodes_write else ()) as tokens:
            setting = Setting(tuple(sorted(rungs)), allow_unsafe, named_families(), tokens)
            async with self._ready(setting) as player:
                yield player

    @asynccontextmanager
    async def _ready(self, setting: Setting) -> AsyncIterator[Player]:
        nodes = await self._nodes()
        joining = await asyncio.gather(*(self._join(node, setting) for node in nodes), return_exceptions=True)
        living = {node["NodeID"] for node in await self._nodes()}
        looking = asyncio.get_running_loop().create_task(self._look(setting))
        try:
            for node, failed in zip(nodes, joining, strict=True):
                if isinstance(failed, NotShared) and self._workers:
                    self._leave_out(node, failed)
                elif failed and (node["NodeID"] in living or not isinstance(failed, UserError)):
                    raise failed
            if not self._workers:
                raise UserError("the Ray cluster has no node with a CPU", "see: ray status")
            yield self._play
        finally:
            tasks = [looking, *(worker.serving for worker in self._workers.values() if worker.serving)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if setting.shared:
                await self._rest()
            for worker in self._workers.values():
                worker.begin()

    async def _rest(self) -> None:
        """Wait until no node writes any more, so that what is cleared when a run ends early is all that there is."""
        resting = [worker.actor.rest.remote() for worker in self._workers.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(WRITE_SECONDS):
                await asyncio.gather(*resting, return_exceptions=True)

    def in_order(self, work: Callable[[Share], Result], shares: Iterable[Share]) -> Iterator[Result]:
        """What `work` makes of each share, in their order, on all processors of all nodes.

        A share is worked on again where its node dies. `work` raises nothing, and neither does Ray take more shares
        than keep its processors busy: memory stays flat.

        Raises:
            UserError: It could not be done on any node.
        """
        task = self._ray.remote(num_cpus=1, max_retries=-1)(_done)
        ahead = AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        due: deque[Any] = deque()
        try:
            for share in shares:
                due.append(task.remote(work, share))
                if len(due) >= ahead:
                    yield self._ray.get(due.popleft())
            while due:
                yield self._ray.get(due.popleft())
        except self._ray.exceptions.RayError as error:
            raise UserError(f"the nodes cannot work: {words_of(error)}", SAME) from error
        finally:
            for each in due:
                self._ray.cancel(each)

    def close(self) -> None:
        """End the actors."""
        for worker in self._workers.values():
            self._ray.kill(worker.actor)
        self._workers.clear()

    async def _nodes(self) -> list[dict[str, Any]]:
        """Nodes that live and have a CPU to give."""
        nodes = await asyncio.to_thread(self._ray.nodes)
        return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]

    async def _look(self, setting: Setting) -> None:
        """Let nodes take part that come; and the same ones anew whose actor alone died."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                for node in await self._nodes():
                    identity = node["NodeID"]
                    if identity not in self._workers and self._look_at.get(identity, 0.0) <= time.monotonic():
                        self._look_at[identity] = math.inf  # until it is known whether it can
                        group.create_task(self._try(node, setting))

    async def _try(self, node: dict[str, Any], setting: Setting) -> None:
        """Let a node play if it can; one that cannot is told once, and looked at again later."""
        identity = node["NodeID"]
        try:
            await self._join(node, setting)
            self._look_at[identity] = 0.0
        except UserError as error:
            self._leave_out(node, error)

    def _leave_out(self, node: dict[str, Any], why: UserError) -> None:
        """Let it rest, and tell it once."""
        self._look_at[node["NodeID"]] = time.monotonic() + REST_SECONDS
        self._tell(node["NodeID"], f"{why.message}; it takes no part")

    def _tell(self, about: str, words: str) -> None:
        if about not in self._told:
            self._told.add(about)
            print(words, file=sys.stderr, flush=True)

    async def _join(self, node: dict[str, Any], setting: Setting) -> None:
        """Let a node play.

        Raises:
            UserError: It cannot; says why.
        """
        identity, name = node["NodeID"], f"the node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        worker = self._workers.get(identity) or NodeActor(self._actor(identity), name, node["Resources"]["CPU"])
        try:
            async with asyncio.timeout(START_SECONDS):
                opened = await worker.actor.open.remote(setting)
        except TimeoutError:
            opened = Stopped(-1, f"it was not ready within {START_SECONDS:g} s", "look at its load and its disk")
        except self._ray.exceptions.RayError as error:
            self._workers.pop(identity, None)
            opened = Stopped(-1, words_of(error), SAME)
        if isinstance(opened, Opened) and opened.program != program():
            words = f"it runs {opened.program}, this is {program()}"
            opened = Stopped(-1, words, SAME)
        if isinstance(opened, Opened):
            try:
                await asyncio.to_thread(look_for, setting.shared, opened.mark)
            except UserError as error:
                opened = Unshared(-1, error.message, error.hint)
        if isinstance(opened, Stopped):
            self._workers.pop(identity, None)
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(worker.actor)
            kind = NotShared if isinstance(opened, Unshared) else UserError
            raise kind(f"{name} cannot play: {opened.message}", opened.hint)
        self._workers[identity] = worker
        worker.serving = asyncio.get_running_loop().create_task(self._serve(identity, worker))

    def _actor(self, identity: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(identity, soft=False)
        chosen = {"num_cpus": 0, "scheduling_strategy": place, "enable_task_events": False}  # an event for each message
        return self._ray.remote(Node).options(**chosen).remote()

    async def _serve(self, identity: str, worker: NodeActor) -> None:
        """Serve a node until it is gone; then it is looked for anew."""
        try:
            await worker.serve()
        except* Exception as errors:
            del self._workers[identity]
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(worker.actor)
            worker.lose(f"{worker.name} is gone: {words_of(errors.exceptions[0])}")

    async def _free(self) -> NodeActor:
        """The emptiest node for its processors; waits a while where there is none.

        Raises:
            UserError: None came.
        """
        waited = time.monotonic()
        while not self._workers:
            if time.monotonic() - waited > WAIT_SECONDS:
                raise UserError(
                    f"no node of the Ray cluster is left, and none came within {WAIT_SECONDS:g} s",
                    "see: ray status; then repeat the command: finished episodes are kept",
                )
            await asyncio.sleep(LOOK_SECONDS / 4)
        healthy = [worker for worker in self._workers.values() if not worker.rests] or self._workers.values()
        return min(healthy, key=lambda worker: (len(worker.open) + 1) / worker.cpus)

    async def _play(self, episode: ToPlay, model: Model) -> Trace | Staged:
        """Let a node play, and answer for the model."""
        if not self._nodes_write:
            episode = replace(episode, folder=None)
        worker, key = await self._free(), next(self._keys)
        events = worker.open[key] = asyncio.Queue()
        sampling = getattr(model, "sampling", None)
        sampling = sampling if isinstance(sampling, Sampling) else None
        worker.orders.put(Begin(key, episode, model.name, sampling, getattr(model, "patience", PATIENCE)))
        messages: list[Message] = []
        answering: asyncio.Task[None] | None = None
        try:
            while True:
                event = await events.get()
                if isinstance(event, Asked):
                    messages += event.messages
                    answering = asyncio.get_running_loop().create_task(_answer(worker, event, model, tuple(messages)))
                elif isinstance(event, Played):
                    worker.note(event.trace)
                    if event.unwritten:
                        self._tell(worker.name, f"{worker.name}: {event.unwritten}; its results are written here")
                    return event.trace
                else:
                    raise event.error() if isinstance(event, Stopped) else event
        finally:
            if answering is not None:
                answering.cancel()
            if worker.open.pop(key, None) is not None and not worker.gone:
                worker.orders.put(Drop(key))


async def _answer(worker: NodeActor, asked: Asked, model: Model, messages: tuple[Message, ...]) -> None:
    """Ask the model, and send what it says; what ends the run goes to the episode's own events."""
    worker.asked += 1
    try:
        with attributed(Origin.MODEL):
            reply = await model.reply(messages, seed=asked.seed, turn=asked.turn)
        worker.orders.put(Answered(asked.key, reply))
    except EpisodeFailure as failure:
        worker.orders.put(Answered(asked.key, Failure(origin=failure.origin, message=failure.message)))
    except ContextOverflow as overflow:
        worker.orders.put(Answered(asked.key, overflow))
    except UserError as error:
        if asked.key in worker.open:
            worker.open[asked.key].put_nowait(error)
    finally:
        worker.asked -= 1


def _done(work: Callable[[Share], Result], share: Share) -> Result:
    return work(share)


@contextmanager
def cluster(address: str | None = None, *, nodes_write: bool = False) -> Iterator[Cluster]:
    """The engine of a Ray cluster.

    Args:
        address: `auto` for the one that runs here, or `HOST:PORT`; None starts one of this machine alone, which ends,
            with all its files, when the block does.
        nodes_write: Nodes write their traces themselves, into folders that all share; else they send them.

    Raises:
        UserError: Ray is not installed, no cluster is there, or it is of other versions.
    """
    with connected(address) as ray:
        engine = Cluster(ray, nodes_write=nodes_write)
        try:
            yield engine
        finally:
            engine.close()
