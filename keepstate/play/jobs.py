"""Playing jobs: the one runner below `keepstate traces collect` and `keepstate bench`.

Callers say what is owed, in which order, and where it is recorded. A failure of ours is tried again, at most twice, and
then recorded without a verdict. Cancellation (Ctrl-C) loses the episodes in flight and nothing else. On which machines
they are played is the engine's: `keepstate.play.engine`. Prints nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keepstate.errors import UserError
from keepstate.eventloop import seldom_collected
from keepstate.models.base import Message, Model, Relay, Reply, ServerGone
from keepstate.models.budget import BudgetSpent
from keepstate.play.admission import Admission, Seat
from keepstate.play.engine import Engine, Here, NodeGone, Player, ToPlay
from keepstate.play.tally import Tally
from keepstate.tasks.base import Task
from keepstate.traces.record import Limits, Trace
from keepstate.traces.writer import Staged, place_trace, write_traces
from keepstate.vocabulary import RuntimeName

RETRIES = 2
"""Further attempts at an episode that failed by our doing."""
MOST_WAITING = 64
"""Finished episodes that are written together, at most: each is open meanwhile, and 1,024 is a usual limit. While as
many wait no further one is begun."""
LAST_ROUNDS = 2
"""Of as many episodes as are open at once, which start by length. A simulated matrix of 8 x 48, recorded lengths and an
H200's steps, is 4, 15 and 18 % faster so at 16, 64 and 128 at once; with one round 1, 7 and 9, with all as with two."""


@dataclass(frozen=True, slots=True)
class Job:
    """One episode owed."""

    tally: Tally
    """Where it counts. Its folder takes the trace; its name is the kind of episode that admission knows it as."""
    task: Task
    runtime: RuntimeName
    model: Callable[[str], Model]
    """Who plays it on the server of that base URL; called once an attempt."""
    limits: Limits
    seed: int
    isolation: str
    """Rung of the sandbox."""
    begin: Callable[[], None] = lambda: None
    """Called in the thread that writes, before each trace is written. What makes way in a folder goes by it, once, at
    its first call: a run that plays nothing removes nothing."""
    record: Callable[[Trace], None] | None = None
    """Takes the trace, in that thread, in the place of writing it: a replay compares."""
    attempt: int = 0


class Queue:
    """Jobs that wait to be started: in the order given, and the last ones by length.

    Where few long episodes are left the server is nearly empty, so two rounds before the end those start first whose
    kind has been longest. The order before gives all kinds their turns, and a run that is cut something of each.

    Args:
        jobs: In their order.
        admission: Where they are let in; it knows how long the episodes of a kind became.
    """

    def __init__(self, jobs: Iterable[Job], admission: Admission) -> None:
        self._admission, self._added = admission, 0
        self._kinds: dict[str, deque[tuple[int, Job]]] = defaultdict(deque)
        for job in jobs:
            self.add(job)

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    def add(self, job: Job) -> None:
        """Put one behind all others."""
        self._kinds[job.tally.name].append((self._added, job))
        self._added += 1

    def take(self) -> Job:
        """The next one; there has to be one."""
        late = len(self) <= LAST_ROUNDS * self._admission.most

        def urgency(kind: str) -> tuple[float, int]:
            return self._admission.length(kind) if late else 0, -self._kinds[kind][0][0]

        return self._kinds[max(filter(self._kinds.__getitem__, self._kinds), key=urgency)].popleft()[1]

    def clear(self) -> None:
        """Start none of them."""
        self._kinds.clear()


async def play(
    owed: Iterable[tuple[Admission, Sequence[Job]]],
    *,
    allow_unsafe: bool = False,
    engine: Engine | None = None,
    on_over: Callable[[Job], Awaitable[None]],
) -> None:
    """Play jobs and record them.

    Args:
        owed: Jobs in the order in which they start but for the last (`Queue`); those of each server, or of several
            alike, with its own admission.
        allow_unsafe: Run model-written code without a sandbox where there is none.
        engine: The machines that play; this one where None.
        on_over: Called when an episode is recorded and counted.

    Raises:
        UserError: The last server went away, the disk is full, there is no sandbox, the budget is spent, ...
    """
    owed = list(owed)
    rungs = {job.isolation for _, jobs in owed for job in jobs if job.runtime is not RuntimeName.REACT}
    folders = {job.tally.folder.absolute() for _, jobs in owed for job in jobs if job.record is None}
    queues = [(admission, Queue(jobs, admission)) for admission, jobs in owed]
    async with (engine or Here()).ready(rungs, allow_unsafe=allow_unsafe, folders=folders) as player:
        failed: BaseExceptionGroup[UserError] | None = None
        try:
            with seldom_collected():
                async with Recording(on_over) as recording, asyncio.TaskGroup() as group:
                    workers = [
                        group.create_task(_work(jobs, admission, player, recording, group))
                        for admission, jobs in queues
                        for _ in range(min(admission.most, len(jobs)))
                    ]
        except* UserError as errors:
            failed = errors  # Python 3.11.2 puts what is raised here into a group of its own
        if failed:
            raise _first(failed) from failed
        if spent := next(filter(None, (worker.result() for worker in workers)), None):
            raise spent


