"""One episode as a column of a page: its figures in words, its turns, each made into HTML once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from keepstate.traces.pages.markup import environment
from keepstate.traces.pages.turns import Turn, opening, turns_of
from keepstate.traces.record import MISSING_VARIABLE, ErrorEvent, Trace
from keepstate.traces.summary import seconds

MOST_CLASS_CHARS = 60
"""Of the name of an error's class, which an agent's code may choose."""


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeColumn:
    """One episode."""

    task: str
    content_hash: str
    difficulty: str
    folder: str
    """Where its trace lies, from what the pages were made of."""
    file: str
    """Its trace."""
    page: str
    """Where its own page lies."""
    runtime: str
    model: str
    result: str
    """`solved`, `not solved`, `not graded`, or `failed` by a failure of ours."""
    score: float | None
    finish: str
    num_turns: int
    """All, also those that no page shows."""
    tokens: int | None
    seconds: float | None
    errors: dict[str, int]
    missed: str
    """`yes` where a turn ended in a missing variable, else `no`."""
    failure: str
    """Of ours; empty where there was none."""
    facts: tuple[tuple[str, str], ...]
    """Further figures, each with its name."""
    opening: tuple[tuple[str, str], ...]
    """Role and text of the messages before the first answer."""
    turns: tuple[Turn, ...]
    order: tuple[str, int, str, str]
    """Sorts them on the page of a task: the runtimes of one model stand together."""
    _cells: list[Markup] = field(default_factory=list)

    @classmethod
    def of(cls, trace: Trace, file: Path, page: str, folder: str) -> EpisodeColumn:
        """The column of `trace`, which was read from `file`."""
        verdict, usage = trace.verdict, trace.summary.token_usage
        ungraded = "failed" if trace.failure else "not graded"
        result = ungraded if verdict is None else "solved" if verdict.is_solved else "not solved"
        return cls(
            task=trace.task.name,
            content_hash=trace.task.content_hash,
            difficulty=trace.task.difficulty,
            folder=folder,
            file=str(file),
            page=page,
            runtime=str(trace.runtime),
            model=trace.model,
            result=result,
            score=verdict.score if verdict else None,
            finish=str(trace.finish_reason),
            num_turns=len(trace.steps),
            tokens=usage.total_tokens,
            seconds=seconds(trace),
            errors={name[:MOST_CLASS_CHARS]: count for name, count in trace.summary.errors.items()},
            missed="yes" if trace.missed_variable else "no",
            failure=_failure(trace),
            facts=_facts(trace),
            opening=tuple(opening(trace)),
            turns=tuple(turns_of(trace)),
            order=(trace.model, *trace.runtime.place, folder),
        )

    @property
    def label(self) -> str:
        """`persistent → forget`: who, in which runtime."""
        return f"{self.model} → {self.runtime}"

    @property
    def num_missing(self) -> int:
        """Turns that ended in a missing variable."""
        return sum(self.errors.get(name, 0) for name in MISSING_VARIABLE)

    def cells(self) -> list[Markup]:
        """The HTML of every turn, made once: an episode stands on its own page and on its task's."""
        if not self._cells:
            template = environment().get_template("turn.html.jinja")
            self._cells.extend(Markup(template.render(turn=turn, column=self)) for turn in self.turns)
        return self._cells


def _failure(trace: Trace) -> str:
    if trace.failure is None:
        return ""
    ends = [event.traceback for event in trace.events if isinstance(event, ErrorEvent) and event.traceback]
    return "\n".join([f"{trace.failure.origin}: {trace.failure.message}", *ends[-1:]])


def _facts(trace: Trace) -> tuple[tuple[str, str], ...]:
    usage, limits = trace.summary.token_usage, trace.limits
    found = {
        "difficulty": trace.task.difficulty,
        "isolation": trace.rung or "unknown",
        "prompt tokens": _count(usage.prompt_tokens),
        "of these cached": _count(usage.cached_tokens),
        "completion tokens": _count(usage.completion_tokens),
        "seed": str(trace.seed),
        "started": trace.started_at,
        "sampling": ", ".join(f"{name} {value}" for name, value in (trace.sampling or {}).items()) or "none",
    }
    if limits:
        found["limits"] = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in limits)
    if trace.verdict:
        found |= {name.replace("_", " "): f"{value:g}" for name, value in trace.verdict.metrics.items()}
    return tuple(found.items())


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else f"{tokens:,}"
