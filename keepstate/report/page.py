"""The report as one HTML file: nothing from elsewhere, no style or script but its own (by hash), light and dark."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from keepstate import __version__
from keepstate.drawing import STYLE, policy_hash
from keepstate.report.behaviour import BEHAVIOUR_COLUMNS
from keepstate.report.behind import commands_of, endings_by_cell, errors_by_cell, pairs_of, settings_of_cells
from keepstate.report.episodes import EPISODES_FILE, TRACES, table_of
from keepstate.report.losses import Trainings
from keepstate.report.matrix import METRICS, heat_map, runtimes_of
from keepstate.report.model import Report
from keepstate.report.plots import PLOTS, losses
from keepstate.report.sentences import SHOWN, behaviour_readings
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
    repeats_row,
)
from keepstate.report.words import counted
from keepstate.traces.pages import INDEX

if TYPE_CHECKING:
    from markupsafe import Markup


def html(report: Report, trainings: Trainings, *, run: Path | None = None) -> str:
    """The page; all of it is readable without plots and without script.

    Args:
        report: What it says.
        trainings: Of the adapters that played.
        run: The folder whose traces have pages beside it, to link to.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "element": lambda drawing: Markup(drawing.element()),
        "split_interval": _split_interval,
        "called_in": called,
        "call": lambda each, row: row(each),
    }
    style, script = STYLE + _own("report.css"), _own("report.js")
    return environment.from_string(_own("report.html.jinja")).render(
        report=report,
        cells=sum(len(group.figures) for group in report.groups),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {policy_hash(style)}; script-src {policy_hash(script)}; base-uri 'none';"
        " form-action 'none'",
        episodes=jinja2.utils.htmlsafe_json_dumps(table_of(report, run), separators=(",", ":")),
        traces=f"{TRACES}/{INDEX}" if run else None,
        episodes_file=EPISODES_FILE,
        shown=SHOWN,
        counted=counted,
        metrics=METRICS,
        heat_map=heat_map,
        runtimes_of=runtimes_of,
        errors_by_cell=errors_by_cell,
        endings_by_cell=endings_by_cell,
        pairs_of=pairs_of,
        settings_of_cells=settings_of_cells,
        commands_of=commands_of,
        columns=COLUMNS,
        comparison_head=COMPARISON_HEAD,
        comparison_row=comparison_row,
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
        plots=PLOTS,
        trainings=trainings,
        losses=losses(trainings.curves),
        how=how(report),
    )


def _own(name: str) -> str:
    return (files("keepstate.report") / "templates" / name).read_text(encoding="utf-8")


def _split_interval(text: str) -> Markup:
    """`75.4 (70.1 to 80.2)` with the bracket on a line of its own; a formula that begins with one is none."""
    from markupsafe import Markup, escape

    found = re.fullmatch(r"([^(]+) (\(.*)", text)
    return Markup("{}<small>{}</small>").format(*found.groups()) if found else escape(text)
