"""Bringing a fresh interpreter into the state of another: its blocks are run again with the tool results on record.

A confined process cannot be forked: its filter permits no process, and what would give the copy a process table, a /tmp
and limits of its own it has given up for good. Run again in a new worker, the same blocks give the same state with all
confinement; whether they did is checked by what each of them printed, raised and defined. Asks no environment anything.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.base import TOO_LARGE, ToolGate
from keepstate.runtimes.sandbox.block import BlockResult, WorkerLost
from keepstate.runtimes.sandbox.worker import Worker
from keepstate.tasks.base import Environment, Verdict
from keepstate.tasks.tools import Tool, ToolError
from keepstate.traces.observations import ADDRESS
from keepstate.traces.record import Limits, ToolCall
from keepstate.vocabulary import Origin

TIME_LIMIT = "TimeLimit"


class CannotBranch(Exception):
    """The state cannot be had a second time; the text says why. The runtime that was to be branched goes on."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A block that an interpreter has run."""

    code: str
    calls: tuple[ToolCall, ...]
    """Those that the environment was asked, with what it gave."""
    result: BlockResult
    """What the block said of itself."""

    @classmethod
    def of(cls, code: str, calls: Iterable[ToolCall], result: BlockResult) -> Ran:
        """The note of a block that has just ended; a value that the environment may change later is copied."""
        asked = (call for call in calls if call.error != TOO_LARGE)
        return cls(code, tuple(map(_as_it_was, asked)), result)

    def is_like(self, again: BlockResult) -> bool:
        """Whether a repetition came out the same, but for memory addresses."""

        def told(result: BlockResult) -> tuple[object, ...]:
            texts = (ADDRESS.sub("0x", text) for text in (result.output, result.error or ""))
            return *texts, result.error_type, result.globals

        return told(self.result) == told(again)


def _as_it_was(call: ToolCall) -> ToolCall:
    text = call.output is None or isinstance(call.output, str)
    return call if text else replace(call, output=copy.deepcopy(call.output))


class _OnRecord(Environment):
    """Answers the tool calls of one block as they were answered before, in their order."""

    in_memory = True

    def __init__(self, tools: tuple[Tool, ...], calls: Iterable[ToolCall]) -> None:
        self.tools = tools
        self.left = deque(calls)
        """Those that were not made again."""

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """What the next call on record gave; any other call is an error."""
        if not self.left or (self.left[0].tool, self.left[0].arguments) != (tool, arguments):
            raise LookupError("it made another tool call than before")
        known = self.left.popleft()
        if known.error is not None:
            raise ToolError(known.error)
        return known.output

    def verdict(self) -> Verdict:
        """None: nothing is played here."""
        raise NotImplementedError


async def run_again(
    worker: Worker, history: Sequence[Ran], tools: tuple[Tool, ...], limits: Limits, *, variables_only: bool
) -> None:
    """Run the blocks of `history` in a fresh worker.

    Raises:
        CannotBranch: One does not do what it did, or may not.
        EpisodeFailure: The sandbox failed.
    """
    for number, ran in enumerate(history, 1):
        if ran.result.error_type == TIME_LIMIT:
            raise CannotBranch(f"block {number} of the interpreter was cut by its time limit: nobody knows where")
        try:
            record = _OnRecord(tools, ran.calls)
            gate = ToolGate(record, limits.most_calls)
            again = await worker.run(ran.code, gate, limits, variables_only=variables_only)
        except WorkerLost as lost:
            raise CannotBranch(f"block {number} of the interpreter, run again, lost it: {lost}") from lost
        except EpisodeFailure as failure:
            if failure.origin is not Origin.TASK:
                raise
            raise CannotBranch(f"block {number} of the interpreter, run again: {failure.message}") from failure
        if record.left or not ran.is_like(again):
            raise CannotBranch(
                f"block {number} of the interpreter, run again, came out otherwise: what reads a clock, chance or an"
                " address has no second time"
            )
