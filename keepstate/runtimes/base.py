"""The one interface of the three runtimes, and the gate through which every tool call passes.

A runtime executes one action of the agent and says what the agent may see of it. What the agent's own code did
wrong is part of the `ActionResult`; what we did wrong is raised as `EpisodeFailure` (origin sandbox or runtime) and
never graded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from keepstate.errors import EpisodeFailure
from keepstate.tasks.base import Environment, ToolError
from keepstate.vocabulary import Origin, Rung, RuntimeName

FREE_TOOLS = frozenset({"finish"})
"""Tools that do not count against the cap on calls per action, unless they are called more often than it allows."""


@dataclass(frozen=True, slots=True)
class RuntimeLimits:
    """What one action may use."""

    tool_calls: int = 25
    """Calls per action; `finish` is free."""
    seconds: float = 30.0
    """Wall-clock and CPU seconds per action."""
    memory_mib: int = 256
    """Address space beyond an idle interpreter's."""
    output_chars: int = 10_000
    """Output shown to the agent; the rest is cut with a notice."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call as the host saw it."""

    tool: str
    arguments: dict[str, Any]
    output: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What one action did, as the agent may see it."""

    output: str
    """stdout and stderr in order, and the value of a last expression; already cut to the limit."""
    error: str | None = None
    """The agent's own error (traceback of its frames, a cap, the time limit), or None."""
    error_type: str | None = None
    """Class of that error: an exception's name such as `NameError`, or `ToolCallLimit`, `TimeLimit`, `InterpreterExit`.
    """
    globals: tuple[str, ...] | None = None
    """Sorted names the agent defined that exist now; None in a runtime without an interpreter."""
    tool_calls: tuple[ToolCall, ...] = ()
    finished: bool = False
    """The environment says that the episode is over."""
    state_lost: bool = False
    """A persistent interpreter had to be replaced; its variables are gone (the agent is told in `error`)."""
    seconds: float = 0.0


class Runtime(Protocol):
    """Executes the actions of one episode."""

    name: RuntimeName
    rung: Rung

    async def execute(self, action: str) -> ActionResult:
        """Execute one action: Python source (persistent, forget) or a JSON list of tool calls (react).

        Raises:
            EpisodeFailure: The runtime itself failed.
        """

    async def close(self) -> None:
        """End every process of this runtime. Safe to call twice."""


class ToolCallLimit(Exception):
    """The cap on tool calls of this action is reached; the action must end."""


@dataclass
class ToolGate:
    """Every tool call of an episode passes here: counts the cap, records the call, notices the end.

    One gate serves an episode; `start_action` opens a new count.
    """

    environment: Environment
    limit: int
    calls: list[ToolCall] = field(default_factory=list)
    limit_message: str | None = None
    """Set once this action went beyond the cap."""
    _counted: int = 0
    _free: int = 0

    def start_action(self) -> None:
        """Forget the calls of the last action."""
        self.calls = []
        self.limit_message = None
        self._counted = self._free = 0

    def call(self, tool: str, arguments: dict[str, Any]) -> ToolCall:
        """Run one call against the environment and record it.

        Returns:
            The call with its output, or with `error` where the environment refused it.

        Raises:
            ToolCallLimit: This call would exceed the cap; nothing was run.
            EpisodeFailure: The environment itself failed (origin task).
        """
        if tool in FREE_TOOLS and self._free < self.limit:
            self._free += 1
        elif self._counted < self.limit:
            self._counted += 1
        else:
            self.limit_message = f"more than {self.limit} tool calls in one action"
            raise ToolCallLimit(self.limit_message)
        if self.environment.finished:
            record = ToolCall(tool, arguments, error="the episode is over")
        else:
            try:
                record = ToolCall(tool, arguments, output=self.environment.call(tool, arguments))
            except ToolError as error:
                record = ToolCall(tool, arguments, error=str(error))
            except Exception as error:
                raise EpisodeFailure(Origin.TASK, f"tool {tool}: {type(error).__name__}: {error}") from error
        self.calls.append(record)
        return record


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in monotonic time."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The point `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds until then, never below zero."""
        return max(0.0, self.at - time.monotonic())
