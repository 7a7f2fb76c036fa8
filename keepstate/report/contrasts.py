"""The contrasts of the successor study (Evaluating Agents Across Runtime Contracts, 2026) over the cells of a group.

`Q_XY(c)` is the score of an agent trained in X (P persistent, S forget) that acts in Y under a cap of c tool calls, per
task the mean over trainings and draws. Each contrast is made task by task, on the tasks that all of its cells have.
Definitions: docs/behaviour.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from keepstate.bench.results import CellResult
from keepstate.report.statistics import Estimate, bounded_mean
from keepstate.traces.record import NO_CAP, Cap
from keepstate.vocabulary import RuntimeName

Scores = Mapping[str, float]
CARRY = (RuntimeName("carry-after-cap"), RuntimeName("carry-after-cap-announced"))


@dataclass(frozen=True, slots=True)
class Contrast:
    """One contrast of cells."""

    name: str
    """`G_P(25)`, `D(25)`, `M(25)`, `T`, `A_P`, `dM`, `rescue(25)`, `rho(25)`."""
    formula: str
    """Of which cells."""
    value: Estimate
    """Mean over the tasks, with its interval; `rho`, a ratio of two means, has none."""


def contrasts(cells: Sequence[CellResult]) -> tuple[Contrast, ...]:
    """Every contrast whose cells are there."""
    scores = _scores(cells)
    caps = sorted({cap for *_, cap in scores}, key=lambda cap: math.inf if cap == NO_CAP else cap)
    found: list[Contrast] = []
    for cap in caps:
        found += _at(scores, cap)
    if len(caps) > 1:
        found += _between(scores, caps[0], caps[-1])
    return tuple(found)


_Cells = Mapping[tuple[str, RuntimeName, Cap], Scores]


def _scores(cells: Sequence[CellResult]) -> _Cells:
    """Scores by task of each trained agent in each runtime under each cap."""
    letters = {RuntimeName.PERSISTENT: "P", RuntimeName.FORGET: "S"}
    every: dict[tuple[str, RuntimeName, Cap], dict[str, list[float]]] = {}
    for cell in cells:
        trained = cell.trained_for.runtimes if cell.trained_for else ()
        cap = cell.config["limits"].get("tool_calls")
        if len(trained) == 1 and trained[0] in letters and (type(cap) is int or cap == NO_CAP):
            of_task = every.setdefault((letters[trained[0]], cell.runtime, cap), {})
            for task, mean in cell.by_task.items():
                of_task.setdefault(task, []).append(mean.score)
    return {key: {task: fmean(values) for task, values in tasks.items()} for key, tasks in every.items()}


def _cell(scores: _Cells, name: str, cap: Cap) -> Scores:
    """`PS`: trained in persistent, played in forget."""
    return scores.get((name[0], RuntimeName.PERSISTENT if name[1] == "P" else RuntimeName.FORGET, cap), {})


def _made(name: str, formula: str, bound: float, terms: Sequence[tuple[float, Scores]]) -> Iterator[Contrast]:
    """The mean over tasks of a sum of scores with their signs; nothing where a cell or a common task is missing."""
    common = sorted(set[str].intersection(*(set(scores) for _, scores in terms)))
    value = bounded_mean([sum(sign * scores[task] for sign, scores in terms) for task in common], -bound, bound)
    if value is not None:
        yield Contrast(name, formula, value)


def _at(scores: _Cells, cap: Cap) -> Iterator[Contrast]:
    pp, ps, sp, ss = (_cell(scores, name, cap) for name in ("PP", "PS", "SP", "SS"))
    yield from _made(f"G_P({cap})", "PP - PS", 1.0, [(1, pp), (-1, ps)])
    yield from _made(f"M({cap})", "PS - SS", 1.0, [(1, ps), (-1, ss)])
    yield from _made(f"D({cap})", "(PP - PS) - (SP - SS)", 2.0, [(1, pp), (-1, ps), (-1, sp), (1, ss)])
    for runtime in CARRY:
        carried = scores.get(("P", runtime, cap), {})
        for rescue in _made(f"rescue({cap})", f"P in {runtime} - PS", 1.0, [(1, carried), (-1, ps)]):
            yield rescue
            common = sorted(carried.keys() & ps.keys() & pp.keys())
            gap = fmean(pp[task] - ps[task] for task in common) if common else 0.0
            if abs(gap) > 1e-9:
                closed = fmean(carried[task] - ps[task] for task in common) / gap
                formula = f"(P in {runtime} - PS) / (PP - PS)"
                yield Contrast(f"rho({cap})", formula, Estimate(closed, None, None, len(common)))


def _between(scores: _Cells, low: Cap, high: Cap) -> Iterator[Contrast]:
    """Of the tightest and the widest cap."""
    binding, slack = ({name: _cell(scores, name, cap) for name in ("PP", "PS", "SP", "SS")} for cap in (low, high))
    gap = [(1, binding["PP"]), (-1, binding["PS"]), (-1, slack["PP"]), (1, slack["PS"])]
    other = [(-1, binding["SP"]), (1, binding["SS"]), (1, slack["SP"]), (-1, slack["SS"])]
    select = [(1, slack["PS"]), (-1, slack["SS"]), (-1, binding["PS"]), (1, binding["SS"])]
    yield from _made("A_P", f"G_P({low}) - G_P({high})", 2.0, gap)
    yield from _made("T", f"D({low}) - D({high})", 4.0, [*gap, *other])
    yield from _made("dM", f"M({high}) - M({low})", 2.0, select)
