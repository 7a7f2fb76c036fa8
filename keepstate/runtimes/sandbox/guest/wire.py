"""Frames between host and worker: four bytes of length (big-endian), then one JSON object in ASCII.

This is the worker's side. It uses the C parts of `json` directly, made once before any model code runs, so that
patching `json` cannot break it. The host's side, which must survive hostile frames, is `../frames.py`.
"""

from __future__ import annotations

import builtins
import json
import os
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`

MAX_FRAME = 1 << 20
"""Bytes of JSON that the host accepts in one frame from a worker, beyond the room for its output."""

_read = os.read
_write = os.write
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


def _read_exactly(descriptor: int, count: int) -> bytes:
    chunks = []
    while count:
        chunk = _read(descriptor, min(count, 1 << 20))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def send(descriptor: int, frame: bytes) -> None:
    """Write a whole frame."""
    sent = _write(descriptor, frame)
    while sent < len(frame):
        sent += _write(descriptor, frame[sent:])


def receive(descriptor: int) -> dict[str, Any]:
    """Read one frame from the host, which is trusted.

    Raises:
        EOFError: The host closed the connection.
    """
    length = int.from_bytes(_read_exactly(descriptor, 4), "big")
    message: dict[str, Any] = _scan(_read_exactly(descriptor, length).decode("ascii"), 0)[0]
    return message
