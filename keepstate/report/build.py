"""Making a report from a run's folder, and writing all its forms.

report = build_report(Path("runs/demo"))     # writes runs/demo/report/{index.html,report.md,*.svg,*.png,report.json}
"""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from keepstate.bench.results import read_results
from keepstate.files import write_atomic, write_json
from keepstate.report.comparison import MARGIN, Comparison
from keepstate.report.figures import CellFigures
from keepstate.report.model import Report, make_report

HTML_FILE = "index.html"


def build_report(run: Path, out: Path | None = None, *, margin: float = MARGIN) -> Report:
    """Read the results in `run` and write the report.

    Args:
        run: Folder with one folder a cell.
        out: Where to; `<run>/report` where None.
        margin: Differences of optimality below it count as equivalent.

    Raises:
        UserError: No results there, or the report cannot be written.
    """
    report = make_report(run.resolve().name, read_results(run), margin=margin)
    write_report(report, out or run / "report")
    return report


def write_report(report: Report, folder: Path) -> Path:
    """Write every form of a report; returns the path of the HTML file."""
    from keepstate.report import plots  # altair takes 0.5 s
    from keepstate.report.html import html
    from keepstate.report.tables import markdown

    drawings: dict[tuple[str, str], str] = {}
    for name, plot in (("optimality", plots.optimality_plot), ("tokens", plots.tokens_plot)):
        light = plot(report, plots.LIGHT)
        drawings[name, "light"] = plots.to_svg(light)
        drawings[name, "dark"] = plots.to_svg(plot(report, plots.DARK))
        write_atomic(folder / f"{name}.svg", drawings[name, "light"])
        write_atomic(folder / f"{name}.png", plots.to_png(light))
    write_atomic(folder / "report.md", markdown(report))
    write_json(folder / "report.json", figures_json(report))
    write_atomic(folder / HTML_FILE, html(report, drawings))
    return folder / HTML_FILE


def figures_json(report: Report) -> dict[str, Any]:
    """Every figure of a report, for other programs: estimates as {value, low, high, n, level}."""
    return {
        "schema": "keepstate.report.v2",
        "name": report.name,
        "margin": report.margin,
        "groups": [
            {
                "title": group.title,
                "headline": list(group.headline),
                "shows": group.shows,
                "references": group.references,
                "notes": list(group.notes),
                "cells": [_cell_json(figures) for figures in group.figures],
                "comparisons": [comparison_json(comparison) for comparison in group.comparisons],
            }
            for group in report.groups
        ],
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The figures of one comparison."""
    names = {"first": comparison.first.name, "second": comparison.second.name}
    found = {"verdict": comparison.verdict, "tasks_needed": comparison.optimality.tasks_needed}
    return names | found | _plain(comparison, without=("first", "second"))


def _cell_json(figures: CellFigures) -> dict[str, Any]:
    cell = figures.cell
    about = {"name": cell.name, "label": cell.label, "adapter": cell.adapter, "runtime": cell.runtime}
    counts = {"digest": cell.digest, "n": figures.n, "episodes": len(cell.episodes)}
    lost = {"not_graded": cell.not_graded, "missing": cell.missing}
    return about | counts | lost | _plain(figures, without=("cell",))


def _plain(value: Any, without: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a dataclass as JSON, but for those named."""
    found = {field.name: getattr(value, field.name) for field in fields(value) if field.name not in without}
    return {name: _jsonable(item) for name, item in found.items()}


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_jsonable(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
