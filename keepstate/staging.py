"""Files that one process writes and another, maybe on another machine, puts in their place: all or nothing, and once.

    stage(path, data, mark)    # a node, beside the place, durably
    place(path, mark)          # whoever counts results: now it is there

So of two that wrote the same only the one appears that was counted, and never one of which nobody was told.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from keepstate.errors import UserError
from keepstate.files import TEMPORARY, clear_orphan, write_error
from keepstate.processes import is_held

STAGED = f".*.json.*{TEMPORARY}"
"""Names of what is staged."""


def beside(path: Path, mark: str) -> Path:
    """Where `stage` puts what `place` puts in its place."""
    return path.parent / f".{path.name}.{mark}{TEMPORARY}"


def stage(path: Path, data: bytes, mark: str, *, durable: bool = True) -> None:
    """Write `data` beside `path`.

    Args:
        path: Its place. The folder must be there: one that is not mounted here is not to be made.
        data: What.
        mark: Of this file alone.
        durable: Wait until the disk has it.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    staged = beside(path, mark)
    try:
        with staged.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        raise write_error(path, error) from error


def place(path: Path, mark: str) -> None:
    """Put in its place what was staged beside it; an existing file is replaced. Waits for no disk.

    Raises:
        UserError: It is not there, or the folder cannot be written.
    """
    staged = beside(path, mark)
    try:
        os.replace(staged, path)
    except FileNotFoundError as error:
        raise UserError(
            f"{staged} is gone, which a node wrote",
            "see that its folder is still shared; then repeat the command: what is finished is kept",
        ) from error
    except OSError as error:
        raise write_error(path, error) from error


def clear_staged(folder: Path) -> None:
    """Remove what was staged in `folder` and nobody will put in its place; only for who is alone in it."""
    for orphan in folder.glob(STAGED):
        clear_orphan(orphan)


def clear_left(orphan: Path) -> bool:
    """Remove a temporary file of ours, of whatever kind, that nobody has a use for; False where somebody may.

    That is also who is alone in the folder: what nodes staged there lies unlocked until it is placed.
    """
    awaited = fnmatch(orphan.name, STAGED) and is_held(orphan.parent, unknown=True)
    return not awaited and clear_orphan(orphan)


@contextmanager
def held_file(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside `path`, whose folder is made, that vanishes; it is locked, so no orphan.

    Raises:
        UserError: The disk is full, or the place cannot be written.
    """
    mark = secrets.token_hex(4)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    stage(path, data, mark)
    held = beside(path, mark)
    try:
        with held.open("rb") as file:
            with suppress(OSError):  # a disk that knows no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield held
    finally:
        held.unlink(missing_ok=True)
