"""Task files: one JSON per task in a folder.

Reads ours (`keepstate.task.v1`) and the research code's (`pythonformer.task.v1`); writes ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from keepstate.closed import explain
from keepstate.errors import UserError
from keepstate.files import existing_folder, json_text, parse_json
from keepstate.many_files import write_many
from keepstate.tasks.base import RESEARCH_TASK_SCHEMA, Task
from keepstate.tasks.families import UnknownFamily, environment_for

MAKE_COMMAND = "keepstate tasks generate --difficulty mini --count 60 --out FOLDER"
RESEARCH_DIFFICULTY = "research"
"""Difficulty of a research file, which states measures of the instance and no name."""
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_RESEARCH_ONLY = ("schema_version", "run_name", "generated_at", "tools", "nl")


@dataclass(frozen=True, slots=True)
class BadTask:
    """A file that is no task, and why."""

    path: Path
    reason: str


def write_tasks(folder: Path, tasks: Iterable[Task]) -> list[Path]:
    """Write each task to `<folder>/<task.name>.json`, atomically; returns the paths.

    Raises:
        UserError: A file cannot be written.
    """
    return write_many((folder / f"{task.name}.json", _text(task)) for task in tasks)


def _text(task: Task) -> str:
    try:
        return task.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"
    except PydanticSerializationError:  # a lone surrogate; else it takes an eighth of the time
        return json_text(task.model_dump(mode="json", by_alias=True, exclude_none=True))


def load_tasks(folder: Path) -> list[Task]:
    """Every task of a folder, by file name.

    Raises:
        UserError: The folder is missing or holds no task, or a file in it is no valid task: results over a silently
            smaller set would not be comparable.
    """
    tasks, bad = read_tasks(folder)
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UserError(
            f"{bad[0].path}: {bad[0].reason}{more}", f"repair or remove it; see: keepstate tasks show {folder}"
        )
    return tasks


def read_tasks(folder: Path) -> tuple[list[Task], list[BadTask]]:
    """The tasks of a folder by file name, and the files that are none.

    Raises:
        UserError: The folder is missing, or holds no JSON file at all, or the user must name his family.
    """
    existing_folder(folder, "tasks", MAKE_COMMAND.replace("FOLDER", str(folder)))
    tasks: list[Task] = []
    bad: list[BadTask] = []
    for path in sorted(folder.glob("*.json")):
        try:
            tasks.append(read_task(path))
        except UnknownFamily:
            raise
        except UserError as error:
            bad.append(BadTask(path, error.message.removeprefix(f"{path}: ")))
    if not tasks and not bad:
        raise UserError(f"no tasks in {folder}", f"make some with: {MAKE_COMMAND.replace('FOLDER', str(folder))}")
    return tasks, bad


def read_task(path: Path) -> Task:
    """Read one task file of either schema, and check that it can be played.

    Raises:
        UserError: It cannot be read, or is no valid task.
    """
    hint = "repair or remove the file"
    try:
        raw = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}", "name an existing task file") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}", hint) from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a task: a JSON object is needed", hint)
    try:
        task = Task.model_validate(_as_ours(raw))
    except ValidationError as error:
        raise UserError(f"{path}: not a task: {explain(error, Task).message}", hint) from error
    if not _SAFE_ID.fullmatch(task.task_id):
        raise UserError(f"{path}: task_id {task.task_id[:80]!r} cannot be part of a file name", hint)
    try:
        environment_for(task)
    except UnknownFamily:
        raise
    except UserError as error:
        raise UserError(f"{path}: {error.message}", error.hint) from error
    return task


def _as_ours(raw: dict[str, Any]) -> dict[str, Any]:
    """A research file with its schema under our key, without what only its code reads; anything else as it is."""
    if RESEARCH_TASK_SCHEMA not in (raw.get("schema"), raw.get("schema_version")):
        return raw
    task = {key: value for key, value in raw.items() if key not in _RESEARCH_ONLY}
    task["schema"] = RESEARCH_TASK_SCHEMA
    if not isinstance(task.get("difficulty"), str):
        task["difficulty"] = RESEARCH_DIFFICULTY
    return task
