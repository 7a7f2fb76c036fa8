"""The host's side of the zygote: starts it, asks it for workers, ends it with everything below it.

One zygote serves one rung. It is started by exec with an environment of its own (`ENVIRONMENT`), never forked from the
host, so that no task, answer or key of the host's memory can be in it. Does not choose the rung and keeps no spares.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.sandbox import guest
from keepstate.runtimes.sandbox.block import WorkerLost
from keepstate.runtimes.sandbox.guest.wire import ANSWER, REQUEST
from keepstate.runtimes.sandbox.worker import Turns, Worker
from keepstate.vocabulary import Origin, Rung

START_SECONDS = 20.0
"""Starting takes 0.1 s on an idle machine."""
SPAWN_SECONDS = 30.0
"""A worker takes 4 ms on an idle machine."""
SILENCE_SECONDS = 10.0
"""After so long without any answer to a request a zygote is taken for stopped, and replaced."""
LAST_WORDS_SECONDS = 0.1
"""How long to wait for the exit status of a zygote whose connection has ended: milliseconds."""
REQUESTS_AT_ONCE = 32
"""So few that they always fit into the buffer of the connection (about 270), and sending never waits."""
ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}
"""The hash seed, so that sets have one order in all runs; the zygote takes it out before it serves."""


class RungUnavailable(Exception):
    """This machine does not offer the rung; the text says why."""


class ZygoteEnded(EpisodeFailure):
    """It ended, or had to be ended, before it gave what it was asked for; another one may."""

    def __init__(self, reason: str) -> None:
        super().__init__(Origin.SANDBOX, f"no interpreter: {reason}")


class Zygote:
    """A running zygote. Made by `start`, ended by `close`."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._asked: dict[int, asyncio.Future[Worker]] = {}
        self._count = 0
        self._frame_turns = Turns()
        self._turns = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._started: asyncio.Future[str | None] = self._loop.create_future()
        self._heard_at = 0.0
        self.alive = True
        self._loop.add_reader(control, self._receive)

    @classmethod
    async def start(cls, rung: Rung) -> Zygote:
        """Start a zygote that offers `rung`.

        Raises:
            RungUnavailable: This machine does not permit it.
        """
        if sys.platform != "linux":
            raise RungUnavailable(f"model-written code runs on Linux only, this is {sys.platform}")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        interpreter = getattr(sys, "_base_executable", None) or sys.executable
        folder = str(Path(guest.__file__).parent)
        command = [interpreter, "-s", "-P", "-S", "-B", "-c", guest.BOOT, folder, str(os.getpid()), str(rung)]
        with theirs:
            process = subprocess.Popen(  # noqa: ASYNC220  (returns within a millisecond)
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,  # out of the terminal's Ctrl-C
            )
        zygote = cls(process, ours)
        try:
            async with asyncio.timeout(START_SECONDS):
                failed = await zygote._started
        except TimeoutError:
            failed = f"it did not start within {START_SECONDS:g} s"
        except BaseException:
            await zygote.close()
            raise
        if failed is not None:
            await zygote.close()
            raise RungUnavailable(failed)
        return zygote

    async def spawn(self, memory_mib: int) -> Worker:
        """A confined worker, ready to run.

        Raises:
            EpisodeFailure: There is none to be had (origin sandbox).
        """
        async with self._turns:
            return await self._spawn(memory_mib)

    async def _spawn(self, memory_mib: int) -> Worker:
        self._count += 1
        number, worker = self._count, None
        asked: asyncio.Future[Worker] = self._loop.create_future()
        self._asked[number] = asked
        try:
            async with asyncio.timeout(SPAWN_SECONDS):
                self._control.send(REQUEST.pack(number, memory_mib))
                silence = self._loop.call_later(SILENCE_SECONDS, self._expect, asked, self._loop.time())
                try:
                    worker = await asked
                finally:
                    silence.cancel()
                await worker.ready
        except BaseException as error:
            if worker is None and asked.done() and not asked.cancelled() and asked.exception() is None:
                worker = asked.result()  # it came at the moment at which we were cancelled
            if worker is not None:
                worker.close()
            if not self.alive and not isinstance(error, asyncio.CancelledError):
                raise ZygoteEnded(str(error)) from error
            if isinstance(error, TimeoutError):
                raise EpisodeFailure(Origin.SANDBOX, f"no interpreter within {SPAWN_SECONDS:g} s") from None
            if isinstance(error, OSError | WorkerLost):
                raise EpisodeFailure(Origin.SANDBOX, f"no interpreter: {error}") from error
            raise
        finally:
            self._asked.pop(number, None)
        return worker

    def _expect(self, asked: asyncio.Future[Worker], asked_at: float) -> None:
        """Wait no longer for a zygote that owes an answer and says nothing at all: it was stopped, or hangs."""
        if asked.done() or not self.alive:
            return
        if self._loop.time() - max(asked_at, self._heard_at) >= SILENCE_SECONDS:
            self._process.kill()  # and with it all its workers
            self._lose(f"the zygote said nothing for {SILENCE_SECONDS:g} s")
        else:
            self._loop.call_later(SILENCE_SECONDS, self._expect, asked, asked_at)

    async def close(self) -> None:
        """End the zygote and every worker, and wait until they are gone. Safe to call twice."""
        self._lose("it was closed")
        try:
            for _ in range(1000):
                if self._process.poll() is not None:
                    return
                await asyncio.sleep(0.002)
        finally:
            self._process.kill()
            self._process.wait()
            if self._process.stderr is not None:
                self._process.stderr.close()

    def _receive(self) -> None:
        """Take one answer from the zygote, which is trusted."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 2, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(f"the connection to the zygote broke: {error}")
            return
        if not data:
            self._lose(self._last_words())
            return
        self._heard_at = self._loop.time()
        if not self._started.done():
            self._started.set_result(json.loads(data).get("failed"))
            return
        asked, failed = self._asked.get(ANSWER.unpack_from(data)[0]), data[ANSWER.size :].decode()
        if asked is None or asked.done():
            for descriptor in descriptors:
                os.close(descriptor)
        elif failed:
            asked.set_exception(OSError(failed))
        elif len(descriptors) != 2:  # the kernel drops those for which there is no room
            for descriptor in descriptors:
                os.close(descriptor)
            asked.set_exception(OSError(f"out of file descriptors: {_descriptors()}"))
        else:
            connect = self._loop.create_task(self._connect(*descriptors))
            connect.add_done_callback(lambda done: _hand_over(done, asked))

    async def _connect(self, connection: int, process: int) -> Worker:
        sock = socket.socket(fileno=connection)
        try:
            worker = Worker(process, lambda: self.alive and self._process.poll() is None, self._frame_turns)
        except OSError:  # no descriptor left to look with
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
            sock.close()
            raise
        try:
            sock.setblocking(False)
            await self._loop.create_unix_connection(lambda: worker, sock=sock)
        except BaseException:
            worker.close()
            sock.close()
            raise
        return worker

    def _lose(self, reason: str) -> None:
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._control)
        self._control.close()
        if not self._started.done():
            self._started.set_result(reason)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(OSError(reason))

    def _last_words(self) -> str:
        """Why the zygote ended, from its error output."""
        words = b""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_WORDS_SECONDS)
        if self._process.stderr is not None:
            os.set_blocking(self._process.stderr.fileno(), False)  # a process that it left may hold the other end
            words = self._process.stderr.read() or b""
        lines = words.decode(errors="replace").strip().splitlines()
        return f"the zygote ended ({lines[-1] if lines else f'status {self._process.poll()}'})"


def _descriptors() -> str:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"{limit} may be open, each interpreter takes two (ulimit -n raises this)"


def _hand_over(done: asyncio.Task[Worker], asked: asyncio.Future[Worker]) -> None:
    """Give a connected worker to who asked; end it where nobody waits any more."""
    error = None if done.cancelled() else done.exception()
    if asked.done():
        if error is None and not done.cancelled():
            done.result().close()
    elif error is not None or done.cancelled():
        asked.set_exception(OSError(f"no connection: {error}"))
    else:
        asked.set_result(done.result())
