"""Running a family's own code with a time limit: in a thread, where what waits holds up no other episode, or in place.

What it raises is a failure of ours, told with the line of its file, and never the agent's doing.
"""

from __future__ import annotations

import asyncio
import queue
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeVar

from keepstate.errors import EpisodeFailure, UserError
from keepstate.tasks.loading import line_in
from keepstate.vocabulary import Origin

Value = TypeVar("Value")

SECONDS = 30.0
"""How long code of a family may take: a tool, a verdict, a step of a plan. What takes longer hangs: our failure."""


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
        self, action: Callable[[], Value], *, what: str, kind: type, origin: Origin = Origin.TASK
    ) -> asyncio.Future[Value]:
        """Run `action`, which raises nothing but `EpisodeFailure` or `UserError`. Do not cancel what is returned.

        Beyond `SECONDS` the future fails with `Hangs`.

        Args:
            action: What to run.
            what: Its name, for the failure.
            kind: The class whose code it is.
            origin: Of that failure.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()

        def job() -> None:
            value, failure = None, None
            try:
                value = action()
            except (EpisodeFailure, UserError) as raised:
                failure = raised
            with suppress(RuntimeError):  # the loop has been closed: nobody waits
                loop.call_soon_threadsafe(_settle, future, value, failure)

        seconds = SECONDS

        def late() -> None:
            place = line_in(kind, sys._current_frames().get(self._thread.ident or 0))
            _settle(future, None, Hangs(origin, f"{what} did not return within {seconds:g} s{_in(place)}"))

        timer = loop.call_later(seconds, late)
        future.add_done_callback(lambda _: timer.cancel())
        self._jobs.put(job)
        return future


class TooLong(BaseException):
    """Raised by `in_time` within the code that takes too long; no `except Exception` of that code stops it."""


@contextmanager
def in_time() -> Iterator[None]:
    """Bound what is run in place, in the main thread; elsewhere nothing is bounded. An alarm that is set stays so.

    Raises:
        TooLong: It did not end within `SECONDS`; its traceback tells the line.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    began = time.monotonic()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), 0.001))


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


def _settle(future: asyncio.Future[Any], value: Any, failure: Exception | None) -> None:
    if not future.done():
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
