"""What tests of serving share: the type of a fixture, the stub as an environment, and whether it runs."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from keepstate.setup.environments import EnvironmentSpec, spec

MakeAdapter = Callable[..., Path]
STUB = Path(__file__).with_name("stub_vllm.py")


def write_stub_environment() -> None:
    """A `.venv-serve` in keepstate's home whose python is the stub; that wants `STUB_PID` in its environment."""
    write_environment(spec("serve"), f'#!/bin/sh\nexec {shlex.join([sys.executable, str(STUB)])} "$@"\n')


def write_environment(made: EnvironmentSpec, script: str) -> None:
    """An environment that seems to hold its engine, and whose Python is a script."""
    python, release = made.python, made.release
    python.parent.mkdir(parents=True)
    python.write_text(script)
    python.chmod(0o755)
    packages = made.folder / "lib/python3/site-packages"
    (packages / f"{release.package.replace('-', '_')}-{release.version}.dist-info").mkdir(parents=True)
    made.write_stamp()


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
