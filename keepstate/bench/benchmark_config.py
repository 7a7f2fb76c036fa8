"""The config of one benchmark cell: closed, frozen, loaded from YAML (train/assets/benchmark_configs/*.yaml).

The defaults are those of the specification's benchmarks. An unknown key is an error that names it and those allowed.
Does not look for the server or the tasks.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from keepstate.closed import Closed, explain
from keepstate.errors import UserError
from keepstate.files import parse_yaml
from keepstate.models.base import Sampling
from keepstate.places import SHIPPED, find
from keepstate.tasks import load_tasks, use_family
from keepstate.tasks.base import Task
from keepstate.tasks.families import is_file, named_beside
from keepstate.tasks.task_set import TaskSetConfig, read_task_set
from keepstate.traces.record import DEFAULT_LIMITS, Limits
from keepstate.train.trained_for import TrainedFor, by_name
from keepstate.vocabulary import ADAPTER_NAME, AUTO, BASE, CELL_NAME, ISOLATION, RuntimeName

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
DEFAULT_CONTEXT = 40_960
SAMPLED = 100
"""Tasks that are sampled where no `count` is given."""


class TaskSource(Closed):
    """Which tasks: a task-set file, a folder of task files, or a difficulty to sample from. Exactly one of the three.

    Relative paths start at the folder of the benchmark config.
    """

    config: Path | None = None
    """A task-set file such as train/assets/task_configs/easy_100.json."""
    folder: Path | None = None
    """A folder that `keepstate tasks generate` made."""
    difficulty: str | None = None
    """What to sample."""
    family: str | None = None
    """Of a `difficulty`, `knapsack` where it is not given; of the tasks in a `folder`, where its file must be named. A
    name, a module, or a Python file."""
    rules: str | None = None
    """Of a `difficulty`; the family's first where it is not given."""
    count: int | None = Field(default=None, ge=1)
    """At most so many, the first ones; a set of another size is named. Where it is not given: all of a `folder` or
    `config`, 100 of a `difficulty`."""
    seed_start: int = 123_456_789
    """Of a `difficulty`: seed of the set."""

    @model_validator(mode="after")
    def _exactly_one(self) -> TaskSource:
        given = [name for name in ("config", "folder", "difficulty") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of config, folder, difficulty (found {', '.join(given) or 'none'})")
        return self

    def load(self) -> list[Task]:
        """The tasks, in order.

        Raises:
            UserError: They cannot be read or made.
        """
        if self.family is not None:
            use_family(self.family)
        if self.folder is not None:
            return load_tasks(self.folder)[: self.count]
        if self.config is not None:
            whole = read_task_set(self.config)
        else:
            whole = TaskSetConfig(
                family=self.family or "knapsack",
                difficulty=self.difficulty,
                rules=self.rules,
                count=self.count or SAMPLED,
                seed_start=self.seed_start,
            )
        return whole.make(self.count)

    def capped(self) -> str | None:
        """What `count` makes of a set of another size, in words; None where it changes nothing.

        Raises:
            UserError: The set cannot be read.
        """
        if self.count is None or self.difficulty is not None:
            return None
        size = len(load_tasks(self.folder)) if self.folder is not None else read_task_set(self.config or Path()).count
        if self.count < size:
            return f"the first {self.count} of the {size} tasks of {self.folder or self.config} (count: {self.count})"
        if self.count > size:
            return f"{self.folder or self.config} holds {size} tasks only (count: {self.count})"
        return None

    def beside(self, folder: Path) -> TaskSource:
        """The same with relative paths resolved against `folder`."""
        changes = {name: folder / path for name in ("config", "folder") if (path := getattr(self, name)) is not None}
        family = None if self.family is None else named_beside(self.family, folder)
        return self.model_copy(update={**changes, "family": family})

    def seen_from(self, folder: Path) -> TaskSource:
        """The same with every path as it is called in a config in `folder`: the inverse of `beside`."""
        paths = {name: path for name in ("config", "folder") if (path := getattr(self, name)) is not None}
        if self.family is not None and is_file(self.family):
            paths["family"] = self.family
        return self.model_copy(update={name: type(path)(os.path.relpath(path, folder)) for name, path in paths.items()})


class BenchmarkConfig(Closed):
    """One cell: who, where, on what, and within which limits."""

    name: str = Field(pattern=CELL_NAME)
    """Also the cell's folder in the run."""
    adapter: str = Field(pattern=ADAPTER_NAME)
    """Who is measured: `base`, or an adapter by its name."""
    runtime: RuntimeName
    """Where it acts."""
    tasks: TaskSource
    """What it plays."""
    model: str | None = None
    """Its name on the server; the adapter's where it is not given."""
    limits: Limits = Field(default=DEFAULT_LIMITS, validate_default=True)
    """Where an episode and an action end."""
    sampling: Sampling = Sampling()
    """How the server picks tokens."""
    context: int = Field(default=DEFAULT_CONTEXT, ge=256)
    """Tokens that the server must offer a conversation; one that offers fewer is refused."""
    nothink: bool = True
    """Send `enable_thinking: false` to the chat template, and stop where the model thinks all the same."""
    seed: int = 0
    """Another seed repeats the same tasks with other draws."""
    base_url: str = DEFAULT_BASE_URL
    """Of the server's API; of several servers alike, with commas between."""
    concurrency: int = Field(default=64, ge=1)
    """Episodes at once on each server; a run of several cells takes the largest. A server's cache may allow fewer."""
    isolation: str = Field(default=AUTO, pattern=ISOLATION)
    """Rung of the sandbox: the strongest, a named one, or (`landlock+`) at least a named one."""

    @field_validator("runtime", mode="before")
    @classmethod
    def _is_one(cls, runtime: Any) -> RuntimeName:
        return RuntimeName(runtime)  # its error names those between, too

    @field_validator("limits")
    @classmethod
    def _of_its_runtime(cls, limits: Limits, read: ValidationInfo) -> Limits:
        return limits.of(read.data.get("runtime", RuntimeName.PERSISTENT))

    @property
    def served_name(self) -> str:
        """Its name on the server."""
        return self.model or self.adapter

    def written_in(self, folder: Path) -> str:
        """This config with all its keys as YAML, for a file in `folder`: `read_benchmark_config` gives it again."""
        whole = self.model_copy(update={"tasks": self.tasks.seen_from(folder)})
        return yaml.safe_dump(whole.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def decisive(self) -> dict[str, Any]:
        """What decides the results, tasks apart: not where the server is, nor how many episodes run at once."""
        return {
            "adapter": self.adapter,
            "model": self.served_name,
            "runtime": str(self.runtime),
            "limits": self.limits.model_dump(),
            "sampling": self.sampling.model_dump(),
            "context": self.context,
            "nothink": self.nothink,
            "seed": self.seed,
        }


ONE_FOR_EACH = {name: by_name(name) for name in (BASE, *map(str, RuntimeName))}
"""The base, and the adapter of each runtime."""


def matrix_configs(
    tasks: TaskSource, label: str, *, adapters: Mapping[str, TrainedFor | None] = ONE_FOR_EACH, **settings: Any
) -> Iterator[BenchmarkConfig]:
    """Every cell there is: each model in each runtime whose answers it can give; `ONE_FOR_EACH` gives eight.

    Args:
        tasks: The same tasks for all cells, so that cells compare task by task.
        label: Of the tasks, usually their difficulty. A cell is named `<adapter>-<runtime>-<label>`.
        adapters: Who is measured, and what each was trained for: where that is not known, every runtime is played.
        settings: Further fields of `BenchmarkConfig`, the same for all.
    """
    for adapter, trained_for in adapters.items():
        for runtime in trained_for.playable if trained_for else RuntimeName:
            name = re.sub("[^a-z0-9_-]+", "-", f"{adapter}-{runtime}-{label}".lower())
            yield BenchmarkConfig(
                name=name[-80:].lstrip("-_"), adapter=adapter, runtime=runtime, tasks=tasks, **settings
            )


def picked(configs: Sequence[BenchmarkConfig], patterns: Sequence[str]) -> list[BenchmarkConfig]:
    """The cells that one of `patterns` names as `<adapter>:<runtime>`, in which * stands for anything; all without any.

    Raises:
        UserError: A pattern names none of them.
    """
    named = {f"{config.adapter}:{config.runtime}": config for config in configs}
    found = [fnmatch.filter(named, pattern) for pattern in patterns]
    if empty := [pattern for pattern, names in zip(patterns, found, strict=True) if not names]:
        raise UserError(f"--cells {empty[0]}: there is no such cell", f"there are: {', '.join(named)}")
    wanted = {name for names in found for name in names} if patterns else set(named)
    return [config for name, config in named.items() if name in wanted]


def read_benchmark_config(path: Path) -> BenchmarkConfig:
    """Read a benchmark config.

    Raises:
        UserError: It is missing, no YAML, or has an unknown key or a bad value; the message names it.
    """
    path, raw = read_mapping(path)
    return config_of(raw, path)


def read_mapping(path: Path) -> tuple[Path, dict[str, Any]]:
    """Where a config lies, and what it holds.

    Raises:
        UserError: It is missing, no YAML, or no mapping.
    """
    path = find(path)
    try:
        raw = parse_yaml(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot read: {error.strerror}",
            f"those of the specification: ls {SHIPPED / 'train' / 'assets' / 'benchmark_configs'}",
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: {error}", "repair the file") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a mapping of keys is needed", f"keys: {', '.join(BenchmarkConfig.model_fields)}")
    return path, raw


def config_of(raw: Mapping[str, Any], path: Path) -> BenchmarkConfig:
    """The config that a file at `path` holds.

    Raises:
        UserError: It has an unknown key or a bad value; the message names it.
    """
    try:
        config = BenchmarkConfig.model_validate(raw)
    except ValidationError as error:
        fault = explain(error, BenchmarkConfig)
        raise UserError(f"{path}: {fault.message}", fault.allowed) from error
    return config.model_copy(update={"tasks": config.tasks.beside(path.parent)})
