"""One worker as the host sees it: a connection to hostile code, a process to kill, at most one block that runs.

The host decides everything: it counts the time, gives every worker its turn, and ends the process when a frame is not
what it has to be. What a block's frames mean is in `block.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.base import ToolGate
from keepstate.runtimes.sandbox import frames
from keepstate.runtimes.sandbox.block import KEYS, Block, BlockResult, WorkerLost
from keepstate.runtimes.sandbox.guest.wire import MAX_FRAME
from keepstate.runtimes.sandbox.stopwatch import Stopwatch, read_proc
from keepstate.traces.record import Limits, ToolCall
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
FRAMES_PER_TURN, BYTES_PER_TURN = 16, 1 << 14
"""Frames of one worker handled before others get their turn: tool calls take 10-20 us each, 16 KiB up to 1 ms."""
REST_AFTER_SECONDS, REST_SECONDS = 0.05, 0.02
"""When after a block its process is stopped until the next, and how long one that does not wait by then may run on."""
BYTES_A_CHARACTER = 12
"""At most, in ASCII JSON: two escapes of a surrogate pair."""


class Turns:
    """Who has more to say than fits into a turn queues here: one worker is served in each round of the event loop.

    Reading a large frame takes up to 10 ms; eight hostile workers that send nothing else delay the others no longer.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._loop = asyncio.get_running_loop()

    def ask(self, action: Callable[[], None]) -> None:
        """Run `action` when its turn has come."""
        self._waiting.append(action)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._loop.call_soon(self._next)


