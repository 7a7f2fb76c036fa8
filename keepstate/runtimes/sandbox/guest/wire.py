"""Frames between host and worker: four bytes of length (big-endian), then one JSON object in ASCII.

This is the worker's side. It uses the C parts of `json` and `socket`, taken before any model code runs: patching these
modules cannot break it. The host's side, which must survive hostile frames, is `../frames.py`.
"""

from __future__ import annotations

import builtins
import json
from _signal import (  # type: ignore[import-not-found]
    SIG_BLOCK,
    SIG_SETMASK,
    SIG_UNBLOCK,
    SIGALRM,
    SIGPROF,
    SIGUSR1,
    SIGVTALRM,
    pthread_sigmask,
)
from _socket import AF_UNIX, MSG_WAITALL, SOCK_STREAM, socket
from collections.abc import Callable
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from struct import Struct
from sys import getprofile, gettrace, setprofile, settrace
from typing import Any

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`

MAX_FRAME = 1 << 19
"""Bytes of JSON that the host accepts in one frame from a worker, beyond the room for its output."""
SIGNALS = (SIGALRM, SIGVTALRM, SIGPROF, SIGUSR1)
"""Those that come by themselves: of the timers, and of the host when the time is over. Few, since each costs time."""
REQUEST = Struct("=QQ")
"""What the host sends the zygote for a worker: a number, and the worker's memory in MiB."""
ANSWER = Struct("=Q")
"""What comes back: that number, and after it, as text, what failed."""
PIECE = 1 << 16
"""Bytes read at once of what nobody wants any more."""

_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_join = "".join


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def encode(message: dict[str, Any]) -> bytes:
    """One frame.

    Raises:
        TypeError: Something in `message` is not a JSON value.
        ValueError: A number is not finite or the value contains itself.
        RecursionError: The value is nested too deeply.
    """
    # a fresh set of markers each time: it is what finds values that contain themselves
    encoder = c_make_encoder({}, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
    payload = _join(encoder(message, 0)).encode("ascii")
    return len(payload).to_bytes(4, "big") + payload


class Channel:
    """The worker's end of the connection. It stays in step with the host whatever is raised within.

    What takes bytes away is one call in C, and its result is put aside by an assignment, which needs no memory. So a
    full heap or the limit of recursion loses nothing that was read. What else could raise in between, signal handlers
    and hooks of model code, is held off by `quietly`.

    Args:
        descriptor: Of a stream socket, blocking.
    """

    __slots__ = ("_body", "_header", "_left", "_recv", "_unwanted", "busy", "send")

    def __init__(self, descriptor: int) -> None:
        connection = socket(AF_UNIX, SOCK_STREAM, 0, descriptor)
        self.send: Callable[[bytes], None] = connection.sendall
        """Write a whole frame."""
        self._recv = connection.recv
        self._header = b""
        self._left = 0
        """Bytes of the body that is being read."""
        self._body: bytes | None = None
        self._unwanted = 0
        """Bytes of a body for which there was no memory, to be read and dropped."""
        self.busy = False

    def quietly(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Run `action` without signal handlers, tracers and profilers of model code; signals are handled afterwards.

        Raises:
            RuntimeError: This is called from within such an action (by a destructor, say).
        """
        if self.busy:
            raise RuntimeError("a tool was called in the midst of another tool call")
        tracer, profiler = gettrace(), getprofile()
        if tracer is not None or profiler is not None:
            settrace(None)
            setprofile(None)
        held = None
        try:
            held = pthread_sigmask(SIG_BLOCK, SIGNALS)
            self.busy = True
            return action(*arguments)
        finally:
            self.busy = False
            try:
                if held is None:  # a handler raised just before
                    pthread_sigmask(SIG_UNBLOCK, SIGNALS)
                else:
                    pthread_sigmask(SIG_SETMASK, held)
            finally:
                if tracer is not None or profiler is not None:
                    settrace(tracer)
                    setprofile(profiler)

    def receive(self) -> dict[str, Any]:
        """Read one frame from the host, which is trusted. After an error the next call goes on where this one was.

        Raises:
            EOFError: The host closed the connection.
            MemoryError: There is no room for the frame.
        """
        while self._unwanted:
            size = min(self._unwanted, PIECE)
            rest = self._unwanted - size
            self._recv(size, MSG_WAITALL)
            self._unwanted = rest
        if not self._left:
            if not self._header:
                self._header = self._recv(4, MSG_WAITALL)
            if len(self._header) < 4:
                raise EOFError
            self._left = int.from_bytes(self._header, "big")
            self._header = b""
        if self._body is None:
            self._body = self._recv(self._left, MSG_WAITALL)  # where there is no room, that is known before reading
        if len(self._body) < self._left:
            raise EOFError
        message: dict[str, Any] = _scan(self._body.decode("ascii"), 0)[0]
        self._body = None
        self._left = 0
        return message

    def answer(self, call: int) -> dict[str, Any]:
        """The answer to the tool call of this number; those to earlier calls, which were given up, are dropped.

        Raises:
            MemoryError: There is no room for it; it will be dropped.
        """
        try:
            while True:
                message = self.receive()
                if message.get("call") == call:
                    return message
        except BaseException:
            if self._body is None:
                self._unwanted = self._unwanted or self._left
            self._body = None
            self._left = 0
            raise
