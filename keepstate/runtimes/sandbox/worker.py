"""One worker as the host sees it: a connection to hostile code, a process to kill, at most one block that runs.

The host decides everything: it counts the time, gives every worker its turn, and ends the process when a frame is not
what it has to be. What a block's frames mean is in `block.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.base import RuntimeLimits, ToolGate
from keepstate.runtimes.sandbox import frames
from keepstate.runtimes.sandbox.block import Block, BlockResult, WorkerLost
from keepstate.runtimes.sandbox.guest.wire import MAX_FRAME
from keepstate.vocabulary import Origin

SOFT_LIMIT_SIGNAL = signal.SIGUSR1
GRACE_SECONDS = 0.3
"""How long a block may go on after it was told that its time is over, before the process is killed."""
FIRST_LOOK_SECONDS = 0.05
"""When the clock of a block is first read; most blocks have ended by then, and looking takes 30 us."""
BLAME_SECONDS = 0.05
"""How long after the end of a worker the end of its zygote may become known."""
CONFIRM_SECONDS = 0.003
"""How long a process is watched before it counts as over its time, lest it was only waiting for a processor."""
FRAMES_PER_TURN = 16
"""Frames of one worker handled before others get their turn: tool calls take 10-20 us each."""
BYTES_A_CHARACTER = 12
"""At most, in ASCII JSON: two escapes of a surrogate pair."""


class Worker(asyncio.Protocol):
    """A confined process. Made by `Zygote.spawn`.

    Args:
        process: Descriptor of the process.
        zygote_alive: Whether the process that all workers depend on still runs.
    """

    def __init__(self, process: int, zygote_alive: Callable[[], bool]) -> None:
        self._process = process
        self.pid = _pid_of(process)
        self._zygote_alive = zygote_alive
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._block: Block | None = None
        self._blocks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._turn_comes = self._is_deaf = False
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.lost: WorkerLost | EpisodeFailure | None = None
        """Why there is no interpreter any more."""
        self._on_end: Callable[[Worker], object] | None = None

    def on_end(self, action: Callable[[Worker], object]) -> None:
        """Call `action` with this worker when it ends."""
        self._on_end = action

    async def run(self, code: str, gate: ToolGate, limits: RuntimeLimits) -> BlockResult:
        """Run one block.

        Raises:
            WorkerLost: The process ended, or had to be ended, by its code's doing.
            EpisodeFailure: It ended by our doing, or the task failed in a tool call.
        """
        if self.lost is None and not self.is_connected:
            await asyncio.sleep(BLAME_SECONDS)  # it has ended; so has the zygote, if we hear of that by then
            self._ended()
        if isinstance(self.lost, WorkerLost):
            raise WorkerLost(self.lost.kind, f"{self.lost.reason}, after the last block; this one was not executed")
        if self.lost is not None or self._transport is None:
            raise self.lost or EpisodeFailure(Origin.SANDBOX, "the interpreter is not connected")
        self._blocks += 1
        self._reader.limit = MAX_FRAME + BYTES_A_CHARACTER * limits.output_chars
        block = self._block = Block(self._blocks, gate, limits, self.pid)
        self._transport.write(block.request(code, with_tools=self._blocks == 1))
        self._set_timer(min(FIRST_LOOK_SECONDS, limits.seconds), self._check_time)
        try:
            return await block.result
        except asyncio.CancelledError:
            self.kill(WorkerLost("InterpreterExit", "the block was cancelled"))
            raise
        finally:
            self._block = None
            if self._timer is not None:
                self._timer.cancel()

    @property
    def is_running(self) -> bool:
        """Whether a block runs in it."""
        return self._block is not None

    @property
    def is_connected(self) -> bool:
        """Whether it can run a block, as far as is known."""
        return self.lost is None and self._transport is not None and not self._transport.is_closing()

    def kill(self, cause: WorkerLost | EpisodeFailure) -> None:
        """End the process. Safe to call twice; the first cause counts."""
        if self.lost is not None:
            return
        self.lost = cause
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)
        os.close(self._process)
        if self._transport is not None:
            self._transport.abort()
        if not self.ready.done():
            self.ready.set_exception(cause)
            self.ready.exception()  # whoever waits is told; nobody else need be
        if self._block is not None:
            self._block.fail(cause)
        if self._on_end is not None:
            self._on_end(self)

    def close(self) -> None:
        """End the process because nobody needs it any more. Safe to call twice."""
        self.kill(WorkerLost("InterpreterExit", "the interpreter was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop. Whether the zygote's end is the reason can be told a little later."""
        self._loop.call_later(BLAME_SECONDS, self._ended)

    def _ended(self) -> None:
        if self._zygote_alive():
            self.kill(WorkerLost("InterpreterExit", "the interpreter exited"))
        else:
            self.kill(EpisodeFailure(Origin.SANDBOX, "the zygote ended, and all interpreters with it"))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._reader.feed(data)
        if not self._turn_comes:
            self._handle_frames()

    def pause_writing(self) -> None:
        """Called by the event loop: answers pile up. Until they are read, no question is."""
        self._is_deaf = True

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self._is_deaf = False
        self._take_turn()

    def _take_turn(self) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            self._loop.call_soon(self._handle_frames)

    def _handle_frames(self) -> None:
        """Handle what has arrived, a few frames a turn."""
        self._turn_comes = False
        try:
            for _ in range(FRAMES_PER_TURN):
                if self.lost is not None:
                    return
                if self._is_deaf:
                    self._pause()
                    return
                message = self._reader.next()
                if message is None:
                    self._resume()
                    return
                self._handle(message)
        except frames.FrameError as error:
            self.kill(WorkerLost("InterpreterExit", f"protocol: {error}"))
        except (WorkerLost, EpisodeFailure) as cause:
            self.kill(cause)
        except Exception as error:  # a defect of ours must not look like one of the agent
            self.kill(EpisodeFailure(Origin.RUNTIME, f"{type(error).__name__}: {error}"))
            raise
        else:
            self._pause()
            self._take_turn()

    def _pause(self) -> None:
        if self._transport is not None and self.is_connected and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self.is_connected and not self._transport.is_reading():
            self._transport.resume_reading()

    def _handle(self, message: dict[str, Any]) -> None:
        kind, block = message.get("kind"), self._block
        if not self.ready.done():
            if kind != "ready":
                raise EpisodeFailure(Origin.SANDBOX, f"it could not be confined: {message.get('reason')}")
            self.ready.set_result(None)
        elif block is None or block.result.done():
            raise frames.FrameError("a frame between two blocks")
        elif message.get("step") != block.number:
            raise frames.FrameError("a frame of another block")
        elif kind == "call":
            self._answer(block, message)
        elif kind == "output":
            block.note(message)
        elif kind == "done":
            block.end(message)
        else:
            raise frames.FrameError("unknown kind")

    def _answer(self, block: Block, message: dict[str, Any]) -> None:
        answer = block.answer(message)
        if self._transport is not None and self.is_connected:  # it may have asked and ended
            self._transport.write(answer)
        if block.gate.environment.finished:
            self._set_timer(GRACE_SECONDS, self.kill, WorkerLost("InterpreterExit", "the episode is over"))

    def _check_time(self) -> None:
        """Called when the time may be over."""
        if (block := self._block) is not None:
            if (left := _time_left(block)) > 0:
                self._set_timer(max(left, CONFIRM_SECONDS), self._check_time)
            else:
                self._set_timer(CONFIRM_SECONDS, self._confirm_time, block.stopwatch.ran())

    def _confirm_time(self, ran: float) -> None:
        """If it is over indeed, tell the block, and a little later end the process."""
        if (block := self._block) is None:
            return
        if block.stopwatch.is_starving(ran):
            self._set_timer(CONFIRM_SECONDS, self._confirm_time, ran)
        elif _time_left(block) > 0:
            self._check_time()
        elif block.was_told:
            self.kill(WorkerLost("TimeLimit", block.time_message))
        else:
            block.was_told = True
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, SOFT_LIMIT_SIGNAL)
            self._set_timer(GRACE_SECONDS, self._check_time)

    def _set_timer(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action, *arguments)


def _time_left(block: Block) -> float:
    return block.limits.seconds + (GRACE_SECONDS if block.was_told else 0) - block.stopwatch.used()


def _pid_of(process: int) -> int:
    """The number of the process behind a descriptor, as this process sees it."""
    with open(f"/proc/self/fdinfo/{process}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise OSError("the kernel does not tell the process id of a pidfd")
