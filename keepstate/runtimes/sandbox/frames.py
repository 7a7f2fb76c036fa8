"""Frames from a worker, read as what they are: bytes that hostile code may have written.

A frame is four bytes of length (big-endian) and one JSON object in ASCII. Whatever does not fit raises `FrameError`,
after which the connection is of no use. The worker's side is `guest/wire.py`, which trusts what we send.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from typing import Any

from keepstate.runtimes.sandbox.guest.wire import MAX_FRAME

HEADER = 4
LONG = 1 << 14
MAX_MARKS = 100_000
"""Commas, colons and opening brackets in one frame, beyond the room for its output: each may be a value to be made, in
0.1 us. In honest frames they are characters of output, errors, names and arguments."""


MARKS = (b",", b":", b"[", b"{")


class FrameError(Exception):
    """What arrived is no frame."""


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number out of range: {text[:40]}")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def encode(message: dict[str, Any]) -> bytes:
    """One frame for a worker."""
    payload = _encoder.encode(message).encode("ascii")
    return len(payload).to_bytes(HEADER, "big") + payload


def decode(payload: bytes) -> dict[str, Any]:
    """The object in the body of a frame.

    Raises:
        FrameError: It is not one JSON object in ASCII.
    """
    try:
        message, end = _decoder.raw_decode(payload.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {str(error)[:200]}") from None
    if not isinstance(message, dict) or end != len(payload):
        raise FrameError("not one object")
    return message


class FrameReader:
    """Puts the pieces of a stream together.

    reader.feed(data)
    for message in reader: ...

    Args:
        limit: Bytes allowed in one frame.
        marks: Commas, colons and opening brackets allowed in one frame.
    """

    def __init__(self, limit: int = MAX_FRAME, marks: int = MAX_MARKS) -> None:
        self.limit = limit
        self.marks = marks
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        self._buffer += data

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The frames that are complete, each once.

        Raises:
            FrameError: The next one is too large or broken.
        """
        while (message := self.next()) is not None:
            yield message

    @property
    def size(self) -> int | None:
        """Bytes of the next complete frame, or None.

        Raises:
            FrameError: It is too large.
        """
        buffer = self._buffer
        if len(buffer) < HEADER:
            return None
        length = int.from_bytes(buffer[:HEADER], "big")
        if length > self.limit:
            raise FrameError(f"{length} bytes, {self.limit} are allowed")
        return length if len(buffer) >= HEADER + length else None

    def next(self) -> dict[str, Any] | None:
        """The next complete frame, or None.

        Raises:
            FrameError: It is too large or broken.
        """
        length = self.size
        return None if length is None else self.take(length)

    def take(self, length: int) -> dict[str, Any]:
        """The next frame, of which `size` gave the length.

        Raises:
            FrameError: It is broken.
        """
        payload = bytes(self._buffer[HEADER : HEADER + length])
        del self._buffer[: HEADER + length]
        if length > self.marks and sum(map(payload.count, MARKS)) > self.marks:
            raise FrameError(f"more than {self.marks} values")
        if length <= LONG or not gc.isenabled():
            return decode(payload)
        gc.disable()  # it would look through all these values again and again
        try:
            return decode(payload)
        finally:
            gc.enable()
