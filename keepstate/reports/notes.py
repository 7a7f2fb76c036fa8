"""What a reader must know before believing a table: what is missing, and where cells differ beyond what is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from keepstate.reports.figures import CellFigures
from keepstate.reports.words import counted
from keepstate.vocabulary import FinishReason, Rung

SAME = ("limits", "sampling", "context", "nothink", "seed", "prompt")
"""Settings that cells on the same tasks should share (the prompt and the time limit within one runtime)."""


def notes(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Remarks on one group of cells; none where all is well."""
    lost = [f"{f.cell.label} {_origins(f)}" for f in figures if f.cell.not_graded]
    if lost:
        yield f"Not graded by a failure of ours, and in no figure: {'; '.join(lost)}."
    for figure in figures:
        yield from _cell_notes(figure)
    yield from _differences(figures)
    unsafe = [f.cell.label for f in figures if Rung.PROCESS in f.rungs]
    if unsafe:
        yield f"Model-written code ran without a sandbox in: {', '.join(unsafe)}."


def _cell_notes(figure: CellFigures) -> Iterator[str]:
    cell = figure.cell
    if cell.missing:
        yield f"{cell.label}: {counted(cell.missing, 'task')} not played yet; the figures are of the others."
    for reason in cell.unreadable:
        yield f"{cell.label}: unreadable, left out: {reason}."
    late = figure.endings.get(FinishReason.TIME_LIMIT, 0)
    if late:
        yield f"{cell.label}: {counted(late, 'episode')} ended by the time limit, which depends on the machine's load."
    uncounted = sum(episode.tokens is None for episode in cell.episodes)
    if uncounted:
        yield f"{cell.label}: the tokens of {counted(uncounted, 'episode')} are not known, so none are shown."
    if figure.n == 1:
        yield f"{cell.label}: one episode, so no interval."


def _origins(figure: CellFigures) -> str:
    lost = figure.cell.not_graded
    return f"{sum(lost.values())} ({', '.join(f'{origin} {count}' for origin, count in lost.items())})"


def _differences(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Settings in which cells differ although they should not."""
    for runtime in sorted({figure.cell.runtime for figure in figures}):
        cells = [figure.cell for figure in figures if figure.cell.runtime is runtime]
        for key in SAME:
            values = Counter(_text(cell.config.get(key)) for cell in cells)
            if len(values) > 1:
                yield f"Cells in the {runtime} runtime differ in {key}: {'; '.join(sorted(values))}."
    names = Counter(figure.cell.label for figure in figures)
    for label, count in names.items():
        if count > 1:
            yield f"{label} was measured {count} times; comparisons use the first."


def _text(value: Any) -> str:
    text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) < 200 else f"{text[:200]}..."
