"""Playing jobs: the one runner below `keepstate traces collect` and `keepstate bench`.

Callers say what is owed, in which order, and where it is recorded. A failure of ours is tried again, at most twice, and
then recorded without a verdict. Cancellation (Ctrl-C) loses the episodes in flight and nothing else. On which machines
they are played is the engine's: `keepstate.play.engine`. Prints nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from keepstate.errors import UserError
from keepstate.models.base import Message, Model, Relay, Reply, ServerGone
from keepstate.models.budget import BudgetSpent
from keepstate.play.admission import Admission, Seat
from keepstate.play.engine import Engine, Here, NodeGone, Player, ToPlay
from keepstate.play.tally import Tally
from keepstate.tasks.base import Task
from keepstate.traces.record import Limits, Trace
from keepstate.traces.writer import Staged, place_trace, write_trace
from keepstate.vocabulary import RuntimeName

RETRIES = 2
"""Further attempts at an episode that failed by our doing."""
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
    """Called in the thread that writes, before each trace is written: see `Once`."""
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


class Once:
    """An action that happens at its first call alone, whichever thread comes first; the others wait for it.

    What makes way in a folder goes by it, before the first trace is written: a run that plays nothing removes nothing.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self._action, self._over, self._lock = action, False, threading.Lock()

    def __call__(self) -> None:
        """Raises what the action raises; it is tried again then."""
        with self._lock:
            if not self._over:
                self._action()
                self._over = True


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
            async with asyncio.TaskGroup() as group:
                workers = [
                    group.create_task(_work(jobs, admission, player, on_over))
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
    jobs: Queue, admission: Admission, player: Player, on_over: Callable[[Job], Awaitable[None]]
) -> BudgetSpent | None:
    """Play jobs until none is left, or no budget: then no other is cut off, as all come to that by themselves."""
    while jobs:
        job = jobs.take()
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
        await _shielded_write(job, trace)
        job.tally.add(trace)
        await on_over(job)
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


async def _shielded_write(job: Job, trace: Trace | Staged) -> None:
    """Write an episode in a thread. A cancelled run waits for the write: until then the folder is not another's."""
    writing = asyncio.get_running_loop().run_in_executor(None, _write, job, trace)
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait((writing,))
        writing.exception()  # looked at: on a full disk all fail, one is told, and asyncio would print the others
        raise


def _write(job: Job, trace: Trace | Staged) -> None:
    job.begin()
    if isinstance(trace, Staged):
        place_trace(job.tally.folder, trace)
    elif job.record is not None:
        job.record(trace)
    else:
        write_trace(job.tally.folder, trace)


def _first(errors: BaseExceptionGroup[UserError]) -> UserError:
    found = errors.exceptions[0]
    return found if isinstance(found, UserError) else _first(found)
