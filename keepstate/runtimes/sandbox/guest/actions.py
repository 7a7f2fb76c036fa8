"""What the outermost frame of a worker is to call (`BOOT` says why), and what would go on running after it."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Generator
from typing import Any

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`


class Action:
    """What the outermost frame is to call, and what came of it."""

    __slots__ = ("arguments", "error", "function", "is_running", "value")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_running = False


Doing = Generator[Action, None, Any]


def stop_monitoring() -> None:
    """Python 3.12 has a third way to be told of every line, beside tracing and profiling."""
    if (monitoring := getattr(sys, "monitoring", None)) is not None:
        for tool in range(6):
            if monitoring.get_tool(tool) is not None:
                monitoring.set_events(tool, 0)
                monitoring.free_tool_id(tool)
