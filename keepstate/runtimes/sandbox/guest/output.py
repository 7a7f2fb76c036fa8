"""Bounded text: what a block printed, kept as head, tail and a count, so that a flood costs no memory.

Used by the worker while it captures, and by the host, which joins what the worker sent and decides what is shown.
"""

from __future__ import annotations

import builtins
import io
from collections.abc import Callable

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`


class CutText:
    """Text of which the first and the last `limit / 2` characters are kept.

    Args:
        limit: Characters that `render` shows, not counting the notice.
    """

    __slots__ = ("_head", "_head_left", "_tail", "_tail_limit", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._head: list[str] = []
        self._tail = ""
        self._tail_limit = limit // 2
        self._head_left = limit - self._tail_limit

    def add(self, text: str) -> None:
        """Append `text`."""
        self.total += len(text)
        if self._head_left:
            first = text[: self._head_left]
            self._head.append(first)
            self._head_left -= len(first)
            if len(first) == len(text):
                return
            text = text[len(first) :]
        self._tail += text[-self._tail_limit :] if self._tail_limit else ""
        if len(self._tail) > 2 * self._tail_limit:
            self._tail = self._tail[-self._tail_limit :]

    def skip(self, count: int) -> None:
        """Account for `count` characters that were dropped elsewhere."""
        self.total += count

    def take(self) -> tuple[str, int, str]:
        """Head, number of dropped characters and tail; empties the text."""
        head = "".join(self._head)
        tail = self._tail
        if self.total > self.limit:
            tail = tail[-self._tail_limit :] if self._tail_limit else ""
        dropped = max(0, self.total - len(head) - len(tail))  # not negative, also when a time limit cut in above
        self.__init__(self.limit)  # type: ignore[misc]
        return head, dropped, tail

    def put(self, head: str, dropped: int, tail: str) -> None:
        """Append what another `CutText` gave by `take`."""
        self.add(head)
        self.skip(dropped)
        self.add(tail)

    def render(self) -> str:
        """The text as shown: whole, or head and tail around a notice of how much is missing."""
        total, limit = self.total, self.limit
        head, dropped, tail = self.take()
        if not dropped:
            return head + tail
        return f"{head}\n... [{dropped} of {total} characters cut, {limit} shown] ...\n{tail}"


class Capture(io.TextIOBase):
    """A text stream for `sys.stdout` and `sys.stderr` that appends to the function `write`.

    Has no file descriptor: descriptors 1 and 2 of a worker lead nowhere.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, sink: Callable[[str], None], name: str) -> None:
        super().__init__()
        self._sink = sink
        self.name = name

    @property
    def buffer(self) -> CaptureBytes:
        """For bytes."""
        return CaptureBytes(self._sink)

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str, /) -> int:
        """Append `text`."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._sink(str(text))
        return len(text)


class CaptureBytes(io.RawIOBase):
    """The `buffer` of a `Capture`: bytes are shown as UTF-8."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        super().__init__()
        self._sink = sink

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: object, /) -> int:
        """Append `data`, with undecodable bytes shown as escapes."""
        raw = bytes(data)  # type: ignore[call-overload]
        self._sink(raw.decode("utf-8", "backslashreplace"))
        return len(raw)