class Worker(asyncio.Protocol):
    """A confined process. Made by `Zygote.spawn`.

    Args:
        process: Descriptor of the process.
        zygote_alive: Whether the process that all workers depend on still runs.
        turns: Shared with other workers.
    """

    def __init__(self, process: int, zygote_alive: Callable[[], bool], turns: Turns | None = None) -> None:
        self._process = process
        self.pid = _pid_of(process)
        self._zygote_alive = zygote_alive
        self._reader = frames.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._block: Block | None = None
        self._blocks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._due = 0.0
        self._when_due: Callable[[], None] = self.close
        self._turn_comes = self._is_deaf = self._rests = False
        self._turns = turns or Turns()
        self._tool: asyncio.Future[ToolCall] | None = None
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.lost: WorkerLost | EpisodeFailure | None = None
        """Why there is no interpreter any more."""
        self._on_end: Callable[[Worker], object] | None = None

    def on_end(self, action: Callable[[Worker], object]) -> None:
        """Call `action` with this worker when it ends."""
        self._on_end = action

    async def run(self, code: str, gate: ToolGate, limits: Limits, *, variables_only: bool = False) -> BlockResult:
        """Run one block.

        Args:
            code: Python.
            gate: Where its tool calls go.
            limits: What it may use.
            variables_only: Take away names of modules and of what can be called when it is over.

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
        if self._rests:
            self._rests = False
            self._signal(signal.SIGCONT)
        self._blocks += 1
        self._reader.limit = MAX_FRAME + BYTES_A_CHARACTER * limits.output_chars
        self._reader.marks = frames.MAX_MARKS + limits.output_chars
        block = self._block = Block(self._blocks, gate, limits, self.pid)
        self._transport.write(block.request(code, with_tools=self._blocks == 1, variables_only=variables_only))
        self._set_timer(min(FIRST_LOOK_SECONDS, limits.action_seconds), self._check_time)
        try:
            return await block.result
        except asyncio.CancelledError:
            self.kill(WorkerLost("InterpreterExit", "the block was cancelled"))
            raise
        finally:
            self._block = None
            if self.lost is None:
                self._set_timer(REST_AFTER_SECONDS, self._rest)

    def _rest(self, ran: float | None = None) -> None:
        """See to it that nothing runs between two blocks, whatever the worker said of the end of the last one."""
        now = Stopwatch(self.pid).ran()
        if self._state() != b"R":
            self._rests = True
            self._signal(signal.SIGSTOP)
        elif ran is not None and now - ran > REST_SECONDS:
            self.kill(WorkerLost("InterpreterExit", "it went on running when the block was over"))
        else:  # it goes on, or has had no processor since
            self._set_timer(REST_AFTER_SECONDS, self._rest, now if ran is None else ran)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    @property
    def is_running(self) -> bool:
        """Whether a block runs in it."""
        return self._block is not None

    @property
    def is_connected(self) -> bool:
        """Whether it can run a block, as far as is known."""
        return self.lost is None and self._transport is not None and not self._transport.is_closing()

    def is_stopped(self) -> bool:
        """Whether somebody stopped the process; to be asked of one that has run no block yet."""
        return self._state() == b"T"

    def _state(self) -> bytes:
        """One letter, as in `ps`; none where it has ended."""
        with suppress(OSError):
            return read_proc(f"/proc/{self.pid}/stat").rpartition(b") ")[2][:1]
        return b""

    def kill(self, cause: WorkerLost | EpisodeFailure) -> None:
        """End the process. Safe to call twice; the first cause counts."""
        if self.lost is not None:
            return
        self.lost = cause
        if self._timer is not None:
            self._timer.cancel()
        self._signal(signal.SIGKILL)
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
            self._handle_frames(any_size=False)

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
            self._turns.ask(self._turn)

    def _turn(self) -> None:
        self._turn_comes = False
        self._handle_frames(any_size=True)

    def _handle_frames(self, *, any_size: bool) -> None:
        """Handle what has arrived, a few frames a turn."""
        try:
            has_more = self._handle_some(any_size)
        except frames.FrameError as error:
            self.kill(WorkerLost("InterpreterExit", f"protocol: {error}"))
        except (WorkerLost, EpisodeFailure) as cause:
            self.kill(cause)
        except Exception as error:  # a defect of ours must not look like one of the agent
            self.kill(EpisodeFailure(Origin.RUNTIME, f"{type(error).__name__}: {error}"))
            raise
        else:
            if has_more:
                self._pause()
                self._take_turn()

    def _handle_some(self, any_size: bool) -> bool:
        """Whether there is more to be handled. The first frame may have any size where `any_size`."""
        left = BYTES_PER_TURN
        for number in range(FRAMES_PER_TURN):
            if self.lost is not None:
                return False
            if self._is_deaf or self._tool is not None:
                self._pause()
                return False
            size = self._reader.size
            if size is None:
                self._resume()
                return False
            left -= size
            if left < 0 and not (any_size and number == 0):
                return True
            self._handle(self._reader.take(size), size)
        return True

    def _pause(self) -> None:
        if self._transport is not None and self.is_connected and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self.is_connected and not self._transport.is_reading():
            self._transport.resume_reading()

    def _handle(self, message: dict[str, Any], size: int) -> None:
        kind, block = message.get("kind"), self._block
        if not self.ready.done():
            if kind != "ready":
                raise EpisodeFailure(Origin.SANDBOX, f"it could not be confined: {message.get('reason')}")
            self.ready.set_result(None)
        elif block is None or block.result.done():
            raise frames.FrameError("a frame between two blocks")
        elif message.get("step") != block.number:
            raise frames.FrameError("a frame of another block")
        elif not isinstance(kind, str) or len(message) > KEYS.get(kind, 0):
            raise frames.FrameError("unknown kind, or more than belongs to it")
        elif kind == "call":
            self._ask(block, message, size)
        elif kind == "output":
            block.note(message)
        else:
            block.end(message)

    def _ask(self, block: Block, message: dict[str, Any], size: int) -> None:
        answer = block.ask(message, size)
        if isinstance(answer, bytes):
            self._answer(block, answer)
        else:
            self._tool = answer
            answer.add_done_callback(lambda _: self._tool_returned(block))

    def _tool_returned(self, block: Block) -> None:
        tool, self._tool = self._tool, None
        if tool is None or tool.cancelled() or self._block is not block or self.lost is not None:
            return
        try:
            self._answer(block, block.answer(tool.result()))
        except EpisodeFailure as cause:
            self.kill(cause)
        else:
            self._take_turn()

    def _answer(self, block: Block, answer: bytes) -> None:
        if block.result.done():  # what it would still do would be on record or not, as the machine is busy or not
            self.kill(WorkerLost("InterpreterExit", "the episode is over"))
        elif self._transport is not None and self.is_connected:  # it may have asked and ended
            self._transport.write(answer)

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
            self._signal(SOFT_LIMIT_SIGNAL)
            self._set_timer(GRACE_SECONDS, self._check_time)

    def _set_timer(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action` then, instead of what was set before.

        A timer that comes too early is left to run and set anew when it rings: most are replaced within a millisecond.
        """
        self._due = self._loop.time() + seconds
        self._when_due = partial(action, *arguments) if arguments else action
        if self._timer is None or self._due < self._timer_at:
            self._wind_timer()

    def _wind_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._due
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._due > self._timer_at:
            self._wind_timer()
        else:
            self._when_due()


def _time_left(block: Block) -> float:
    granted = block.limits.action_seconds + block.waited + (GRACE_SECONDS if block.was_told else 0)
    return granted - block.stopwatch.used()


def _pid_of(process: int) -> int:
    """The number of the process behind a descriptor, as this process sees it."""
    told = read_proc(f"/proc/self/fdinfo/{process}").partition(b"\nPid:")[2].split(maxsplit=1)
    if told:
        return int(told[0])
    raise OSError("the kernel does not tell the process id of a pidfd")
