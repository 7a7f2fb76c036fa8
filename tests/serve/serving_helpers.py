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


def stubs_below(pid: int) -> list[int]:
    """Stub servers among the descendants of a process."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_text()
        found += [int(child)] * ("stub_vllm" in words and "guard.py" not in words)
        found += stubs_below(int(child))
    return found
