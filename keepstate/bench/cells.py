"""A cell on disk: its folder, its `cell.json`, which episodes lie there graded, and whether they still belong to it.

`cell.json` holds what decides the results and its digest: see `keepstate.resume`. Plays nothing.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from keepstate import __version__
from keepstate.agents.prompts import system_prompt
from keepstate.bench.benchmark_config import BenchmarkConfig
from keepstate.closed import explain
from keepstate.errors import UserError
from keepstate.files import canonical_json, content_hash, parse_json, write_atomic, write_json
from keepstate.resume import changed_keys
from keepstate.tasks.base import Task, Verdict
from keepstate.tasks.families import environment_for, family_of, reference_scores
from keepstate.traces import BadTrace
from keepstate.traces.record import MOST_TURNS
from keepstate.traces.recorded import Due, graded, read_record
from keepstate.traces.summary import write_summaries
from keepstate.traces.writer import remove_trace, traces_in
from keepstate.train.trained_for import TrainedFor, by_name
from keepstate.vocabulary import ADAPTER_NAME, RuntimeName

CELL_SCHEMA: Literal["keepstate.cell.v1"] = "keepstate.cell.v1"
CELL_FILE = "cell.json"
CELL_CONFIG = "cell.yaml"
"""The config with which it was last played, whole: `keepstate bench run CELL/cell.yaml --run NAME` plays it again."""
ELSEWHERE = "--run NAME"
"""The option that keeps results of two configs."""
_SURROGATE = re.compile("[\ud800-\udfff]")
TOLD_BY_SERVER = {
    "weights": "the adapter's weights",
    "adapter_config": "the adapter's configuration",
    "base": "the base model",
    "template": "the chat template",
    "kv_cache": "the key-value cache",
}
"""Keys of what decides the results that cannot always be told: not compared where one side is unknown, but said."""


@dataclass(frozen=True)
class Cell:
    """One cell of a run. `decisive` is what its digest (SHA-256) covers."""

    config: BenchmarkConfig
    tasks: tuple[Task, ...]
    folder: Path
    served: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the model that plays: `root`, `max_model_len`, `remarks`, `trained_for`, and the keys of
    `TOLD_BY_SERVER`."""

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """Everything that decides the results."""
        tools = environment_for(self.tasks[0]).tools
        prompt = system_prompt(self.config.runtime, tools, tool_calls=self.config.limits.tool_calls)
        return (
            self.config.decisive()
            | {
                "tasks": content_hash([[task.name, task.content_hash] for task in self.tasks]),
                "prompt": content_hash(prompt),
            }
            | {key: self.served.get(key) for key in TOLD_BY_SERVER}
            | ({"family": source} if (source := family_of(self.tasks[0]).source) else {})
        )

    def changes(self) -> list[str]:
        """What differs from the config that the cell which lies there was made with: `key: old -> new`.

        Raises:
            UserError: A folder lies in the place of its `cell.json`, which no `--fresh` could replace.
        """
        try:
            record = read_cell_file(self.folder / CELL_FILE) if self.exists() else None
        except UserError as error:
            if (self.folder / CELL_FILE).is_dir():
                raise
            return [error.message]
        return changed_keys(record.config, self.decisive, unknown=TOLD_BY_SERVER) if record else []

    def others(self) -> dict[str, list[str]]:
        """Finished episodes of another config that lie there, in words, and what differs."""
        changes = self.changes()
        return {f"{self.folder} holds finished episodes": changes} if changes and any(graded(self.folder)) else {}

    def exists(self) -> bool:
        """Whether an earlier run wrote its `cell.json`."""
        return (self.folder / CELL_FILE).exists()

    def _record(self) -> CellRecord | None:
        """The `cell.json` of an earlier run with this config."""
        return read_cell_file(self.folder / CELL_FILE) if self.exists() and not self.changes() else None

    def remarks(self) -> list[str]:
        """What a reader must know of the model that played: said when the cell is written, and by every report."""
        found = [*self.served.get("remarks", ())]
        if record := self._record():
            found = [*record.remarks, *found]
            for key, words in TOLD_BY_SERVER.items():
                before, now = record.config.get(key), self.decisive[key]
                if before is not None and now is None:
                    found.append(f"{words} can no longer be told, so later episodes may be of another model")
                if before is None and now is not None:
                    found.append(f"{words} could not be told when earlier episodes were played")
        return list(dict.fromkeys(found))

    def recorded(self) -> tuple[dict[str, Verdict], list[BadTrace]]:
        """Verdicts of the episodes that lie there graded, by task name, and the files that should be such and are none.

        None where the cell was made with another config.

        Raises:
            UserError: A verdict that a killed run missed cannot be written.
        """
        verdicts: dict[str, Verdict] = {}
        broken: list[BadTrace] = []
        if self.changes():
            return verdicts, broken
        for due in dues(self.folder, self.decisive, {task.name: task.content_hash for task in self.tasks}):
            trace = read_record(due, mend=True)
            if isinstance(trace, BadTrace):
                broken.append(trace)
            elif trace is not None and trace.verdict is not None:
                verdicts[due.task] = trace.verdict
        return verdicts, broken

    def summarise(self) -> None:
        """Write the summaries, where there are none: who adds an episode takes them away first.

        Raises:
            UserError: They cannot be written.
        """
        if traces_in(self.folder) and not self._summaries():
            write_summaries(self.folder)

    def drop_summaries(self) -> None:
        """Take the summaries away: they do not tell of the next episode, and no time shows it, as clocks are set."""
        for path in self._summaries():
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an earlier config left: its traces, verdicts, summaries and `cell.json`, nothing else.

        The last goes last: as long as a trace is left, it tells of which config.
        """
        for path in traces_in(self.folder):
            remove_trace(path)
        self.drop_summaries()
        for name in (CELL_CONFIG, CELL_FILE):
            (self.folder / name).unlink(missing_ok=True)

    def _summaries(self) -> list[Path]:
        return [path for path in self.folder.glob("summary_*.json") if not path.is_dir()]

    def write(self) -> None:
        """Write `cell.json`; what was known of the model when the first episodes were played stays."""
        self._write(self._made())

    def successor(self) -> Callable[[], None]:
        """What puts this cell in the place of one that was made with another config.

        Raises:
            UserError: A reference is no score. (The function: what lies there may not be removed, or the disk is full.)
        """
        record = self._made()

        def replace() -> None:
            self.clear()
            self._write(record)

        return replace

    def _write(self, record: CellRecord) -> None:
        write_atomic(self.folder / CELL_CONFIG, self.config.written_in(self.folder))
        write_json(self.folder / CELL_FILE, record.model_dump(mode="json", by_alias=True))

    def _made(self) -> CellRecord:
        first, before = self.tasks[0], self._record()
        known = {key: before.config[key] for key in TOLD_BY_SERVER if before and before.config.get(key) is not None}
        decisive = self.decisive | known
        served = {key: value for key, value in self.served.items() if key not in ("remarks", "trained_for")}
        return CellRecord(
            schema=CELL_SCHEMA,
            name=self.config.name,
            adapter=self.config.adapter,
            trained_for=self._trained_for(before),
            runtime=self.config.runtime,
            family=first.family,
            difficulty="+".join(sorted({task.difficulty for task in self.tasks})),
            rules=first.public.get("rules"),
            optimum=all(task.reference for task in self.tasks),
            policies=dict(family_of(first).policies),
            digest=content_hash(decisive),
            config=decisive,
            remarks=tuple(self.remarks()),
            server={"base_url": self.config.base_url, **served},
            isolation=self.config.isolation,
            versions={"keepstate": __version__, "python": platform.python_version()},
            written_at=datetime.now(UTC).isoformat(timespec="seconds"),
            tasks={
                task.name: TaskEntry.model_validate({"hash": task.content_hash, **_references(task)})
                for task in self.tasks
            },
        )

    def _trained_for(self, before: CellRecord | None) -> TrainedFor | None:
        """What the adapter was trained for; what a card told once stays where it is no longer told."""
        told: TrainedFor | None = self.served.get("trained_for") or by_name(self.config.adapter)
        known = before.trained_for if before else None
        return known if known and (told is None or not told.training) else told


def make_cell(
    config: BenchmarkConfig,
    run: Path,
    served: Mapping[str, Any] | None = None,
    tasks: Sequence[Task] | None = None,
) -> Cell:
    """The cell of `config` in the folder of a run.

    Args:
        config: What to play.
        run: Folder of the run.
        served: What the server says of the model.
        tasks: Those of `config.tasks`, where they are loaded already.

    Raises:
        UserError: The tasks cannot be had, or two have one name.
    """
    tasks = tuple(config.tasks.load() if tasks is None else tasks)
    if len({task.name for task in tasks}) < len(tasks):
        raise UserError(f"{config.name}: two tasks have the same family and task_id", "give each its own task_id")
    return Cell(config, tasks, run / config.name, served or {})


def dues(folder: Path, config: Mapping[str, Any], tasks: Mapping[str, str]) -> Iterator[Due]:
    """The episodes of a cell.

    Args:
        folder: Of the cell.
        config: Its `decisive`, as `cell.json` has it.
        tasks: Content hashes of its tasks, by name.
    """
    for name, content in tasks.items():
        yield Due(folder, name, content, config)


_KNOWN: dict[str, dict[str, float]] = {}


def _references(task: Task) -> dict[str, float]:
    """`reference_scores`, once for all cells that play the task (2 ms for a medium one).

    Raises:
        UserError: One is no score.
    """
    key = task.content_hash
    if key not in _KNOWN:
        try:
            _KNOWN[key] = TaskEntry.model_validate({"hash": key, **reference_scores(task)}).references
        except ValidationError as error:
            raise UserError(
                f"{task.name}: a reference policy of the family {task.family!r} has no score in [0, 1]:"
                f" {explain(error, TaskEntry).message}",
                "mend reference_scores of that family",
            ) from error
    return _KNOWN[key]


class TaskEntry(BaseModel):
    """A task of a cell: its hash, and under the name of each reference policy of its family what that scores on it."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: dict[str, Annotated[float, Field(strict=True, ge=0, le=1)]]

    hash: str
    """SHA-256 of the problem itself, as in its traces."""

    @property
    def references(self) -> dict[str, float]:
        """Scores by policy."""
        return dict(self.__pydantic_extra__)


