"""The report as one HTML file: no script, no external resource, light and dark, readable without the plots."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

import jinja2
from markupsafe import Markup, escape

from keepstate import __version__
from keepstate.report.model import Report
from keepstate.report.tables import COLUMNS, COMPARISON_HEAD, comparison_row, how

PLOTS = (
    (
        "optimality",
        "Optimality by cell",
        "Points with 95 % intervals; dashed lines mark the blind floor and the oracle.",
    ),
    (
        "tokens",
        "Tokens per episode by cell",
        "Bars: mean of prompt and completion tokens over all calls, the strongly coloured part is the completion."
        " Lines: 95 % interval of the median, from 6 tasks on.",
    ),
)


def html(report: Report, drawings: Mapping[tuple[str, str], str]) -> str:
    """The document.

    Args:
        report: What it says.
        drawings: SVG by name of plot (`optimality`, `tokens`) and theme (`light`, `dark`).
    """
    source = (files("keepstate.report") / "templates" / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["split_interval"] = split_interval
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
        plots=plots,
        how=how(report),
    )


def split_interval(text: str) -> Markup:
    """`75.4 (70.1 to 80.2)` with the bracket on a line of its own."""
    value, bracket, rest = text.partition(" (")
    return Markup("{}<small>({}</small>").format(value, rest) if bracket else escape(text)


def _inline(svg: str, name: str) -> str:
    """An SVG document as an element: ids made unique, so that two drawings on a page do not mix."""
    element = svg[svg.index("<svg") :]
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", element)
