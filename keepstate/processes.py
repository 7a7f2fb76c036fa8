"""Long-running programs that keepstate starts (pip, Axolotl, vLLM) and that must never outlive it.

`GuardedProcess` puts a small guard (`keepstate/guard.py`) between us and the program. However we end, by return,
exception, Ctrl-C or SIGKILL, the guard notices and ends the program's whole process tree. What such programs say goes
into logs; `log_text` and `log_end` read them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from keepstate import guard
from keepstate.errors import UserError
from keepstate.files import check_room, write_error

GRACE_SECONDS = 10.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
LOG_LINES = 12
"""The end of a log, as errors show it."""
INSTANT_SECONDS = 0.2
"""For which a lock that is held is tried again: who only looks (`is_held`) holds it for microseconds."""


class GuardedProcess:
    """A running program. Use it as a context manager, or call `stop`.

    Args:
        command: Program and arguments.
        output: Where its stdout and stderr go: an open file, or None to inherit ours.
        env: Its whole environment; None inherits ours.
        cwd: Its working folder.
        grace: Seconds that it may take to end by itself after SIGTERM.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        output: IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace: float = GRACE_SECONDS,
    ) -> None:
        read, self._write = os.pipe()
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(read), str(grace), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                env=env,
                cwd=cwd,
                pass_fds=(read,),
                start_new_session=True,  # a Ctrl-C in the terminal reaches us alone; we then stop the program
            )
        except BaseException:
            os.close(self._write)
            raise
        finally:
            os.close(read)
        self._stopped = False

    @property
    def pid(self) -> int:
        """Process id of the guard; the program is its only child."""
        return self._guard.pid

    def poll(self, seconds: float = 0.0) -> int | None:
        """The program's exit code (128 + signal where one ended it), or None where it still runs after `seconds`."""
        try:
            return self._guard.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait(self) -> int:
        """Wait for the program's end and return its exit code."""
        return self._guard.wait()

    def stop(self) -> int:
        """End the program and everything it started: SIGTERM, another at every Ctrl-C, SIGKILL when its grace is over.

        Safe to call twice.
        """
        if not self._stopped:
            self._stopped = True
            os.close(self._write)
        while True:
            try:
                return self._guard.wait()
            except KeyboardInterrupt:  # an impatient second Ctrl-C must not leave the program behind
                self._guard.terminate()

    def __enter__(self) -> GuardedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def run_logged(command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program to its end; its words are appended to `log`.

    Returns:
        Its exit code, and the end of what it said.

    Raises:
        UserError: It failed, and the disk of its log is full.
    """
    with log.open("a") as output:
        start = output.tell()
        with GuardedProcess(command, output=output, env=env) as process:
            code = process.wait()
    if code:
        check_room(log)
    return code, log_end(log_text(log, start))


def log_text(log: Path, start: int = 0) -> str:
    """What was said into a log behind its first `start` bytes; nothing where there is no log yet."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def log_end(text: str) -> str:
    """The last lines of a log."""
    return "\n".join(text.strip().splitlines()[-LOG_LINES:])


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: what was started is ended, what is half written is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python tells signals to the main thread only
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """A Ctrl-C or SIGTERM inside the block is acted upon at its end; processes started in it see no Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python tells signals to the main thread only
        return
    caught: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: caught.append(number)) for number in INTERRUPTS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited; other threads of ours still take it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for first in caught[:1]:
            signal.raise_signal(first)


def is_held(lock: Path, *, unknown: bool = False) -> bool:
    """Whether a process is inside `only_one` of that file, or `alone_in` that folder, now; keeps nobody out.

    Args:
        lock: The file or folder; nothing is written.
        unknown: What is returned where it is not there, may not be read, or lies on a disk that knows no locks.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return unknown
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return unknown
    finally:
        os.close(descriptor)
    return False


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time play into `folder`; the kernel drops the lock however the holder ends.

    The folder is made, and gone again if it stays empty.

    Raises:
        UserError: Another process plays there now, or the folder cannot be made.
    """
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        with suppress(OSError):  # a disk that knows no locks
            if not _locked_soon(descriptor):
                busy = f"another keepstate plays into {folder} now"
                raise UserError(busy, "wait for its end, or choose another folder")
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


@contextmanager
def only_one(lock: Path, what: str, *, busy: UserError | None = None) -> Iterator[None]:
    """Let one process at a time into the block; the kernel drops the lock however the holder ends.

    Args:
        lock: The file to lock; made where it is missing.
        what: What the block makes, for the message to those who wait.
        busy: Raised where another process is inside, instead of waiting for it.

    Raises:
        UserError: The lock cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise write_error(lock, error) from error
    with file:
        if not _locked_soon(file.fileno()):
            if busy is not None:
                raise busy
            print(f"{what} is being made by another keepstate: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked_soon(descriptor: int) -> bool:
    """Whether we hold the lock now; one that is held for an instant, by `is_held` elsewhere, is waited for."""
    ends = time.monotonic() + INSTANT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > ends:
                return False
            time.sleep(INSTANT_SECONDS / 20)
