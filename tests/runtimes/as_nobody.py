"""Run a command as an ordinary user (uid 65534, no capability), from tests that run as root: as_nobody.py COMMAND...

Python and the project may lie where only root may enter, and so may what the variable OPEN names (folders, `:` between
them). Changes nothing on the machine: in a mount namespace of its own, every closed folder on the way is covered by an
empty, open one that shows nothing but what is needed below it.
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


def open_to_all(folders: set[Path]) -> None:
    """Make `folders` reachable for everybody, in this mount namespace alone."""
    held = {folder: os.open(folder, os.O_PATH) for folder in folders}
    ways = [[each for each in reversed(folder.parents) if not each.stat().st_mode & 0o001] for folder in folders]
    for closed in {way[0] for way in ways if way}:
        mount("tmpfs", str(closed), "tmpfs", 0)
    for folder, descriptor in held.items():
        if not folder.exists():
            folder.mkdir(parents=True)
            mount(f"/proc/self/fd/{descriptor}", str(folder), "", MS_BIND | MS_REC)
        os.close(descriptor)


def main() -> None:
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    named = os.environ.pop("OPEN", "").split(":")
    open_to_all({Path(folder).resolve() for folder in (sys.base_prefix, PROJECT, *named) if folder})
    os.chdir(PROJECT)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
