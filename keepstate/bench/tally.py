"""How far the cells of a run are: counted as episodes end, shown by a display."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from keepstate.bench.admission import Admission
from keepstate.bench.cells import Cell
from keepstate.tasks.base import Verdict
from keepstate.traces import BadTrace
from keepstate.traces.record import Trace, known_sum
from keepstate.vocabulary import Origin


@dataclass
class CellTally:
    """How far a cell is."""

    cell: Cell
    kept: int = 0
    """Graded by an earlier run."""
    graded: int = 0
    """By this run."""
    solved: int = 0
    """Of both."""
    score: float = 0.0
    """Sum over both."""
    tokens: int | None = 0
    """Prompt and completion tokens of this run; None once an episode's are unknown."""
    not_graded: Counter[Origin] = field(default_factory=Counter)
    first_failure: str = ""
    replaced: list[BadTrace] = field(default_factory=list)
    """Files of an earlier run that are no record of an episode of this cell: it is played, and replaces them."""

    remarks: list[str] = field(default_factory=list)
    """What was noticed about the model that plays."""

    @property
    def done(self) -> int:
        """Episodes that are over, graded or given up."""
        return self.kept + self.graded + self.not_graded.total()

    def keep(self, verdict: Verdict) -> None:
        """Count an episode of an earlier run."""
        self.kept += 1
        self.solved += verdict.is_solved
        self.score += verdict.score

    def add(self, trace: Trace) -> None:
        """Count an episode of this run."""
        self.tokens = known_sum((self.tokens, trace.summary.token_usage.total_tokens))
        if trace.verdict is not None:
            self.graded += 1
            self.solved += trace.verdict.is_solved
            self.score += trace.verdict.score
        elif trace.failure is not None:
            self.not_graded[trace.failure.origin] += 1
            self.first_failure = self.first_failure or f"{trace.task.name}: {trace.failure.message}"


@dataclass
class Progress:
    """What a display may show; changes in place."""

    tallies: list[CellTally]
    admissions: dict[str, Admission]
    """By server."""
