"""What tests of serving share: the type of a fixture, and whether the stub runs."""

import os
from collections.abc import Callable
from pathlib import Path

MakeAdapter = Callable[..., Path]


def is_running(home: Path) -> bool:
    """Whether the stub server of that home still runs."""
    try:
        os.kill(int((home / "stub.pid").read_text()), 0)
    except (ProcessLookupError, FileNotFoundError):
        return False
    return True
