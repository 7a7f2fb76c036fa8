"""Run a command as an ordinary user (uid 65534, no capability), from tests that run as root: as_nobody.py COMMAND...

Python and the project may lie where only root may enter. Changes nothing on the machine: in a mount namespace of its
own, every closed folder on the way is covered by an empty, open one that shows nothing but what is needed below it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NOBODY = 65534
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PROJECT = Path(__file__).parents[2]

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str, flags: int) -> None:
    words = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), b"mode=755" if kind else None)
    check(libc.mount(*words), f"mount {target}")


def open_to_all(folder: Path) -> None:
    """Make `folder` reachable for everybody, in this mount namespace alone."""
    closed = [each for each in reversed(folder.parents) if not each.stat().st_mode & 0o001]
    if not closed:
        return
    held = os.open(folder, os.O_PATH)
    mount("tmpfs", str(closed[0]), "tmpfs", 0)
    folder.mkdir(parents=True)
    mount(f"/proc/self/fd/{held}", str(folder), "", MS_BIND | MS_REC)
    os.close(held)


def main() -> None:
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    for folder in {Path(sys.base_prefix).resolve(), PROJECT}:
        open_to_all(folder)
    os.chdir(PROJECT)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
