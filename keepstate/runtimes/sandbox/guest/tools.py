"""The tools of a task as functions of the interpreter: each call is a question to the host, which runs it.

Nothing of a task is known here but names, parameters and descriptions.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`


class ToolError(Exception):
    """The task refused a call."""


class ToolCallLimit(BaseException):
    """The cap on tool calls is reached. Not an `Exception`: the block must end, whatever it catches."""


class TimeLimit(BaseException):
    """The block used up its time."""


class EpisodeFinished(BaseException):
    """The episode is over: the block ends here."""


for _kind in (ToolError, ToolCallLimit, TimeLimit, EpisodeFinished):
    _kind.__module__ = "builtins"  # shown by its bare name, as the built-in errors are

Call = Callable[[str, dict[str, Any]], Any]
"""Asks the host to run a tool with arguments by name; returns its result or raises."""


def make_tools(descriptions: list[dict[str, Any]], call: Call) -> dict[str, Callable[..., Any]]:
    """One function a tool, with the signature that the agent was told: Python itself refuses a wrong call.

    Args:
        descriptions: `name`, `parameters` (names) and `doc` of each; from the host.
        call: How to run one.
    """
    functions: dict[str, Callable[..., Any]] = {}
    for tool in descriptions:
        name, parameters = tool["name"], tool["parameters"]
        arguments = ", ".join(f"{parameter!r}: {parameter}" for parameter in parameters)
        source = f"def {name}({', '.join(parameters)}):\n    return _call({name!r}, {{{arguments}}})"
        space: dict[str, Any] = {"_call": call, "__builtins__": {}, "__name__": "tools"}
        exec(source, space)
        functions[name] = space[name]
        functions[name].__doc__ = tool["doc"]
    return functions
