"""Making a report from a run's folder, and writing all its forms.

report = build_report(Path("runs/demo"))     # writes runs/demo/report/{index.html,report.md,*.svg,*.png,report.json}
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from keepstate.bench.results import read_results
from keepstate.files import write_atomic, write_json
from keepstate.reports.comparison import MARGIN
from keepstate.reports.model import Report, make_report

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
    from keepstate.reports import plots  # noqa: PLC0415 - altair takes 0.5 s
    from keepstate.reports.html import html  # noqa: PLC0415
    from keepstate.reports.tables import markdown  # noqa: PLC0415

    for name, plot in (("optimality", plots.optimality_plot(report)), ("tokens", plots.tokens_plot(report))):
        write_atomic(folder / f"{name}.svg", plots.to_svg(plot))
        write_atomic(folder / f"{name}.png", plots.to_png(plot))
    write_atomic(folder / "report.md", markdown(report))
    write_json(folder / "report.json", figures_json(report))
    write_atomic(folder / HTML_FILE, html(report))
    return folder / HTML_FILE


def figures_json(report: Report) -> dict[str, Any]:
    """Every figure of a report, for other programs."""
    return {
        "schema": "keepstate.report.v1",
        "name": report.name,
        "margin": report.margin,
        "groups": [
            {
                "title": group.title,
                "headline": list(group.headline),
                "notes": list(group.notes),
                "cells": [
                    {
                        "name": figures.cell.name,
                        "adapter": figures.cell.adapter,
                        "runtime": figures.cell.runtime,
                        "n": figures.n,
                        "not_graded": figures.cell.not_graded,
                        **{key: value for key, value in asdict(figures).items() if key not in ("cell", "endings")},
                        "endings": figures.endings,
                    }
                    for figures in group.figures
                ],
                "comparisons": [
                    {
                        "first": comparison.first.name,
                        "second": comparison.second.name,
                        "verdict": comparison.optimality.verdict,
                        **{key: value for key, value in asdict(comparison).items() if key not in ("first", "second")},
                    }
                    for comparison in group.comparisons
                ],
            }
            for group in report.groups
        ],
    }
