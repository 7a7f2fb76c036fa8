"""The one interface of all runtimes, and the gate through which every tool call passes.

A runtime executes one action of the agent and says what the agent may see of it. What the agent's own code did
wrong is part of the `ActionResult`; what we did wrong is raised as `EpisodeFailure` (origin sandbox, runtime or, of a
tool, task) and never graded.
"""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from keepstate.errors import EpisodeFailure, UserError
from keepstate.tasks.aside import Aside, Hangs, failed
from keepstate.tasks.base import Environment, Task, Verdict
from keepstate.tasks.families import environment_for, family_of
from keepstate.tasks.tools import ToolError
from keepstate.traces.record import ActionResult, ToolCall
from keepstate.vocabulary import Origin, Rung, RuntimeName

MAX_ARGUMENT_CHARS, MAX_ARGUMENT_VALUES = 1 << 18, 10_000
"""Bounds of the arguments of all calls of one action together: they are checked, recorded and written."""
SHORT = 1_000
"""Characters of a call that does not count: counting takes longer than most calls, and the cap bounds their number."""
FREE_TOOLS = frozenset({"finish"})
"""Tools that do not count against the cap on calls per action, unless they are called more often than it allows."""


class Runtime(Protocol):
    """Executes the actions of one episode."""

    name: RuntimeName
    rung: Rung

    async def execute(self, action: str) -> ActionResult:
        """Execute one action: Python source (persistent, forget) or a JSON list of tool calls (react).

        Raises:
            EpisodeFailure: The runtime itself failed, or the task in a tool call.
        """

    async def branch(self, gate: ToolGate) -> Runtime:
        """A second runtime in the state that this one is in, to be closed. From then on neither changes the other.

        Args:
            gate: Where its tool calls go: the `ToolGate.branch` of this one's, taken just before.

        Raises:
            CannotBranch: An action is running, or its state cannot be had a second time.
            EpisodeFailure: No interpreter is to be had (origin sandbox).
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
    _chars: int = 0
    _values: int = 0
    _aside: Aside | None = None
    _asked: asyncio.Future[ToolCall] | None = None
    """The call that has not returned yet."""

    @classmethod
    async def open(cls, task: Task, limit: int) -> ToolGate:
        """The gate of a new environment that plays `task`.

        What is not `in_memory` is made, called and graded in one thread, in time: a family's own code may wait or hang.

        Args:
            task: What is played.
            limit: The cap on calls of an action.

        Raises:
            EpisodeFailure: The environment could not be made (origin task).
            UserError: The family is not known here.
        """
        kind = family_of(task).environment
        if kind.in_memory:
            return cls(environment_for(task), limit)

        def make() -> Environment:
            try:
                return environment_for(task)
            except UserError as error:
                raise EpisodeFailure(Origin.TASK, error.message) from error
            except BaseException as error:
                raise failed(kind.__name__, kind, error) from error

        aside = Aside()
        made = await aside.run(make, what=kind.__name__, kind=kind)
        return cls(made, limit, _aside=aside)

    async def branch(self) -> ToolGate:
        """A gate with counts of its own to a copy of the environment as it is now, made by `copy.deepcopy`.

        What an environment holds that cannot be copied so (a connection, a process) its `__deepcopy__` has to see to.

        Raises:
            EpisodeFailure: It cannot be copied, or a tool call is running still (origin task).
        """
        kind = type(self.environment)

        def copied() -> Environment:
            try:
                return copy.deepcopy(self.environment)
            except BaseException as error:
                raise failed(f"copy of {kind.__name__}", kind, error) from error

        if self._asked is not None:
            raise EpisodeFailure(Origin.TASK, "a tool call is running still: branch when it has returned")
        if self.environment.in_memory:
            return ToolGate(copied(), self.limit)
        aside = Aside()
        made = await aside.run(copied, what=f"copy of {kind.__name__}", kind=kind)
        return ToolGate(made, self.limit, _aside=aside)

    def start_action(self) -> None:
        """Forget the calls of the last action."""
        self.calls = []
        self.limit_message = None
        self._counted = self._free = self._chars = self._values = 0

    async def settled(self) -> None:
        """Wait for the call that runs still, if there is one: it was made in time, so what it changes counts.

        Raises:
            EpisodeFailure: It hangs, or failed (origin task).
        """
        if self._asked is not None:
            await asyncio.shield(self._asked)

    def call(
        self, tool: str, arguments: dict[str, Any], length: int | None = None
    ) -> ToolCall | asyncio.Future[ToolCall]:
        """Run one call against the environment and record it.

        Args:
            tool: Its name.
            arguments: By name.
            length: At least that of tool and arguments as JSON, where it is known: short ones need not be counted.

        Returns:
            The call with its output, or with `error` where the environment refused it; a future of it where the
            environment is not `in_memory`. Do not cancel that.

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
        if length is None or length > SHORT:
            values, chars = _size([tool, arguments])
            self._values += values
            self._chars += chars
        if self._values > MAX_ARGUMENT_VALUES or self._chars > MAX_ARGUMENT_CHARS:
            record = ToolCall(tool[:100], {}, error=TOO_LARGE)
        elif self.environment.finished:
            record = ToolCall(tool, arguments, error="the episode is over")
        elif self.environment.in_memory:
            record = self._attempt(tool, arguments)
        else:
            return self._attempt_aside(tool, arguments)
        self.calls.append(record)
        return record

    def _attempt(self, tool: str, arguments: dict[str, Any]) -> ToolCall:
        try:
            output = self.environment.call(tool, arguments)
            if output is not None and type(output) is not str:
                _strict_json(output)
            return ToolCall(tool, arguments, output=output)
        except ToolError as error:
            return ToolCall(tool, arguments, error=str(error))
        except BaseException as error:  # SystemExit and the like too: what a task raises is never the agent's doing
            raise failed(f"tool {tool}", type(self.environment), error) from error

    def _attempt_aside(self, tool: str, arguments: dict[str, Any]) -> asyncio.Future[ToolCall]:
        kind = type(self.environment)
        asked = self._asked = self._thread().run(lambda: self._attempt(tool, arguments), what=f"tool {tool}", kind=kind)

        def returned(done: asyncio.Future[ToolCall]) -> None:
            if done.cancelled() or isinstance(done.exception(), Hangs):
                return  # it runs still
            self._asked = None
            if done.exception() is None:
                self.calls.append(done.result())

        asked.add_done_callback(returned)
        return asked

    async def verdict(self) -> Verdict:
        """Grade the episode as it stands.

        Raises:
            EpisodeFailure: The environment failed, or gave no verdict (origin grader).
        """
        kind = type(self.environment)

        def grade() -> Verdict:
            try:
                return Verdict.model_validate(self.environment.verdict())
            except BaseException as error:
                raise failed("verdict", kind, error, Origin.GRADER) from error

        if self.environment.in_memory:
            return grade()
        return await self._thread().run(grade, what="verdict", kind=kind, origin=Origin.GRADER)

    def _thread(self) -> Aside:
        if self._aside is None:
            self._aside = Aside()
        return self._aside


TOO_LARGE = (
    f"the arguments of this action are too large: {MAX_ARGUMENT_VALUES:,} values and {MAX_ARGUMENT_CHARS:,} characters"
    " are allowed in all its calls together; this one was not made"
)


_strict_json = json.JSONEncoder(allow_nan=False).encode


def _size(value: Any) -> tuple[int, int]:
    """Numbers of values and of characters in a JSON value; less where it is beyond all bounds."""
    values = chars = 0
    left = [value]
    while left and values <= MAX_ARGUMENT_VALUES:
        value = left.pop()
        values += 1
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, dict):
            left += value.values()
            chars += sum(map(len, value))
        elif isinstance(value, list):
            left += value
        elif isinstance(value, int):
            chars += value.bit_length() // 3
    return values, chars
