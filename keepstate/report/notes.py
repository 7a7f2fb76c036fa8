"""What a reader must know before believing a table: what is missing, and where cells differ beyond what is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from keepstate.bench.results import CellResult
from keepstate.files import content_hash
from keepstate.report.figures import CellFigures
from keepstate.report.words import counted
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
    yield from _different_models(figures)
    unsafe = [f.cell.label for f in figures if Rung.PROCESS in f.rungs]
    if unsafe:
        yield f"Model-written code ran without a sandbox in: {', '.join(unsafe)}."


def _cell_notes(figure: CellFigures) -> Iterator[str]:
    cell = figure.cell
    if cell.missing:
        where = " or in a file that cannot be read" if cell.unreadable else ""
        yield f"{cell.label}: {counted(cell.missing, 'task')} not played yet{where}; the figures are of the others."
    repeats = len(cell.episodes) - figure.n
    if repeats:
        yield (
            f"{cell.label}: {counted(len(cell.episodes), 'graded episode')} of {counted(figure.n, 'task')}: repeats of"
            " a task are averaged, and n counts tasks."
        )
    yield from (f"{cell.label}: {remark}." for remark in cell.remarks)
    for reason in cell.unreadable:
        yield f"{cell.label}: unreadable, left out: {reason}."
    late = figure.endings.get(FinishReason.TIME_LIMIT, 0)
    if late:
        yield f"{cell.label}: {counted(late, 'episode')} ended by the time limit, which depends on the machine's load."
    uncounted = sum(episode.tokens is None for episode in cell.episodes)
    if uncounted:
        yield f"{cell.label}: the tokens of {counted(uncounted, 'episode')} are not known, so none are shown."
    if figure.n == 1:
        yield f"{cell.label}: one task, so no interval."


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


def different_tasks(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Where rows are not about the same tasks."""
    planned = Counter(frozenset(figure.cell.tasks.values()) for figure in figures)
    if len(planned) > 1:
        usual = planned.most_common(1)[0][0]
        others = [f.cell for f in figures if frozenset(f.cell.tasks.values()) != usual]
        each = ", ".join(f"{cell.label} {len(set(cell.tasks.values()))}" for cell in others)
        yield (
            f"Not all cells have the same tasks (most {len(usual)}; {each}): a row is about its own tasks, a comparison"
            " about those that both cells have."
        )


def _different_models(figures: Sequence[CellFigures]) -> Iterator[str]:
    """Where cells were played on other base models, or one adapter had other contents, as far as these are known."""
    cells = [figure.cell for figure in figures]
    if differing := _parted(cells, "base"):
        yield f"The cells were played on different base models: {differing}."
    if differing := _parted(cells, "template"):
        yield f"The cells were played with different chat templates: {differing}."
    for model in dict.fromkeys(cell.config.get("model") for cell in cells):
        served = [cell for cell in cells if cell.config.get("model") == model]
        for key, words in (("weights", "weights"), ("adapter_config", "configuration")):
            if differing := _parted(served, key):
                yield f"The adapter {model} was not played with the same {words} in all cells: {differing}."


def _parted(cells: Sequence[CellResult], key: str) -> str:
    """The cells by what their config says under `key`; empty where all that say anything say the same."""
    parts: dict[str, list[str]] = {}
    for cell in cells:
        if (value := cell.config.get(key)) is not None:
            parts.setdefault(content_hash(value), []).append(f"{cell.label} {_identity(value)}")
    return "; ".join(", ".join(labels) for labels in parts.values()) if len(parts) > 1 else ""


def _identity(value: Any) -> str:
    """A name, or the beginning of a hash."""
    if isinstance(value, dict):
        return str(value.get("name") or content_hash(value)[:12])
    return str(value)[:12]


def _text(value: Any) -> str:
    text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) < 200 else f"{text[:200]}..."
