"""Writing many files for little more than one wait for the disk. Each appears whole or not at all, as by
`keepstate.files.write_atomic`; all of those that wait together are on the disk before the first appears.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from keepstate.files import atomic_file, data_bytes, sync_folder

WRITTEN_AT_ONCE = 256
"""Files that wait for the disk together: each is open meanwhile, and 1,024 is a usual limit."""
WAITED_FOR_ALONE = 8
"""Files up to which the disk is asked for each, which takes .5 to 4 ms. For more it is asked once, and waits for what
anybody else is writing there, too: too long where a training saves its weights and episodes end now and then."""


def write_many(files: Iterable[tuple[Path, str | bytes]]) -> list[Path]:
    """Write any number of files; returns the paths. A thread writes, while the next ones are made.

    Raises:
        UserError: The disk is full, or a place cannot be written.
    """
    left = iter(files)
    paths: list[Path] = []
    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(write_together, [])
        while batch := list(islice(left, WRITTEN_AT_ONCE)):
            writing.result()
            writing = writer.submit(write_together, batch)
            paths += [path for path, _ in batch]
        writing.result()
    return paths


def write_together(files: Sequence[tuple[Path, str | bytes]], *, durable: bool = True) -> None:
    """Write a few hundred files at most.

    Args:
        files: Where, and what.
        durable: Wait until the disk has them.

    Raises:
        UserError: The disk is full, or a place cannot be written. A part of them may be there then.
    """
    with ExitStack() as written:
        opened = []
        for path, data in files:
            file = written.enter_context(atomic_file(path, durable=False))
            file.write(data_bytes(data))
            file.flush()
            opened.append(file.fileno())
        if durable:
            _wait_for(opened)
    for folder in dict.fromkeys(path.parent for path, _ in files if durable):
        sync_folder(folder)


def _wait_for(opened: Sequence[int]) -> None:
    if len(opened) <= WAITED_FOR_ALONE:
        for descriptor in opened:
            os.fsync(descriptor)
    else:
        for descriptor in {os.fstat(each).st_dev: each for each in opened}.values():
            _sync_disk(descriptor)


def _sync_disk(descriptor: int) -> None:
    """Make all that was written to the disk of an open file durable."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # no Linux
        os.sync()
    elif syncfs(descriptor):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
