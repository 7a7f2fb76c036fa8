"""Counting traces: the figures of one folder, in the research code's summary file and for the terminal.

Only graded episodes enter an average; those we failed are counted beside it, by origin. Makes no intervals and compares
nothing: that is `keepstate.report`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, median

from typing_extensions import TypedDict

from keepstate.files import write_json
from keepstate.traces.reader import BadTrace, iter_traces
from keepstate.traces.record import Trace

NO_VERDICT = "no verdict"
"""Of episodes that no failure of ours ended and nobody graded: imported ones."""


class MetricFigures(TypedDict):
    """One metric over the graded episodes that have it."""

    mean: float
    """The mean."""
    median: float
    """Half of them lie above."""
    min: float
    """The least."""
    max: float
    """The greatest."""


class EpisodeFigures(TypedDict):
    """The figures of some episodes: the research code's keys, then ours.

    Averages are over graded episodes, null where there is none.
    """

    average_is_solved: float | None
    """Share that were solved."""
    average_runtime: float | None
    """Wall-clock seconds; null where those of one are not known."""
    average_steps: float | None
    """Answers."""
    average_total_tokens: float | None
    """Of prompts and answers, summed over the calls of an episode; null where those of one are not known."""
    metrics: dict[str, MetricFigures]
    """Whatever else the family counts, by name; where that is `weight_used` and `capacity`, `capacity_utilization`, the
    share of the one in the other."""
    num_tasks_executed: int
    """Episodes in all."""
    num_tasks_solved: int
    """Solved ones."""
    num_graded: int
    """Graded ones."""
    num_not_graded: dict[str, int]
    """The others, by where a failure of ours arose; `no verdict` where none did, as in imported traces."""
    average_score: float | None
    """In [0, 1]."""
    average_prompt_tokens: float | None
    """As `average_total_tokens`, of what was sent."""
    average_completion_tokens: float | None
    """As `average_total_tokens`, of what was answered."""
    missing_variable_share: float | None
    """Share in which the agent relied on a name without a value (`NameError`, `UnboundLocalError`)."""
    episodes_with_error: dict[str, int]
    """Graded episodes with an error of the agent's own, by its class."""
    finish_reasons: dict[str, int]
    """Episodes by why they ended."""
    rungs: dict[str, int]
    """Episodes by how model-written code was isolated."""


def summarise(traces: Iterable[Trace]) -> EpisodeFigures:
    """The figures of some episodes."""
    episodes = list(traces)
    graded = [trace for trace in episodes if trace.verdict is not None]
    verdicts = [trace.verdict for trace in graded if trace.verdict is not None]
    usages = [trace.summary.token_usage for trace in graded]
    failed = Counter(
        str(trace.failure.origin) if trace.failure else NO_VERDICT for trace in episodes if not trace.verdict
    )
    errors = Counter(name for trace in graded for name in trace.summary.errors)
    return {
        "average_is_solved": mean([float(verdict.is_solved) for verdict in verdicts]),
        "average_runtime": mean([seconds(trace) for trace in graded]),
        "average_steps": mean([trace.summary.num_steps for trace in graded]),
        "average_total_tokens": mean([usage.total_tokens for usage in usages]),
        "metrics": _metrics([verdict.metrics for verdict in verdicts]),
        "num_tasks_executed": len(episodes),
        "num_tasks_solved": sum(verdict.is_solved for verdict in verdicts),
        "num_graded": len(graded),
        "num_not_graded": dict(sorted(failed.items())),
        "average_score": mean([verdict.score for verdict in verdicts]),
        "average_prompt_tokens": mean([usage.prompt_tokens for usage in usages]),
        "average_completion_tokens": mean([usage.completion_tokens for usage in usages]),
        "missing_variable_share": mean([float(trace.missed_variable) for trace in graded]),
        "episodes_with_error": dict(sorted(errors.items())),
        "finish_reasons": dict(sorted(Counter(str(trace.finish_reason) for trace in episodes).items())),
        "rungs": dict(sorted(Counter(str(trace.rung) for trace in episodes if trace.rung).items())),
    }


def without_text(trace: Trace) -> Trace:
    """A trace without what was said and done: all that `summarise` reads. 100,000 whole ones take 6 GB, these .9."""
    return trace.model_copy(update={"messages": (), "events": ()})


def summary_path(folder: Path, agent: str, family: str) -> Path:
    """Where the summary of one kind of agent on one family lies."""
    return folder / f"summary_{agent}-{family}.json"


def write_summaries(folder: Path) -> list[Path]:
    """Write `summary_<agent>-<family>.json` for the traces in `folder`; unreadable ones are left out.

    Returns:
        The files written.

    Raises:
        UserError: No such folder, or it cannot be written.
    """
    groups: dict[tuple[str, str], list[Trace]] = defaultdict(list)
    for _, trace in iter_traces(folder):
        if not isinstance(trace, BadTrace):
            groups[trace.agent, trace.task.family].append(without_text(trace))
    written = []
    for (agent, family), traces in sorted(groups.items()):
        written.append(summary_path(folder, agent, family))
        write_json(written[-1], summarise(traces))
    return written


def seconds(trace: Trace) -> float | None:
    """Wall-clock seconds of an episode; None where its times are not known, as in many imported traces."""
    try:
        return (datetime.fromisoformat(trace.finished_at) - datetime.fromisoformat(trace.started_at)).total_seconds()
    except (ValueError, TypeError):  # no time; one with a time zone and one without
        return None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, None of nothing, and of values of which one is unknown."""
    known = [value for value in values if value is not None]
    return fmean(known) if values and len(known) == len(values) else None


def _metrics(rows: Sequence[dict[str, float]]) -> dict[str, MetricFigures]:
    columns: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            columns[name].append(float(value))
        if (used := row.get("weight_used")) is not None and row.get("capacity"):
            columns["capacity_utilization"].append(used / row["capacity"])
    return {
        name: {"mean": fmean(values), "median": median(values), "min": min(values), "max": max(values)}
        for name, values in sorted(columns.items())
    }
