"""A set of tasks as a file: what `keepstate tasks generate --config` reads (train/assets/task_configs/*.json)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import Field, ValidationError

from keepstate.closed import Closed, explain
from keepstate.errors import UserError
from keepstate.files import parse_json
from keepstate.places import SHIPPED, find
from keepstate.tasks.base import Task
from keepstate.tasks.families import named_beside, use_family
from keepstate.tasks.generate import checked_difficulty, checked_rules, make_tasks
from keepstate.vocabulary import SPLIT_NAME


class TaskSetConfig(Closed):
    """Which tasks to make; equal configs give equal bytes."""

    family: str = "knapsack"
    """A name, a module, or a Python file, whose relative path starts at the folder of this config."""
    difficulty: str | None = None
    """One that the family has; its first where it is not given."""
    rules: str | None = None
    """A rule set that the family has; its first where it is not given."""
    count: int = Field(default=100, ge=1, le=1_000_000)
    """How many tasks."""
    seed_start: int = 0
    """Seed of the set: its tasks share it, and sets of two seeds share no task."""
    split: str = Field(default="train", pattern=SPLIT_NAME)
    """Names the folder: `<family>-<difficulty>-<split>`."""

    def resolved(self) -> TaskSetConfig:
        """The same by the family's name, difficulty and rule set, once its family is loaded.

        Raises:
            UserError: There is no such family, or it has no such difficulty or rule set.
        """
        source = use_family(self.family)
        return self.model_copy(
            update={
                "family": source.name,
                "difficulty": checked_difficulty(source, self.difficulty),
                "rules": checked_rules(source, self.rules),
            }
        )

    @property
    def folder_name(self) -> str:
        """Name of the folder that these tasks go to, of a resolved config."""
        return f"{self.family}-{self.difficulty}-{self.split}"

    def make(self, count: int | None = None, apart_from: Collection[Task] = ()) -> list[Task]:
        """Sample the tasks.

        Args:
            count: At most so many, the first ones.
            apart_from: Tasks whose problems must not recur.

        Raises:
            UserError: See `resolved` and `make_tasks`.
        """
        return list(self.sampled(count, apart_from))

    def sampled(self, count: int | None = None, apart_from: Collection[Task] = ()) -> Iterator[Task]:
        """The same tasks one by one, as they are sampled. See `make`."""
        whole = self.resolved()
        return make_tasks(
            whole.family,
            str(whole.difficulty),
            min(count or whole.count, whole.count),
            whole.seed_start,
            rules=whole.rules,
            apart_from=apart_from,
        )


def read_task_set(path: Path) -> TaskSetConfig:
    """Read a task set's config.

    Raises:
        UserError: It is missing, no JSON, or has an unknown key or a bad value; the message names it.
    """
    path = find(path)
    hint = f"keys: {', '.join(TaskSetConfig.model_fields)}"
    try:
        config = TaskSetConfig.model_validate(parse_json(path.read_bytes()))
        return config.model_copy(update={"family": named_beside(config.family, path.parent)})
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
