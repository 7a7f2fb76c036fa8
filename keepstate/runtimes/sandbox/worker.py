"""One worker as the host sees it: a connection to hostile code, a process to kill, at most one block that runs.

The host decides everything: it runs the tools, counts the time, cuts the output and ends the process when a frame is
not what it has to be. Nothing that a worker sends is believed but as the text of what its own block said.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.base import RuntimeLimits, ToolCallLimit, ToolGate
from keepstate.runtimes.sandbox import frames
from keepstate.runtimes.sandbox.guest.output import CutText
from keepstate.runtimes.sandbox.guest.wire import MAX_FRAME
from keepstate.runtimes.sandbox.stopwatch import Stopwatch

SOFT_LIMIT_SIGNAL = signal.SIGUSR1
GRACE_SECONDS = 0.3
"""How long a block may go on after it was told that its time is over, before the process is killed."""
FRAMES_PER_TURN = 32
"""Frames of one worker handled before others get their turn: tool calls take 10-20 us each."""
REFUSED_CALLS = 200
"""Calls beyond the cap, in one block, after which the process is killed."""
MAX_ERROR_CHARS = 40_000
MAX_NAMES = 1_000
BYTES_A_CHARACTER = 12
"""At most, in ASCII JSON: two escapes of a surrogate pair."""


class WorkerLost(Exception):
    """The interpreter is gone, by its own code's doing.

    Args:
        kind: `TimeLimit`, `ToolCallLimit` or `InterpreterExit`.
        reason: For the agent.
        output: What the block had printed.
    """

    def __init__(self, kind: str, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.output = output


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block said of itself."""

    output: str
    error: str | None
    error_type: str | None
    globals: tuple[str, ...]


class _Block:
    """The block that runs."""

    def __init__(self, number: int, gate: ToolGate, limits: RuntimeLimits, pid: int) -> None:
        self.number = number
        self.gate = gate
        self.limits = limits
        self.output = CutText(limits.output_chars)
        self.stopwatch = Stopwatch(pid)
        self.told = False
        self.refused = 0
        self.result: asyncio.Future[BlockResult] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None


