"""How far the episodes of a folder are: counted as they end, shown by a display, reported in the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keepstate.display import Bar, Display
from keepstate.live import LiveRow, LiveView
from keepstate.models.base import known_sum
from keepstate.tasks.base import Verdict
from keepstate.traces.observations import cut
from keepstate.traces.reader import BadTrace
from keepstate.traces.record import Trace
from keepstate.traces.writer import Staged
from keepstate.vocabulary import Origin

if TYPE_CHECKING:
    from rich.console import Console

MOST_CHARS = 2_000
"""Told of a failure: a family's error may quote all that the agent sent."""
MOST_NAMED = 10
"""Files named that are no record: episodes played again."""


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
    prompt_tokens: int | None = 0
    """Of these, those of prompts; and of them those that the server's cache had, where it says."""
    cached_tokens: int | None = 0
    failures: Counter[Origin] = field(default_factory=Counter)
    """Episodes that this run gave up, recorded without a verdict."""
    first_failure: str = ""
    last_failures: tuple[str, ...] = ()
    trimmed: int = 0
    """Answers that began with blank lines, which are left out. See `keepstate.play.collect.Trainable`."""
    replaced: list[BadTrace] = field(default_factory=list)
    """Files of an earlier run that are no record of an episode that is asked for: it is played, and replaces them."""
    remarks: list[str] = field(default_factory=list)
    """What was noticed about the model that plays."""
    lost: list[str] = field(default_factory=list)
    """Servers that went away while others go on, in words; who says so takes them out."""

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

    def add(self, trace: Trace | Staged) -> None:
        """Count an episode of this run."""
        usage = trace.summary.token_usage
        self.tokens = known_sum((self.tokens, usage.total_tokens))
        self.prompt_tokens = known_sum((self.prompt_tokens, usage.prompt_tokens))
        self.cached_tokens = known_sum((self.cached_tokens, usage.cached_tokens))
        if trace.verdict is not None:
            self.played += 1
            self._grade(trace.verdict)
        elif trace.failure is not None:
            self.failures[trace.failure.origin] += 1
            from keepstate.traces.view import printable  # rich

            words = cut(printable(f"{trace.summary.task.name}: {trace.failure.message}"), MOST_CHARS)
            self.first_failure = self.first_failure or words
            self.last_failures = (*self.last_failures[1 - MOST_NAMED :], words)

    def _grade(self, verdict: Verdict) -> None:
        self.solved += verdict.is_solved
        self.score += verdict.score

    def figures(self) -> dict[str, Any]:
        """What came of it so far, for programs. A mean over nothing is None."""
        return {
            "folder": str(self.folder),
            "total": self.total,
            "kept": self.kept,
            "played": self.played,
            "solved": self.solved,
            "mean_score": self.score / self.graded if self.graded else None,
            "tokens": self.tokens,
            "failures": {str(origin): count for origin, count in sorted(self.failures.items())},
            "first_failure": self.first_failure or None,
            "remarks": self.remarks,
        }

    def words(self) -> str:
        """What came of it so far, for people."""
        words = f"{self.done}/{self.total}, solved {self.solved}"
        if self.graded:
            words += f", score {100 * self.score / self.graded:.0f} %"
        if self.failures:
            words += f", not graded {self.failures.total()}"
        return words


def _cached(tallies: Sequence[Tally]) -> str:
    """What share of prompt tokens the server had in its cache; empty where it does not say, or nothing was played."""
    cached, prompts = (
        known_sum(getattr(each, name) for each in tallies) for name in ("cached_tokens", "prompt_tokens")
    )
    return f"{100 * cached / prompts:.0f} %" if cached is not None and prompts else ""


HEAD = ("cell", "episodes", "open", "solved", "score", "tokens", "cached", "not graded")
"""Of the rows of a page."""


class TallyDisplay(Display[Sequence[Tally]]):
    """Shows a run: a bar a tally, and one for all. Names files that make way at its first state."""

    remaining = True

    def __init__(self, console: Console | None = None, *, page: Path | None = None) -> None:
        super().__init__(console, page=page)
        self._started = time.monotonic()

    def __call__(self, state: Sequence[Tally]) -> None:
        """Show a new state."""
        first = self.last is None
        super().__call__(state)
        if first:
            self._tell_replaced([file for tally in state for file in tally.replaced])
        for tally in state:
            while tally.lost:
                self.say(f"{tally.lost.pop()}; its episodes begin anew on the others, and it is asked again later")

    def bars(self, state: Sequence[Tally]) -> Sequence[Bar]:
        """One a tally, then their sum."""
        done, total = sum(tally.done for tally in state), sum(tally.total for tally in state)
        bars = [Bar(tally.name, tally.done, tally.total, tally.words()) for tally in state]
        return [*bars, Bar("in all", done, total, f"{done}/{total}, {self._rate(state)}")]

    def line(self, state: Sequence[Tally]) -> str:
        """The sum."""
        done, total = sum(tally.done for tally in state), sum(tally.total for tally in state)
        failures = sum(tally.failures.total() for tally in state)
        failed = f" ({failures} failed)" if failures else ""
        return f"{done}/{total} episodes{failed}; {self._rate(state)}{self._left(state)}"

    def view(self, state: Sequence[Tally]) -> LiveView:
        """A row a tally, and what this run gave up last."""
        rows = [
            LiveRow(
                tally.name,
                tally.done,
                tally.total,
                (
                    f"{tally.done:,}/{tally.total:,}",
                    f"{tally.open}",
                    f"{tally.solved:,}",
                    f"{100 * tally.score / tally.graded:.0f} %" if tally.graded else "",
                    "unknown" if tally.tokens is None else f"{tally.tokens:,}",
                    _cached([tally]) or "unknown",
                    f"{tally.failures.total()}",
                ),
            )
            for tally in state
        ]
        failures = [f"{tally.name}: {words}" for tally in state for words in tally.last_failures]
        return LiveView(self.line(state), HEAD, rows, failures[-MOST_NAMED:])

    def _rate(self, state: Sequence[Tally]) -> str:
        took = max(time.monotonic() - self._started, 1e-9)
        played = sum(tally.done - tally.kept for tally in state)
        tokens = known_sum(tally.tokens for tally in state)
        speed = "tokens unknown" if tokens is None else f"{tokens / took:,.0f} tokens/s"
        open_now = sum(tally.open for tally in state)
        cached = f", {share} of prompts cached" if (share := _cached(state)) else ""
        return f"{open_now} open, {60 * played / took:.0f} episodes/min, {speed}{cached}"

    def _left(self, state: Sequence[Tally]) -> str:
        """By the mean of this run; empty before its first episode."""
        played = sum(tally.done - tally.kept for tally in state)
        left = sum(tally.total - tally.done for tally in state)
        minutes = (time.monotonic() - self._started) / 60 / played * left if played else 0
        return f", {minutes:.1f} min left" if minutes else ""

    def _tell_replaced(self, files: Sequence[BadTrace]) -> None:
        """Name files of an earlier run in whose place an episode is played again."""
        for file in files[:MOST_NAMED]:
            self.say(f"played again: {file.path}: {file.reason}")
        if len(files) > MOST_NAMED:
            self.say(f"played again: {len(files) - MOST_NAMED} more")
