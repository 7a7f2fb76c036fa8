"""The adapter's folder while it is trained: what lies where, and which checkpoint a training goes on from.

Every file of an earlier training of other data or another config goes before a new one starts; files that no training
made are never touched. Starts nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from keepstate.errors import UserError
from keepstate.files import write_atomic
from keepstate.training.result import DONE, WEIGHTS

RESOLVED = "axolotl.yaml"
KEY = "keepstate-key.txt"
LOG = "train.log"
PROGRESS = "progress.jsonl"
STOP = "stop-requested"
LAST_OF_CHECKPOINT = "trainer_state.json"
"""What the trainer writes last into a checkpoint."""


def checkpoints(output: Path) -> list[Path]:
    """Whole checkpoints, oldest first; one that a crash cut short has no readable last file."""
    found = [path for path in output.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted((path for path in found if _is_whole(path)), key=lambda path: int(path.name.rpartition("-")[2]))


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / LAST_OF_CHECKPOINT).read_bytes())
    except (OSError, ValueError):
        return False
    return True


def prepare(output: Path, config: Mapping[str, Any], key: str, *, resume: bool) -> Path | None:
    """Make the folder ready, write Axolotl's config into it, and return the checkpoint to go on from, if any.

    Args:
        output: The adapter's folder.
        config: As Axolotl is to get it, less the key that says what to go on from.
        key: Of the config and the data; checkpoints of another key are not gone on from.
        resume: Whether to go on where that is possible. If not, all checkpoints are removed.

    Raises:
        UserError: The folder holds other people's files.
    """
    key_file = output / KEY
    if output.is_dir() and any(output.iterdir()) and not key_file.is_file():
        raise UserError(f"{output} holds files that no keepstate training made", "name another folder: --out")
    same = key_file.is_file() and key_file.read_text().strip() == key
    whole = checkpoints(output) if resume and same else []
    last = whole[-1] if whole else None
    for folder in output.glob("checkpoint-*"):
        if folder not in whole:
            shutil.rmtree(folder)
    for old in (DONE, WEIGHTS, STOP):
        (output / old).unlink(missing_ok=True)
    if last is None:
        for old in (PROGRESS, LOG):
            (output / old).unlink(missing_ok=True)
    elif (progress := output / PROGRESS).is_file():
        whole_lines, newline, _ = progress.read_bytes().rpartition(b"\n")  # a crash may have cut the last one
        write_atomic(progress, whole_lines + newline)
    write_atomic(key_file, key + "\n")
    resolved = dict(config) | ({"resume_from_checkpoint": str(last)} if last else {})
    write_atomic(output / RESOLVED, yaml.safe_dump(resolved, sort_keys=False))
    return last
