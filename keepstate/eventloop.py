"""Running a coroutine on the fastest event loop there is: uvloop where it is installed, else asyncio's own.

Ctrl-C cancels the coroutine and then raises `KeyboardInterrupt`, on both.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
SELDOM = (50_000, 20, 100)
"""Thresholds of the cyclic garbage collector while thousands of episodes come and go; Python's are 700, 10, 10."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """What `asyncio.run` does, faster."""
    try:
        factory = importlib.import_module("uvloop").new_event_loop
    except ImportError:  # no build of it for Windows
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Cyclic garbage is looked for seldom, and never among what was there before: a tenth of the time of an episode."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
