"""Making a report from a run's folder, and writing all its forms.

report = build_report(Path("runs/demo"))     # writes runs/demo/report/{index.html,report.md,*.svg,*.png,report.json}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from keepstate import __version__
from keepstate.bench.results import read_results
from keepstate.files import write_atomic, write_json
from keepstate.report.behaviour import BEHAVIOUR_COLUMNS
from keepstate.report.entries import report_file
from keepstate.report.figures import MARGIN
from keepstate.report.model import Report, make_report
from keepstate.report.sentences import behaviour_readings
from keepstate.report.tables import (
    BEHAVIOUR,
    BEHAVIOUR_HEAD,
    COLUMNS,
    COMPARISON_HEAD,
    CONTRASTS,
    CONTRASTS_HEAD,
    REPEATS,
    REPEATS_HEAD,
    behaviour_row,
    called,
    comparison_row,
    contrast_row,
    how,
    markdown,
    repeats_row,
)

if TYPE_CHECKING:
    from markupsafe import Markup

HTML_FILE = "index.html"
PLOTS = (
    (
        "optimality",
        "Scores by cell",
        "Points with 95 % intervals; dashed lines mark the blind floor and the oracle.",
    ),
    (
        "tokens",
        "Tokens per episode by cell",
        "Bars: mean of prompt and completion tokens over all calls, the strongly coloured part is the completion."
        " Lines: 95 % interval of the median, from 6 tasks on.",
    ),
)


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

    drawings: dict[tuple[str, str], str] = {}
    for name, plot in (("optimality", plots.optimality_plot), ("tokens", plots.tokens_plot)):
        drawings[name, "light"] = plots.to_svg(plot(report, plots.LIGHT))
        drawings[name, "dark"] = plots.to_svg(plot(report, plots.DARK))
        write_atomic(folder / f"{name}.svg", drawings[name, "light"])
        write_atomic(folder / f"{name}.png", plots.to_png(drawings[name, "light"]))
    write_atomic(folder / "report.md", markdown(report))
    write_json(folder / "report.json", asdict(report_file(report)))
    write_atomic(folder / HTML_FILE, html(report, drawings))
    return folder / HTML_FILE


def html(report: Report, drawings: Mapping[tuple[str, str], str]) -> str:
    """The report as one HTML file: no script, no external resource, light and dark, readable without the plots.

    Args:
        report: What it says.
        drawings: SVG by name of plot (`optimality`, `tokens`) and theme (`light`, `dark`).
    """
    import jinja2
    from markupsafe import Markup

    source = (files("keepstate.report") / "templates" / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["split_interval"] = _split_interval
    plots = [
        {"title": title, "words": words}
        | {theme: Markup(_inline(drawings[key, theme], f"{key}-{theme}")) for theme in ("light", "dark")}
        for key, title, words in PLOTS
    ]
    return environment.from_string(source).render(
        report=report,
        cells=sum(len(group.figures) for group in report.groups),
        version=__version__,
        columns=COLUMNS,
        comparison_head=COMPARISON_HEAD,
        row=comparison_row,
        behaviour=BEHAVIOUR,
        behaviour_columns=BEHAVIOUR_COLUMNS,
        behaviour_head=BEHAVIOUR_HEAD,
        behaviour_readings=behaviour_readings,
        behaviour_row=behaviour_row,
        contrasts=CONTRASTS,
        contrasts_head=CONTRASTS_HEAD,
        contrast_row=contrast_row,
        repeats=REPEATS,
        repeats_head=REPEATS_HEAD,
        repeats_row=repeats_row,
        called=called,
        plots=plots,
        how=how(report),
    )


def _split_interval(text: str) -> Markup:
    """`75.4 (70.1 to 80.2)` with the bracket on a line of its own."""
    from markupsafe import Markup, escape

    value, bracket, rest = text.partition(" (")
    return Markup("{}<small>({}</small>").format(value, rest) if bracket else escape(text)


def _inline(svg: str, name: str) -> str:
    """An SVG document as an element: ids made unique, so that two drawings on a page do not mix."""
    element = svg[svg.index("<svg") :]
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", element)
