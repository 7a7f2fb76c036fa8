"""The adapter's folder: which training lies there, how far it came, and what a new one may do about it.

`keepstate-run.json` holds what decides the training: see `keepstate.resume`. The same training goes on from its last
whole checkpoint. Files that no training made are never touched. Starts nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from keepstate.errors import UserError
from keepstate.files import TEMPORARY, write_atomic
from keepstate.processes import only_one
from keepstate.resume import OtherWork, Record
from keepstate.train.progress import PROGRESS
from keepstate.train.result import DONE, WEIGHTS, TrainedAdapter, read_done
from keepstate.train.scores import FOLDER, kept_steps, step_folder
from keepstate.train.trained_for import RUN
from keepstate.train.training_plan import TrainingPlan

RESOLVED = "axolotl.yaml"
SCHEMA = "keepstate.run.v1"
OLDER_RUN = "keepstate-key.txt"
"""What the first version wrote: a hash in which places counted too, so that it cannot be taken apart."""
LOCK = ".keepstate.lock"
LOG = "train.log"
STOP = "stop-requested"
CHECKPOINT = re.compile(r"checkpoint-[0-9]{1,18}")
LAST_OF_CHECKPOINT = "trainer_state.json"
"""What the trainer writes last into a checkpoint."""
LAST_OF_PREPARED = "dataset_info.json"
"""What Axolotl writes last of prepared data, which it reads whatever is missing."""
ARCHIVES = ("optimizer.pt", "scheduler.pt", "rng_state*.pth")
"""Of a checkpoint, besides its weights: without one of them a training would go on as another. Several processes keep
their random numbers apart."""


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Hold the folder while the block runs; made where it is missing.

    Raises:
        UserError: Another process trains into it, or it holds other people's files.
    """
    _refuse_foreign(output)
    busy = UserError(
        f"another keepstate is training into {output}", "wait until it ends, or name another folder: --out"
    )
    with only_one(output / LOCK, str(output), busy=busy):
        yield


def _refuse_foreign(output: Path) -> None:
    if not output.is_dir():
        return
    names = {path.name for path in output.iterdir() if not path.name.endswith(TEMPORARY)} - {LOCK}
    if names and names.isdisjoint({RUN, OLDER_RUN, DONE}):
        raise UserError(f"{output} holds files that no keepstate training made", "name another folder: --out")


def finished(planned: TrainingPlan) -> TrainedAdapter | None:
    """The adapter that `planned` would make, where it lies there already. Changes nothing.

    Raises:
        OtherWork: The folder holds work of another training; names what differs.
    """
    output = planned.output
    done, kept = read_done(output), checkpoints(output)
    if done is None and not kept and not (output / WEIGHTS).is_file():
        return None  # nothing that could be lost
    if done is None and (output / DONE).is_file():
        changes = [f"{DONE} cannot be read by this keepstate"]
    else:
        changes = _changes(planned, done)
    if changes:
        what = f"an adapter, finished after {done.steps} steps," if done else kept[-1].name if kept else "weights"
        raise OtherWork({f"{output} holds {what}": changes}, "--out FOLDER")
    return done


def _record(planned: TrainingPlan) -> Record:
    return Record(planned.output / RUN, SCHEMA, planned.decisive)


def _changes(planned: TrainingPlan, done: TrainedAdapter | None) -> list[str]:
    """What differs from the training that lies there."""
    if (changes := _record(planned).changes()) is not None:
        return changes
    older = planned.output / OLDER_RUN
    key = done.key if done else older.read_text().strip() if older.is_file() else None
    same = key in (planned.key, planned.older_key)
    return [] if same else ["what it was trained from was not written down, other than that it is not this"]


def checkpoints(output: Path) -> list[Path]:
    """Whole checkpoints, oldest first; not those that a crash cut short."""
    return [path for path in checkpoint_folders(output) if _is_whole(path)]


def checkpoint_folders(output: Path) -> list[Path]:
    """What the trainer calls a checkpoint, oldest first; a copy by another name (`checkpoint-best`) is the user's."""
    found = [path for path in output.glob("checkpoint-*") if CHECKPOINT.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file that a training goes on from is there to its last byte."""
    try:
        json.loads((checkpoint / LAST_OF_CHECKPOINT).read_bytes())
        weights = checkpoint / WEIGHTS
        with weights.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            tensors = json.loads(file.read(header))
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        return False
    complete = 8 + header + max(ends, default=0) == weights.stat().st_size
    archives = [sorted(checkpoint.glob(name)) for name in ARCHIVES]
    return complete and all(found and all(map(zipfile.is_zipfile, found)) for found in archives)


def prepare(planned: TrainingPlan, tracker: Mapping[str, Any], *, fresh: bool) -> Path | None:
    """Make the folder ready, write Axolotl's config into it, and return the checkpoint to go on from, if any.

    Only `fresh` removes work: without it, what goes is half written and could not be gone on from.

    Args:
        planned: The training, which is that of the folder unless `fresh`.
        tracker: Axolotl's keys for the service that draws curves.
        fresh: Remove every file of an earlier training first.
    """
    output = planned.output
    whole = [] if fresh else checkpoints(output)
    last = whole[-1] if whole else None
    (output / DONE).unlink(missing_ok=True)  # first: what follows is no finished adapter
    prepared = Path(planned.config["dataset_prepared_path"]).glob("*/")
    cut_short = [folder for folder in prepared if not (folder / LAST_OF_PREPARED).is_file()]
    for folder in (*cut_short, *(found for found in checkpoint_folders(output) if found not in whole)):
        shutil.rmtree(folder)
    if last is None:
        for folder in (output / FOLDER, *(step_folder(output, step) for step in kept_steps(output))):
            shutil.rmtree(folder, ignore_errors=True)
    for old in (WEIGHTS, STOP, OLDER_RUN, *(() if last else (PROGRESS, LOG))):
        (output / old).unlink(missing_ok=True)
    with suppress(FileNotFoundError):  # a crash may have cut the last line
        whole_lines, newline, _ = (output / PROGRESS).read_bytes().rpartition(b"\n")
        write_atomic(output / PROGRESS, whole_lines + newline)
    _record(planned).write()
    resolved = planned.of_a_process | dict(tracker) | ({"resume_from_checkpoint": str(last)} if last else {})
    write_atomic(output / RESOLVED, yaml.safe_dump(resolved, sort_keys=False))
    return last
