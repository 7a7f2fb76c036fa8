"""The two plots: optimality and tokens by cell, with intervals. The page gives their colours a dark dress.

Colour, shape and the label of the row say the same, so that none is needed. Uses altair; renders without a browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from keepstate.bench.results import Fit
from keepstate.report.figures import CellFigures
from keepstate.report.model import CellGroup, Report
from keepstate.report.statistics import Estimate

WIDTH, ROW = 560, 26
SHAPES = dict(zip(Fit, ("circle", "diamond", "square", "triangle-up"), strict=True))
FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


KINDS = ("#0063a3", "#c2500a", "#6b6b6b", "#8a6d00")
"""Of the kinds of cell in order, told apart with any colour vision."""
TEXT, GRID, PAPER = "#1b1b1b", "#e2e2e2", "#ffffff"


def optimality_plot(report: Report) -> dict[str, Any]:
    """The Vega-Lite specification of optimality by cell, floor and oracle marked."""
    panels = [_optimality_panel(group, _kinds(report)) for group in report.groups]
    return _finished(panels)


def tokens_plot(report: Report) -> dict[str, Any]:
    """The Vega-Lite specification of tokens per episode by cell, the completion in strong colour."""
    panels = [_tokens_panel(group, _kinds(report)) for group in report.groups]
    return _finished(panels)


def to_svg(plot: dict[str, Any]) -> str:
    """A specification as an SVG document."""
    return str(vl_convert.vegalite_to_svg(plot))


def to_png(svg: str) -> bytes:
    """An SVG document as a PNG image of twice its size: Vega need not draw it again."""
    return bytes(vl_convert.svg_to_png(svg, scale=2.0))


_AXIS = {
    "optimality": "optimality, % of the optimum, with 95 % interval",
    "score": "score, % of the most there is, with 95 % interval",
}


def _optimality_panel(group: CellGroup, kinds: Sequence[Fit]) -> Any:
    rows = [_row(figures, figures.optimality, 100.0) for figures in group.figures if figures.optimality]
    base = _chart(rows)
    x = alt.X("value:Q", scale=alt.Scale(domain=[0, 100]), title=_AXIS[group.measure])
    layers: list[Any] = [*_references(group)]
    layers += [
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", y=_y(group), color=_color(kinds)),
        base.mark_point(size=80, filled=True, opacity=1).encode(
            x=x, y=_y(group), color=_color(kinds), shape=_shape(kinds)
        ),
        _labels(base, group, "value:Q", dx=-4, dy=-9),  # at 0 beside the cells' names
    ]
    return alt.layer(*layers).properties(width=WIDTH, height=alt.Step(ROW + 6), title=group.title)


def _references(group: CellGroup) -> list[Any]:
    """Vertical lines at floor and oracle, named at their top: means over its graded tasks."""
    marks = [
        {"at": 100 * group.references[key], "words": f"{words} {100 * group.references[key]:.0f}"}
        for key, words in (("blind", "floor"), ("oracle", "oracle"))
        if key in group.references
    ]
    base = _chart(marks)
    line = base.mark_rule(strokeDash=[4, 3], color=TEXT, opacity=0.65).encode(x="at:Q")
    name = base.mark_text(align="right", baseline="bottom", dx=-3, dy=-3, color=TEXT, fontSize=11).encode(
        x="at:Q", y=alt.value(0), text="words:N"
    )
    return [line, name]


def _tokens_panel(group: CellGroup, kinds: Sequence[Fit]) -> Any:
    rows = [_row(f, f.tokens, 1.0, f.median_tokens) for f in group.figures if f.tokens]
    base = _chart(rows)
    x = alt.X(
        "value:Q",
        scale=alt.Scale(zero=True, nice=True),
        title="tokens per episode (all calls): mean, and 95 % interval of the median",
        axis=alt.Axis(tickCount=5),
    )
    bars = base.mark_bar(height=14, opacity=0.45).encode(x=x, y=_y(group), color=_color(kinds))
    written = base.mark_bar(height=14).encode(x="completion:Q", y=_y(group), color=_color(kinds))
    interval = base.mark_rule(color=TEXT, strokeWidth=1.5).encode(x="low:Q", x2="high:Q", y=_y(group))
    labels = _labels(base, group, "end:Q", dx=6)
    layers = alt.layer(bars, written, interval, labels)
    return layers.properties(width=WIDTH, height=alt.Step(ROW), title=group.title)


def _row(figures: CellFigures, estimate: Estimate, scale: float, interval: Estimate | None = None) -> dict[str, Any]:
    """One mark; its interval is that of another estimate where one is given."""
    value, spread = estimate.value * scale, interval or estimate
    low, high = (value if end is None else end * scale for end in (spread.low, spread.high))
    completion = figures.completion_tokens
    return {
        "cell": figures.cell.label,
        "kind": str(figures.cell.fit),
        "value": value,
        "low": low,
        "high": high,
        "end": max(value, high),
        "completion": completion.value if completion else 0.0,
        "label": f"{value:.1f}" if scale > 1 else f"{value:,.0f}",
    }


def _y(group: CellGroup) -> alt.Y:
    order = [figures.cell.label for figures in group.figures]
    return alt.Y("cell:N", sort=order, title=None, axis=alt.Axis(labelLimit=360))


def _kinds(report: Report) -> list[Fit]:
    """Those of the legend: what is not known only where there is such a cell."""
    there = {figures.cell.fit for group in report.groups for figures in group.figures}
    return [kind for kind in Fit if kind is not Fit.UNKNOWN or kind in there]


def _color(kinds: Sequence[Fit]) -> alt.Color:
    scale = alt.Scale(domain=[*map(str, kinds)], range=list(KINDS[: len(kinds)]))
    return alt.Color("kind:N", scale=scale, title=None, legend=alt.Legend(orient="bottom"))


def _shape(kinds: Sequence[Fit]) -> alt.Shape:
    scale = alt.Scale(domain=[*map(str, kinds)], range=[SHAPES[kind] for kind in kinds])
    return alt.Shape("kind:N", scale=scale, title=None, legend=alt.Legend(orient="bottom"))


def _labels(base: Any, group: CellGroup, x: str, *, dx: int, dy: int = 0) -> Any:
    mark = base.mark_text(color=TEXT, fontSize=11, dx=dx, dy=dy, align="left")
    return mark.encode(x=alt.X(x), y=_y(group), text="label:N")


def _chart(rows: list[dict[str, Any]]) -> Any:
    return alt.Chart(alt.InlineData(values=rows))


def _finished(panels: Sequence[Any]) -> dict[str, Any]:
    chart = alt.vconcat(*panels, spacing=28).resolve_scale(x="shared", color="shared", shape="shared")
    words = {"labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12, "titleFontSize": 12}
    configured = (
        chart.configure(background=PAPER, font=FONT)
        .configure_axis(gridColor=GRID, domainColor=GRID, tickColor=GRID, titleFontWeight="normal", **words)
        .configure_legend(symbolSize=90, **words)
        .configure_title(color=TEXT, fontSize=13, anchor="start")
        .configure_view(stroke=None)
    )
    return dict(configured.to_dict())
