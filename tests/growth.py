"""Whether time grows with a text or faster. Two sizes are compared, so a slow or busy machine tells the same."""

import time
from collections.abc import Callable

SHORTER = 8
NO_TIME = 0.5
"""Seconds of CPU time that need no comparison: what is quadratic takes minutes at a million characters."""


def assert_linear(work: Callable[[str], object], text: Callable[[int], str], length: int) -> None:
    """Fail if `work` on `text(length)` takes over three times what its growth allows."""
    short, whole = (_seconds(work, text(characters)) for characters in (length // SHORTER, length))
    assert whole < max(NO_TIME, 3 * SHORTER * short), f"{length:,} characters took {whole:.2f} s, an eighth {short:.2f}"


def _seconds(work: Callable[[str], object], text: str) -> float:
    started = time.process_time()
    work(text)
    return time.process_time() - started
