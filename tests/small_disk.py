"""A file system of its own, too small, in a mount namespace that ends with what uses it: a disk that is really full."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def on_a_small_disk(script: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a shell's script, which may mount, with this Python as `$0`; skips the test where nothing may be mounted.

    Args:
        script: Ends with 77 where its own mount fails.
        cwd: Where it runs.
    """
    alone = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    command = [*alone, "sh", "-c", script, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode == 77 or done.stderr.startswith("unshare"):
        pytest.skip("nothing may be mounted here: a full disk was NOT tested")
    return done


def exits(done: "subprocess.CompletedProcess[str]") -> list[str]:
    """What a script says of its commands: `exit 2`."""
    return [line for line in done.stdout.splitlines() if line.startswith("exit")]
