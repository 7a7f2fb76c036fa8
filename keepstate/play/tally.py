"""How far the episodes of a folder are: counted as they end, shown by a display, reported in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from keepstate.tasks.base import Verdict
from keepstate.traces.reader import BadTrace
from keepstate.traces.record import Trace, known_sum
from keepstate.vocabulary import Origin


@dataclass
class Tally:
    """One cell of a benchmark, or one runtime of a collection. Changes in place."""

    name: str
    folder: Path
    """Where its episodes are recorded."""
    total: int
    """Episodes in all."""
    kept: int = 0
    """Graded by an earlier run."""
    played: int = 0
    """Graded by this run."""
    open: int = 0
    """In play now."""
    solved: int = 0
    """Of both."""
    score: float = 0.0
    """Sum over both."""
    tokens: int | None = 0
    """Prompt and completion tokens of this run; None once an episode's are unknown."""
    failures: Counter[Origin] = field(default_factory=Counter)
    """Episodes that this run gave up, recorded without a verdict."""
    first_failure: str = ""
    trimmed: int = 0
    """Answers that began with blank lines, which are left out. See `keepstate.play.collect.Trainable`."""
    replaced: list[BadTrace] = field(default_factory=list)
    """Files of an earlier run that are no record of an episode that is asked for: it is played, and replaces them."""
    remarks: list[str] = field(default_factory=list)
    """What was noticed about the model that plays."""

    @property
    def graded(self) -> int:
        """Episodes that lie graded now."""
        return self.kept + self.played

    @property
    def done(self) -> int:
        """Episodes that are over, graded or given up."""
        return self.graded + self.failures.total()

    def keep(self, verdict: Verdict) -> None:
        """Count an episode of an earlier run."""
        self.kept += 1
        self._grade(verdict)

    def add(self, trace: Trace) -> None:
        """Count an episode of this run."""
        self.tokens = known_sum((self.tokens, trace.summary.token_usage.total_tokens))
        if trace.verdict is not None:
            self.played += 1
            self._grade(trace.verdict)
        elif trace.failure is not None:
            self.failures[trace.failure.origin] += 1
            self.first_failure = self.first_failure or f"{trace.task.name}: {trace.failure.message}"

    def _grade(self, verdict: Verdict) -> None:
        self.solved += verdict.is_solved
        self.score += verdict.score
