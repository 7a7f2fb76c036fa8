"""What lies below a folder and is of no more use: half-written files of killed runs, checkpoints of finished trainings.

    for leftover in leftovers(Path("."), closed := []):
        leftover.remove()

Nothing else is ever named: traces, results, data sets, adapters, answers that were paid for, environments and models
stay.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from keepstate.errors import UserError
from keepstate.files import TEMPORARY, write_error
from keepstate.inventory import folders
from keepstate.staging import clear_left
from keepstate.train.result import read_done
from keepstate.train.run_folder import alone, checkpoint_folders
from keepstate.train.scores import kept_steps, step_folder


class Why(StrEnum):
    """Why it is of no more use."""

    HALF_WRITTEN = "half written by a run that was killed"
    """Temporary files: the next run that writes the same file removes them too."""
    CHECKPOINT = "checkpoint of a finished training"
    """Only of use to serve that stage of it, or to train on with other options."""
    PLAYED = "weights of a played checkpoint of a finished training"
    """Only of use to serve that step; its scores stay."""
    PREPARED = "prepared data of a finished training"
    """Axolotl's copy of the data set in tokens."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """One file or folder."""

    path: Path
    why: Why
    bytes: int
    """All of it."""

    def remove(self) -> bool:
        """Remove it, unless a process uses it now, or may; whether it is gone.

        Raises:
            UserError: It may not be removed.
        """
        if self.why is Why.HALF_WRITTEN:
            return clear_left(self.path)
        try:
            with alone(self.path.parent):
                if read_done(self.path.parent) is None:  # it was begun anew after this was found
                    return False
                shutil.rmtree(self.path)
        except OSError as error:
            raise write_error(self.path, error) from error
        except UserError:  # a training goes on there
            return False
        return True


def leftovers(root: Path, closed: list[str]) -> Iterator[Leftover]:
    """What is of no more use below `root`.

    Args:
        root: Where to look.
        closed: Takes the folders that cannot be read, with reasons.
    """
    for folder, files in folders(root, closed):
        for entry in files:
            if entry.name.startswith(".") and entry.name.endswith(TEMPORARY) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # who wrote it is through
                    yield Leftover(folder / entry.name, Why.HALF_WRITTEN, entry.stat(follow_symlinks=False).st_size)
        if read_done(folder) is not None:
            made = [(Why.CHECKPOINT, path) for path in checkpoint_folders(folder)]
            made += [(Why.PLAYED, step_folder(folder, step)) for step in kept_steps(folder)]
            for why, path in (*made, (Why.PREPARED, folder / "prepared")):
                if _is_real(path):
                    yield Leftover(path, why, _size(path))


def _is_real(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
