"""A set of tasks as a file: what `keepstate tasks generate --config` reads (train/assets/task_configs/*.json)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from keepstate.closed import Closed, explain
from keepstate.errors import UserError
from keepstate.files import parse_json
from keepstate.places import SHIPPED, find
from keepstate.vocabulary import Difficulty, RuleSet


class TaskSetConfig(Closed):
    """Which tasks to make; equal configs give equal bytes."""

    family: str = "knapsack"
    """Name of the task family."""
    difficulty: Difficulty = Difficulty.MINI
    """Its named parameter set."""
    rules: RuleSet = RuleSet.STRICT
    """How much it tells an agent that did not look, in a family that has rules."""
    count: int = Field(default=100, ge=1, le=1_000_000)
    """How many tasks."""
    seed_start: int = 0
    """Seed of the set: its tasks share it, and sets of two seeds share no task."""
    split: str = Field(default="train", pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    """Names the folder: `<family>-<difficulty>-<split>`."""

    @property
    def folder_name(self) -> str:
        """Name of the folder that these tasks go to."""
        return f"{self.family}-{self.difficulty}-{self.split}"


def read_task_set(path: Path) -> TaskSetConfig:
    """Read a task set's config.

    Raises:
        UserError: It is missing, no JSON, or has an unknown key or a bad value; the message names it.
    """
    path = find(path)
    hint = f"keys: {', '.join(TaskSetConfig.model_fields)}"
    try:
        return TaskSetConfig.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise UserError(
            f"{path}: cannot read: {error.strerror}",
            f"those that come with keepstate: ls {SHIPPED / 'train' / 'assets' / 'task_configs'}",
        ) from error
    except ValidationError as error:
        fault = explain(error, TaskSetConfig)
        raise UserError(f"{path}: {fault.message}", fault.allowed) from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}", hint) from error