async def _work(
    jobs: Queue, admission: Admission, player: Player, recording: Recording, group: asyncio.TaskGroup
) -> BudgetSpent | None:
    """Play jobs until none is left, or no budget: then no other is cut off, as all come to that by themselves."""
    while jobs:
        job = jobs.take()
        await recording.room()
        await admission.look_again()
        try:
            async with admission.seat(job.tally.name) as seat:
                trace = await _play(job, admission, seat, player)
        except BudgetSpent as spent:
            jobs.clear()
            return spent
        except ServerGone as gone:  # what was played there is no answer of the model's
            if admission.leave(seat.server, gone):
                job.tally.lost.append(gone.message)
            jobs.add(job)
            continue
        except NodeGone as gone:  # no attempt of the episode's
            if gone.message:
                job.tally.lost.append(gone.message)
            jobs.add(job)
            continue
        if trace.failure is not None and job.attempt < RETRIES:
            jobs.add(replace(job, attempt=job.attempt + 1))
            continue
        group.create_task(recording.add(job, trace))
    return None


async def _play(job: Job, admission: Admission, seat: Seat, player: Player) -> Trace | Staged:
    job.tally.open += 1
    try:
        folder = job.tally.folder.absolute() if job.record is None else None
        episode = ToPlay(job.task, job.runtime, job.limits, job.seed, job.isolation, folder)
        return await player(episode, Metered(job.model(seat.server), admission, seat))
    finally:
        job.tally.open -= 1


class Metered(Relay):
    """A model that is asked when the server's cache has room, and tells how long the conversation is."""

    def __init__(self, model: Model, admission: Admission, seat: Seat) -> None:
        super().__init__(model)
        self._admission, self._seat = admission, seat

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """Its answer, as soon as there is room for it."""
        await self._admission.turn(self._seat)
        return await super().reply(messages, seed=seed, turn=turn)

    def passed(self, reply: Reply) -> Reply:
        """The same answer."""
        tokens = reply.usage.total_tokens
        if tokens is not None:  # else the admission goes on expecting what it expected
            self._admission.grown(self._seat, tokens)
        return reply


class Recording:
    """Writes finished episodes while others are played; those that end meanwhile are written together then.

    One thread does it. However a run ends, unless it is killed, what was handed in is written before it is left: until
    then the folder is not another's.

    Args:
        on_over: Called when an episode is recorded and counted.
    """

    def __init__(self, on_over: Callable[[Job], Awaitable[None]]) -> None:
        self._on_over = on_over
        self._waiting: list[tuple[Job, Trace | Staged, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._not_begun: Exception | None = None
        """Why what has to make way did not; nothing is written any more then."""

    async def __aenter__(self) -> Recording:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writing is not None:
            await asyncio.wait((self._writing,))

    async def room(self) -> None:
        """Wait while too many wait for the disk. Lets others go on, too: a scripted episode waits for nothing."""
        await asyncio.sleep(0)
        while len(self._waiting) >= MOST_WAITING:
            await asyncio.wait((self._waiting[0][2],))

    def add(self, job: Job, trace: Trace | Staged) -> Coroutine[Any, Any, None]:
        """Record an episode.

        Returns:
            What waits for that, counts it and tells. It raises `UserError` where the episode cannot be written.
        """
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, trace, recorded))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())
        return self._over(job, trace, recorded)

    async def _over(self, job: Job, trace: Trace | Staged, recorded: asyncio.Future[None]) -> None:
        await recorded
        job.tally.add(trace)
        await self._on_over(job)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_WAITING], self._waiting[MOST_WAITING:]
            errors = await asyncio.to_thread(self._begun_and_written, [(job, trace) for job, trace, _ in batch])
            for (_, _, recorded), error in zip(batch, errors, strict=True):
                if recorded.cancelled():
                    continue
                if error is None:
                    recorded.set_result(None)
                else:
                    recorded.set_exception(error)
                    recorded.exception()  # looked at: where all fail one is told, and asyncio would print the others
        self._writing = None

    def _begun_and_written(self, batch: Sequence[tuple[Job, Trace | Staged]]) -> Sequence[Exception | None]:
        try:
            for job, _ in batch:
                if self._not_begun is None:
                    job.begin()
        except Exception as error:
            self._not_begun = error
        return _written(batch) if self._not_begun is None else [self._not_begun] * len(batch)


def _written(batch: Sequence[tuple[Job, Trace | Staged]]) -> list[Exception | None]:
    """Record episodes. What each failed with: one that cannot be written takes no other with it."""
    together = [(job.tally.folder, trace) for job, trace in batch if job.record is None and isinstance(trace, Trace)]
    if len(together) == len(batch) and _error(write_traces, together) is None:
        return [None] * len(batch)
    return [_error(_write_one, job, trace) for job, trace in batch]


def _write_one(job: Job, trace: Trace | Staged) -> None:
    if isinstance(trace, Staged):
        place_trace(job.tally.folder, trace)
    elif job.record is not None:
        job.record(trace)
    else:
        write_traces([(job.tally.folder, trace)])


def _error(action: Callable[..., None], *args: object) -> Exception | None:
    try:
        action(*args)
    except Exception as error:
        return error
    return None


def _first(errors: BaseExceptionGroup[UserError]) -> UserError:
    found = errors.exceptions[0]
    return found if isinstance(found, UserError) else _first(found)
