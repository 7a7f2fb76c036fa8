"""The order in which jobs start."""

from pathlib import Path

from keepstate.models.scripted import ScriptedModel
from keepstate.play.admission import Admission
from keepstate.play.jobs import Job, Queue
from keepstate.play.tally import Tally
from keepstate.tasks import make_tasks
from keepstate.traces.record import Limits
from keepstate.vocabulary import RuntimeName

TASK = next(make_tasks("knapsack", difficulty="mini", count=1, seed_start=0))


def jobs(*kinds: str) -> list[Job]:
    """One of each kind, in this order; their seeds number them."""
    return [
        Job(Tally(kind, Path(), 1), TASK, RuntimeName.REACT, lambda _: ScriptedModel([]), Limits(), number, "auto")
        for number, kind in enumerate(kinds)
    ]


async def ended(admission: Admission, kind: str, tokens: int) -> None:
    async with admission.seat(kind) as seat:
        admission.grown(seat, tokens)


def taken(queue: Queue) -> list[str]:
    return [f"{job.tally.name}{job.seed}" for job in iter(lambda: queue.take() if queue else None, None)]


async def test_the_last_two_rounds_start_by_length() -> None:
    admission = Admission(2)
    for kind, tokens in (("a", 100), ("b", 900), ("a", 300), ("c", 500)):
        await ended(admission, kind, tokens)
    queue = Queue(jobs("a", "b", "c", "a", "b", "c", "a", "b"), admission)
    assert taken(queue) == ["a0", "b1", "c2", "a3", "b4", "b7", "c5", "a6"]


async def test_a_kind_of_which_none_has_ended_may_be_the_longest() -> None:
    admission = Admission(2)
    await ended(admission, "a", 900)
    assert taken(Queue(jobs("a", "new", "a", "other"), admission)) == ["new1", "other3", "a0", "a2"]


async def test_where_no_length_is_known_the_order_is_the_one_given() -> None:
    given = jobs("a", "b", "b", "a", "c")
    queue = Queue(given, Admission(3))
    first = queue.take()
    queue.add(first)
    assert taken(queue) == ["b1", "b2", "a3", "c4", "a0"]


async def test_a_cleared_queue_is_empty() -> None:
    queue = Queue(jobs("a", "b"), Admission(1))
    queue.clear()
    assert not queue
    assert taken(queue) == []
