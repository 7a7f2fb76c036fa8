"""Running a coroutine on the fastest event loop there is: uvloop where it is installed, else asyncio's own.

Ctrl-C cancels the coroutine and then raises `KeyboardInterrupt`, on both.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """What `asyncio.run` does, faster."""
    try:
        factory = importlib.import_module("uvloop").new_event_loop
    except ImportError:  # no build of it for Windows
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
