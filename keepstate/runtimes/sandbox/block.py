"""One block that runs in a worker, as the host sees it: its tool calls, its output, its time, its result.

Frames come from hostile code. They may make a block fail or lose its interpreter; nothing that they say of tool calls,
time or the end of the episode is taken from them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.base import ToolCallLimit, ToolGate
from keepstate.runtimes.sandbox import frames
from keepstate.runtimes.sandbox.guest.output import CutText
from keepstate.runtimes.sandbox.stopwatch import Stopwatch
from keepstate.traces.record import Limits, ToolCall
from keepstate.vocabulary import Origin

REFUSED_CALLS = 200
"""Calls beyond the cap, in one block, after which the process is killed."""
MAX_ERROR_CHARS = 40_000
MAX_NAMES = 1_000
AT_ONCE_SECONDS = 0.02
"""A tool that takes no longer uses the block's own time: a block that calls without end has to end."""
MAX_ANSWER_CHARS = 1 << 22
"""Of text that a tool returns."""
KEYS = {"call": 6, "output": 3, "done": 6}
"""Most keys of a frame of each kind: whoever sends more only wants to keep us busy."""
MAX_CALL = 1 << 53
"""Bound of the number of a tool call: the next one of the interpreter's life."""


class WorkerLost(Exception):
    """The interpreter is gone, by its own code's doing.

    Args:
        kind: `TimeLimit`, `ToolCallLimit` or `InterpreterExit`.
        reason: For the agent.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.output = ""
        """What the block had printed."""


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block said of itself."""

    output: str
    error: str | None
    error_type: str | None
    globals: tuple[str, ...]


class Block:
    """A block that runs.

    Args:
        number: Which of its worker's; every frame of the block must bear it.
        gate: Where its tool calls go.
        limits: What it may use.
        pid: The worker's process.
    """

    def __init__(self, number: int, gate: ToolGate, limits: Limits, pid: int) -> None:
        self.number = number
        self.gate = gate
        self.limits = limits
        self.stopwatch = Stopwatch(pid)
        self.was_told = False
        """That its time is over."""
        self.result: asyncio.Future[BlockResult] = asyncio.get_running_loop().create_future()
        self._output = CutText(limits.output_chars)
        self._refused = 0
        self._last_call = 0
        self._waited = 0.0
        self._asked_at: float | None = None

    def request(self, code: str, *, with_tools: bool, variables_only: bool) -> bytes:
        """The frame that starts it."""
        message: dict[str, Any] = {
            "step": self.number,
            "code": code,
            "output_chars": self.limits.output_chars,
            "time_message": self.time_message,
            "variables_only": variables_only,
        }
        if with_tools:
            message["tools"] = [
                {
                    "name": tool.name,
                    "parameters": [p.name for p in tool.parameters],
                    "defaults": {p.name: p.default for p in tool.parameters if p.optional},
                    "doc": tool.description,
                }
                for tool in self.gate.environment.tools
            ]
        return frames.encode(message)

    @property
    def time_message(self) -> str:
        """What the agent is told when the time is over."""
        return f"the block ran longer than {self.limits.action_seconds:g} s and was stopped"

    @property
    def waited(self) -> float:
        """Seconds in which it waited for a tool that does not return at once: not the agent's time."""
        if self._asked_at is None:
            return self._waited
        return self._waited + max(0.0, time.monotonic() - self._asked_at - AT_ONCE_SECONDS)

    def ask(self, message: dict[str, Any], length: int) -> bytes | asyncio.Future[ToolCall]:
        """Run the tool that the worker asks for; the frame with the answer, or what `answer` makes it of later.

        Args:
            message: The worker's.
            length: Of its frame.

        Raises:
            FrameError: The question is none.
            WorkerLost: It goes on asking after the cap.
            EpisodeFailure: The task failed.
        """
        tool, arguments, number = message.get("tool"), message.get("arguments"), message.get("call")
        if not isinstance(tool, str) or not isinstance(arguments, dict):
            raise frames.FrameError("not a tool call")
        if type(number) is not int or not self._last_call < number < MAX_CALL:
            raise frames.FrameError("not the number of the next tool call")
        self._last_call = number
        self.note(message)
        try:
            called = self.gate.call(tool, arguments, length)
        except ToolCallLimit as limit:
            self._refused += 1
            if self._refused > REFUSED_CALLS:
                raise WorkerLost(ToolCallLimit.__name__, f"{limit}, and the block went on calling") from None
            return frames.encode({"call": number, "limit": str(limit)})
        if isinstance(called, asyncio.Future):
            self._asked_at = time.monotonic()
            return called
        return self.answer(called)

    def answer(self, call: ToolCall) -> bytes:
        """The frame that answers the last call; where that ended the episode none: the block has its result.

        Raises:
            EpisodeFailure: The task failed.
        """
        if self._asked_at is not None:
            self._waited, self._asked_at = self.waited, None
        if self.gate.environment.finished:
            self.result.set_result(BlockResult(self._output.render(), None, None, ()))
            return b""
        if isinstance(call.output, str) and len(call.output) > MAX_ANSWER_CHARS:
            told = f"tool {call.tool} returned {len(call.output)} characters, {MAX_ANSWER_CHARS} are allowed"
            raise EpisodeFailure(Origin.TASK, told)
        if call.error is None:
            return frames.encode({"call": self._last_call, "value": call.output})
        return frames.encode({"call": self._last_call, "error": call.error})

    def note(self, message: dict[str, Any]) -> None:
        """Keep output that is sent before the end.

        Raises:
            FrameError: It is none.
        """
        match message.get("output"):
            case [str() as head, int() as dropped, str() as tail] if 0 <= dropped < 1 << 62:
                self._output.put(head, dropped, tail)
            case _:
                raise frames.FrameError("not an output")

    def end(self, message: dict[str, Any]) -> None:
        """Take the result from the worker's last frame.

        Raises:
            FrameError: It is none.
        """
        error, kind, names = message.get("error"), message.get("error_type"), message.get("globals")
        if not (error is None or isinstance(error, str)) or not (kind is None or isinstance(kind, str)):
            raise frames.FrameError("not an error")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise frames.FrameError("not a list of names")
        self.note(message)
        error = None if error is None else error[:MAX_ERROR_CHARS]
        kind = None if error is None else (kind or "Error")[:100]
        self.result.set_result(BlockResult(self._output.render(), error, kind, tuple(sorted(names[:MAX_NAMES]))))

    def fail(self, cause: WorkerLost | EpisodeFailure) -> None:
        """End it without a result."""
        if not self.result.done():
            if isinstance(cause, WorkerLost):
                cause.output = self._output.render()
            self.result.set_exception(cause)
