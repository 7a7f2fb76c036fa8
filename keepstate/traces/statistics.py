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
from typing import Any

from keepstate.files import write_json
from keepstate.traces.reader import BadTrace, iter_traces
from keepstate.traces.record import Trace

NO_VERDICT = "no verdict"
"""Of episodes that no failure of ours ended and nobody graded: imported ones."""


def summarise(traces: Iterable[Trace]) -> dict[str, Any]:
    """The figures of some episodes.

    Returns:
        The research code's keys (`average_is_solved`, `average_runtime` in seconds, `average_steps`,
        `average_total_tokens`, `metrics.<name>.{mean,median,min,max}`, `num_tasks_executed`, `num_tasks_solved`), then
        ours. Averages are over graded episodes, None where there is none; tokens are summed over an episode's calls,
        and their average is None where those of an episode are unknown.
    """
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
            groups[trace.agent, trace.task.family].append(trace)
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


def _metrics(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    columns: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            columns[name].append(float(value))
    return {
        name: {"mean": fmean(values), "median": median(values), "min": min(values), "max": max(values)}
        for name, values in sorted(columns.items())
    }