class Worker(asyncio.Protocol):
    """A confined process. Made by `Zygote.spawn`.

    Args:
        process: Descriptor of the process.
    """

    def __init__(self, process: int) -> None:
        self._process = process
        self.pid = _pid_of(process)
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._block: _Block | None = None
        self._blocks = 0
        self._told_tools = False
        self._throttled = False
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.lost: str | None = None
        """Why there is no interpreter any more."""

    async def run(self, code: str, gate: ToolGate, limits: RuntimeLimits) -> BlockResult:
        """Run one block.

        Raises:
            WorkerLost: The process ended, or had to be ended.
            EpisodeFailure: The task failed in a tool call.
        """
        if self.lost is not None or self._transport is None:
            raise WorkerLost("InterpreterExit", self.lost or "it was closed")
        self._blocks += 1
        self._reader.limit = MAX_FRAME + BYTES_A_CHARACTER * limits.output_chars
        block = self._block = _Block(self._blocks, gate, limits, self.pid)
        request: dict[str, Any] = {
            "step": block.number,
            "code": code,
            "output_chars": limits.output_chars,
            "time_message": f"the block ran longer than {limits.seconds:g} s and was stopped",
        }
        if not self._told_tools:
            self._told_tools = True
            request["tools"] = [
                {"name": tool.name, "parameters": [p.name for p in tool.parameters], "doc": tool.description}
                for tool in gate.environment.tools
            ]
        self._transport.write(frames.encode(request))
        self._set_timer(limits.seconds, self._check_time)
        try:
            return await block.result
        except asyncio.CancelledError:
            self.kill("it was cancelled")
            raise
        finally:
            if block.timer is not None:
                block.timer.cancel()
            self._block = None

    def kill(self, reason: str, kind: str = "InterpreterExit") -> None:
        """End the process. Safe to call twice; the first reason counts."""
        if self.lost is not None:
            return
        self.lost = reason
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        os.close(self._process)
        if self._transport is not None:
            self._transport.abort()
        if not self.ready.done():
            self.ready.set_exception(WorkerLost(kind, reason))
            self.ready.exception()  # whoever waits is told; nobody else need be
        block = self._block
        if block is not None and not block.result.done():
            block.result.set_exception(WorkerLost(kind, reason, block.output.render()))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.kill("the interpreter exited")

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._reader.feed(data)
        if not self._throttled:
            self._handle_frames()

    def _handle_frames(self) -> None:
        self._throttled = False
        try:
            for _ in range(FRAMES_PER_TURN):
                if self.lost is not None:
                    return
                message = self._reader.next()
                if message is None:
                    self._resume()
                    return
                self._handle(message)
        except frames.FrameError as error:
            self.kill(f"protocol: {error}")
            return
        self._throttled = True
        if self._transport is not None:
            self._transport.pause_reading()
        self._loop.call_soon(self._handle_frames)

    def _resume(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def _handle(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if not self.ready.done():
            if kind == "ready":
                self.ready.set_result(None)
            else:
                self.kill(f"it could not be confined: {message.get('reason')}")
            return
        block = self._block
        if block is None or block.result.done():
            self.kill("protocol: a frame between two blocks")
        elif message.get("step") != block.number:
            self.kill("protocol: a frame of another block")
        elif kind == "call":
            self._run_tool(block, message)
        elif kind == "done":
            _add_output(block.output, message)
            block.result.set_result(_block_result(block.output.render(), message))
        else:
            raise frames.FrameError("unknown kind")

    def _run_tool(self, block: _Block, message: dict[str, Any]) -> None:
        tool, arguments = message.get("tool"), message.get("arguments")
        if not isinstance(tool, str) or not isinstance(arguments, dict):
            raise frames.FrameError("not a tool call")
        _add_output(block.output, message)
        try:
            call = block.gate.call(tool, arguments)
        except ToolCallLimit as limit:
            block.refused += 1
            if block.refused > REFUSED_CALLS:
                self.kill(f"the block went on calling tools after the cap: {limit}", "ToolCallLimit")
                return
            answer: dict[str, Any] = {"limit": str(limit)}
        except EpisodeFailure as failure:
            block.result.set_exception(failure)
            self.kill("the task failed")
            return
        else:
            answer = {"value": call.output} if call.error is None else {"error": call.error}
            if block.gate.environment.finished:
                answer = {}
                self._set_timer(GRACE_SECONDS, self.kill, "the episode is over")
        assert self._transport is not None
        self._transport.write(frames.encode(answer))

    def _check_time(self) -> None:
        """Tell the block that its time is over, and a little later end the process."""
        block = self._block
        if block is None or block.result.done():
            return
        limit = block.limits.seconds + (GRACE_SECONDS if block.told else 0)
        left = limit - block.stopwatch.used()
        if left <= 0 and block.told:
            self.kill(f"the block ran longer than {block.limits.seconds:g} s", "TimeLimit")
            return
        if left <= 0:
            block.told = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, SOFT_LIMIT_SIGNAL)
            left = GRACE_SECONDS
        self._set_timer(max(left, 0.002), self._check_time)

    def _set_timer(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        assert self._block is not None
        if self._block.timer is not None:
            self._block.timer.cancel()
        self._block.timer = self._loop.call_later(seconds, action, *arguments)


def _pid_of(process: int) -> int:
    """The number of the process behind a descriptor, as this process sees it."""
    with open(f"/proc/self/fdinfo/{process}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise OSError("the kernel does not tell the process id of a pidfd")


def _add_output(output: CutText, message: dict[str, Any]) -> None:
    match message.get("output"):
        case [str() as head, int() as dropped, str() as tail] if 0 <= dropped < 1 << 62:
            output.put(head, dropped, tail)
        case _:
            raise frames.FrameError("not an output")


def _block_result(output: str, message: dict[str, Any]) -> BlockResult:
    error, kind, names = message.get("error"), message.get("error_type"), message.get("globals")
    if not (error is None or isinstance(error, str)) or not (kind is None or isinstance(kind, str)):
        raise frames.FrameError("not an error")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise frames.FrameError("not a list of names")
    error = None if error is None else error[:MAX_ERROR_CHARS]
    kind = None if error is None else (kind or "Error")[:100]
    return BlockResult(output, error, kind, tuple(sorted(names[:MAX_NAMES])))