class CellRecord(BaseModel):
    """One cell: what decides its results, and which tasks belong to it."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    schema_: Literal["keepstate.cell.v1"] = Field(alias="schema")
    name: str
    """Also that of its folder."""
    adapter: str = Field(pattern=ADAPTER_NAME)
    """Who is measured: `base`, or an adapter by its name."""
    trained_for: TrainedFor | None = None
    """What it was trained for; null where that is not known. A cell without the key is of the base, or of an adapter
    that was trained for the runtime it is named after."""
    runtime: RuntimeName
    """Where it acts."""
    family: str
    """Of the tasks."""
    difficulty: str
    """Of the tasks; several are joined by +."""
    rules: str | None
    """Of the tasks; null where their family has none."""
    optimum: bool = True
    """Whether the best answer of every task is known, so that a score is a share of the optimum."""
    policies: dict[str, str] = {}
    """Reference policies of the family and what they do; empty where it has none, and in older cells."""
    digest: str
    """SHA-256 of `config`."""
    config: dict[str, Any]
    """What decides the results: keys of the benchmark config, hashes of tasks and system prompt, and what is known of
    the model that plays (`weights`, `adapter_config`, `base`, `template`, `kv_cache`; null where it is not), and
    `family`, file and SHA-256 of a family that is not keepstate's. Another one in the same folder is refused."""
    remarks: tuple[str, ...] = ()
    """What a reader must know of the model that played."""
    server: dict[str, Any] = {}
    """Where it was played, and what that server told of the model; for people."""
    isolation: str | None = None
    """Rung of the sandbox that was asked for; each trace tells which it was."""
    versions: dict[str, str] = {}
    """Of keepstate and Python."""
    written_at: str | None = None
    """ISO 8601, UTC."""
    tasks: dict[Annotated[str, Field(pattern=r"^[^\x00]+$")], TaskEntry]
    """By name."""

    @model_validator(mode="before")
    @classmethod
    def _as_older_versions_wrote(cls, raw: Any) -> Any:
        """They had no other adapters than those of single runtimes."""
        if not isinstance(raw, dict) or "trained_for" in raw or not isinstance(raw.get("adapter"), str):
            return raw
        return raw | {"trained_for": by_name(raw["adapter"])}

    @field_validator("config")
    @classmethod
    def _tells_what_is_read_back(cls, config: dict[str, Any]) -> dict[str, Any]:
        for key, kind in (("runtime", str), ("seed", int), ("limits", dict)):
            if not isinstance(config.get(key), kind):
                raise ValueError(f"{key} is missing or no {kind.__name__}")
        for key, kind in (("base", dict), ("model", str)):
            if not isinstance(config.get(key), kind | None):
                raise ValueError(f"{key} is neither null nor a {kind.__name__}")
        turns = config["limits"].get("turns", 0)
        if type(turns) is not int or not 0 <= turns <= MOST_TURNS:
            raise ValueError("limits.turns is no count")
        return config | {"limits": _flat(config["limits"])}


def _flat(limits: dict[str, Any]) -> dict[str, Any]:
    """Limits as they are written now: those of one action lay nested under `runtime`, with `seconds` of their own."""
    if not isinstance(action := limits.get("runtime"), dict):
        return limits
    named = {"action_seconds" if key == "seconds" else key: value for key, value in action.items()}
    return {key: value for key, value in limits.items() if key != "runtime"} | named


def read_cell_file(path: Path) -> CellRecord:
    """A `cell.json`.

    Raises:
        UserError: It is none.
    """
    try:
        raw = parse_json(path.read_bytes())
        if _SURROGATE.search(canonical_json(raw)):
            raise ValueError("it holds a lone surrogate, with which no report can be written")
        return CellRecord.model_validate(raw)
    except (OSError, ValueError, RecursionError) as error:
        reason = explain(error, CellRecord).message if isinstance(error, ValidationError) else str(error)
        raise UserError(
            f"{path}: not a {CELL_SCHEMA} file: {reason}", f"move {path.parent} away, or choose another --run"
        ) from error
