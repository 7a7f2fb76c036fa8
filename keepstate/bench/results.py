"""The results of a run, read back from its folder: one row an episode, grouped by cell.

Reads `cell.json` and the traces beside it. Computes nothing but what stands in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from keepstate.bench.cells import CELL_FILE, CellRecord, dues, read_cell_file
from keepstate.bench.research_results import ResearchCell, research_cells
from keepstate.errors import UserError
from keepstate.files import existing_folder
from keepstate.models.base import known_sum
from keepstate.traces import BadTrace
from keepstate.traces.behaviour import Behaviour, behaviour
from keepstate.traces.reader import trace_files
from keepstate.traces.record import Trace
from keepstate.traces.recorded import read_record
from keepstate.traces.summary import mean, seconds
from keepstate.train.trained_for import TrainedFor, by_name
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

PLAY = "keepstate bench matrix --difficulty easy"
"""What makes results, for hints."""


class Fit(StrEnum):
    """What training and runtime are to each other in a cell."""

    MATCHED = "matched"
    """Trained for the runtime it ran in, alone or among others."""
    MISMATCHED = "mismatched"
    """Trained for others only."""
    BASE = "base"
    """Not trained."""
    UNKNOWN = "unknown"
    """Nothing tells what it was trained for."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One graded episode."""

    task: str
    task_hash: str
    """What pairs two episodes: the problem, whatever its name."""
    score: float
    solved: bool
    steps: int
    prompt_tokens: int | None
    """Summed over the calls of the episode, so a token that is sent at every turn counts every time.
    None where the server did not count."""
    completion_tokens: int | None
    cached_tokens: int | None
    missed_variable: bool
    seconds: float | None
    """None where the trace does not tell."""
    started_at: str
    finish_reason: FinishReason
    rung: str
    errors: tuple[str, ...]
    """Classes of the agent's own errors."""
    behaviour: Behaviour
    """How the agent used its runtime."""

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens."""
        return known_sum((self.prompt_tokens, self.completion_tokens))


@dataclass(frozen=True, slots=True)
class TaskMean:
    """One task of a cell: the mean of its graded episodes, of which there are several where it lies under several ids.

    They are one problem, so they count as one observation.
    """

    task_hash: str
    episodes: int
    score: float
    solved: float
    steps: float
    tokens: float | None
    """None where those of an episode are not known."""
    completion_tokens: float | None
    missed_variable: float

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> TaskMean:
        """The mean of the episodes of one task."""
        return cls(
            task_hash=episodes[0].task_hash,
            episodes=len(episodes),
            score=fmean(episode.score for episode in episodes),
            solved=fmean(episode.solved for episode in episodes),
            steps=fmean(episode.steps for episode in episodes),
            tokens=mean([episode.tokens for episode in episodes]),
            completion_tokens=mean([episode.completion_tokens for episode in episodes]),
            missed_variable=fmean(episode.missed_variable for episode in episodes),
        )


@dataclass(frozen=True)
class CellResult:
    """One cell: what was played, how it went, and what of it is not graded."""

    name: str
    folder: Path
    adapter: str
    runtime: RuntimeName
    family: str
    difficulty: str
    rules: str | None
    digest: str
    tasks: dict[str, str]
    """Content hash of every task that belongs to the cell, by its name."""
    config: dict[str, Any]
    references: dict[str, dict[str, float]]
    """Scores of the reference policies that the family has, by content hash of the task."""
    episodes: tuple[Episode, ...]
    failed: dict[str, Origin]
    """Where the failure of ours arose that ended the episode, by name of the task: not graded."""
    missing: int
    """Tasks without any record."""
    unreadable: tuple[str, ...]
    """Files that should be traces and are not, with reasons."""
    unread: frozenset[str] = field(default=frozenset(), kw_only=True)
    """Tasks whose trace is among these, so nobody knows what came of them; counted as `missing`."""
    remarks: tuple[str, ...]
    """What was noticed about the model when the cell was played."""
    optimum: bool = True
    """Whether scores are shares of an optimum: the best answer of every task is known."""
    adapter_folder: Path | None = None
    """Where the adapter lay when the cell was played, as far as its server told."""
    played_with: Mapping[str, Any] = field(default_factory=dict)
    """Versions, sandbox asked for, arguments of the server, when it was written: as far as `cell.json` has them."""
    told_apart_by: str = ""
    """What tells it from others of the same adapter in the same runtime beside it; see `keepstate.report.model`."""
    trained_for: TrainedFor | None = None
    """What the adapter was trained for; None where that is not known."""

    @property
    def fit(self) -> Fit:
        """What training and runtime are to each other."""
        if self.trained_for is None:
            return Fit.UNKNOWN
        if not self.trained_for.runtimes:
            return Fit.BASE
        return Fit.MATCHED if self.runtime in self.trained_for.runtimes else Fit.MISMATCHED

    @property
    def training_order(self) -> tuple[bool, int, list[tuple[int, str]]]:
        """Sorts by what was trained for: the base, one runtime, several, not known."""
        of = self.trained_for.runtimes if self.trained_for else ()
        return self.trained_for is None, len(of), [runtime.place for runtime in of]

    @property
    def is_specialist(self) -> bool:
        """Whether it was trained for its runtime and no other."""
        return self.trained_for is not None and self.trained_for.runtimes == (self.runtime,)

    @property
    def label(self) -> str:
        """`persistent → forget`: who, in which runtime; `persistent → forget (seed 2)` where that is not enough."""
        label = f"{self.adapter} → {self.runtime}"
        return f"{label} ({self.told_apart_by})" if self.told_apart_by else label

    @property
    def measure(self) -> str:
        """What its scores are called: `optimality`, or `score` where no optimum is known."""
        return "optimality" if self.optimum else "score"

    @property
    def not_graded(self) -> dict[Origin, int]:
        """Episodes that a failure of ours ended, by where it arose."""
        return dict(sorted(Counter(self.failed.values()).items()))

    @cached_property
    def by_task(self) -> dict[str, TaskMean]:
        """What was graded, one entry a task, by content hash."""
        return {task_hash: TaskMean.of(episodes) for task_hash, episodes in self.played.items()}

    @cached_property
    def played(self) -> dict[str, list[Episode]]:
        """The graded episodes of each task, by content hash."""
        groups: dict[str, list[Episode]] = {}
        for episode in self.episodes:
            groups.setdefault(episode.task_hash, []).append(episode)
        return groups


def read_results(run: Path, *, on_progress: Callable[[tuple[int, int]], None] = lambda _: None) -> list[CellResult]:
    """Every cell of a run, by difficulty, then runtime, then adapter: what compares directly stands together.

    The base comes first, then adapters of one runtime, of several, of none that is known. Result folders of the
    research code are cells as well, where there is no `cell.json`.

    Args:
        run: Its folder, or that of one cell.
        on_progress: Called before each episode with how many were read, and how many there may be.

    Raises:
        UserError: There is no such folder, or it holds no cell.
    """
    existing_folder(run, "results", PLAY)
    files = [run / CELL_FILE] if (run / CELL_FILE).exists() else sorted(run.glob(f"*/{CELL_FILE}"))
    records = [(path.parent, read_cell_file(path)) for path in files]
    total, numbers = sum(len(record.tasks) for _, record in records), count()
    cells = [
        _of_record(folder, record, lambda: on_progress((min(next(numbers), total), total)))
        for folder, record in records
    ] or [_of_research(cell) for cell in research_cells(run)]
    if not cells:
        raise UserError(f"no benchmark results in {run}", f"run a benchmark first: {PLAY}")
    return sorted(cells, key=lambda c: (c.difficulty, c.runtime.place, c.training_order, c.name))


def _of_record(folder: Path, cell: CellRecord, on_episode: Callable[[], None]) -> CellResult:
    tasks = cell.tasks
    episodes: list[Episode] = []
    failed: dict[str, Origin] = {}
    expected = {due.path: due for due in dues(folder, cell.config, {name: task.hash for name, task in tasks.items()})}
    found, closed = trace_files(folder)
    unread: set[str] = set()
    unreadable = [f"{each.path.relative_to(folder)}: {each.reason}" for each in closed]
    for path in sorted(expected.keys() | set(map(Path, found))):
        on_episode()
        trace = read_record(expected[path]) if path in expected else BadTrace(path, f"of no task in {CELL_FILE}")
        if isinstance(trace, BadTrace):
            unreadable.append(f"{path.relative_to(folder)}: {trace.reason}")
            unread |= {expected[path].task} if path in expected else set()
        elif trace is not None and trace.failure is not None:
            failed[trace.task.name] = trace.failure.origin
        elif trace is not None and trace.verdict is not None:
            episodes.append(_episode(trace))
    return CellResult(
        name=cell.name,
        folder=folder.resolve(),
        adapter=cell.adapter,
        runtime=cell.runtime,
        family=cell.family,
        difficulty=cell.difficulty,
        rules=cell.rules,
        digest=cell.digest,
        tasks={name: task.hash for name, task in tasks.items()},
        config=cell.config,
        references={task.hash: task.references for task in tasks.values()},
        episodes=tuple(sorted(episodes, key=lambda episode: episode.task)),
        failed=failed,
        missing=len(tasks) - len(episodes) - len(failed),
        unreadable=tuple(unreadable),
        unread=frozenset(unread),
        remarks=cell.remarks,
        optimum=cell.optimum,
        adapter_folder=Path(root) if isinstance(root := cell.server.get("root"), str) else None,
        played_with={
            "versions": cell.versions,
            "isolation": cell.isolation,
            "vllm_arguments": cell.server.get("vllm_arguments"),
            "written_at": cell.written_at,
        },
        trained_for=cell.trained_for,
    )


def _of_research(cell: ResearchCell) -> CellResult:
    graded = [trace for trace in cell.traces if trace.verdict is not None and trace.failure is None]
    failed = {trace.task.name: trace.failure.origin for trace in cell.traces if trace.failure is not None}
    return CellResult(
        name=cell.name,
        folder=cell.folder.resolve(),
        adapter=cell.adapter,
        runtime=cell.runtime,
        family=cell.traces[0].task.family,
        difficulty=cell.difficulty,
        rules=None,
        digest=cell.digest,
        tasks={trace.task.name: trace.task.content_hash for trace in cell.traces},
        config=cell.config,
        references={},
        episodes=tuple(sorted(map(_episode, graded), key=lambda episode: episode.task)),
        failed=failed,
        missing=len(cell.traces) - len(graded) - len(failed),
        unreadable=tuple(cell.unreadable),
        remarks=("results of the research code, whose environments and prompts are not keepstate's",),
        trained_for=by_name(cell.adapter),
    )


def _episode(trace: Trace) -> Episode:
    assert trace.verdict is not None
    usage = trace.summary.token_usage
    return Episode(
        task=trace.task.name,
        task_hash=trace.task.content_hash,
        score=trace.verdict.score,
        solved=trace.verdict.is_solved,
        steps=trace.summary.num_steps,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        missed_variable=trace.missed_variable,
        seconds=seconds(trace),
        started_at=trace.started_at,
        finish_reason=trace.finish_reason,
        rung=str(trace.rung) if trace.rung else "unknown",
        errors=tuple(trace.summary.errors),
        behaviour=behaviour(trace),
    )
