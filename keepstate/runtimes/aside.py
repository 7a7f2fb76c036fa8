"""Running a family's own code in a thread, with a time limit: what waits or hangs in it holds up no other episode.

What it raises is a failure of ours, told with the line of its file, and never the agent's doing.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from keepstate.errors import EpisodeFailure
from keepstate.tasks.loading import line_in
from keepstate.vocabulary import Origin

Value = TypeVar("Value")


class Hangs(EpisodeFailure):
    """It did not return in time, and runs still."""


class Aside:
    """Runs calls one after another in a thread of its own.

    The thread is a daemon: what never returns does not hold up the end of the program either. It ends with this object.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._jobs,), name="keepstate tools", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None)

    def run(
        self, action: Callable[[], Value], *, what: str, kind: type, seconds: float, origin: Origin = Origin.TASK
    ) -> asyncio.Future[Value]:
        """Run `action`, which raises nothing but `EpisodeFailure`. Do not cancel what is returned.

        Args:
            action: What to run.
            what: Its name, for the failure.
            kind: The class whose code it is.
            seconds: How long it may take; beyond that the future fails with `Hangs`.
            origin: Of that failure.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()

        def job() -> None:
            value, failure = None, None
            try:
                value = action()
            except EpisodeFailure as raised:
                failure = raised
            with suppress(RuntimeError):  # the loop has been closed: nobody waits
                loop.call_soon_threadsafe(_settle, future, value, failure)

        def late() -> None:
            place = line_in(kind, sys._current_frames().get(self._thread.ident or 0))
            _settle(future, None, Hangs(origin, f"{what} did not return within {seconds:g} s{_in(place)}"))

        timer = loop.call_later(seconds, late)
        future.add_done_callback(lambda _: timer.cancel())
        self._jobs.put(job)
        return future


def failed(what: str, kind: type, error: BaseException, origin: Origin = Origin.TASK) -> EpisodeFailure:
    """The failure that an exception of a family's code is, with its line.

    Args:
        what: Of the family, was running.
        kind: The class whose code it is.
        error: What it raised.
        origin: Of the failure.
    """
    place = line_in(kind, error.__traceback__)
    return EpisodeFailure(origin, f"{what}: {type(error).__name__}: {error}{_in(place)}")


def _in(place: str) -> str:
    return f" ({place})" if place else ""


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job


def _settle(future: asyncio.Future[Any], value: Any, failure: EpisodeFailure | None) -> None:
    if not future.done():
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
