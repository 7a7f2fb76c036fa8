"""Making a report from a run's folder, and writing all its forms.

report = build_report(Path("runs/demo"))     # writes runs/demo/report/

- index.html: all of it, one file
- report.md: its sentences and tables
- report.tex: its tables for a paper
- report.json: its figures, for programs
- episodes.csv: a row an episode
- its plots, as .svg and .png: optimality, tokens, tokens-optimality, turns, losses
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from keepstate.bench.results import read_results
from keepstate.display import CountDisplay
from keepstate.files import write_atomic, write_json
from keepstate.report.entries import report_file
from keepstate.report.episodes import EPISODES_FILE, PARQUET_FILE, TRACES, check_parquet, csv_of, write_parquet
from keepstate.report.figures import MARGIN
from keepstate.report.latex import latex
from keepstate.report.losses import losses_of
from keepstate.report.model import Report, make_report
from keepstate.report.page import html
from keepstate.report.plots import drawn, to_png
from keepstate.report.tables import markdown
from keepstate.traces.pages import write_pages

HTML_FILE = "index.html"


def build_report(
    run: Path, out: Path | None = None, *, margin: float = MARGIN, pages: bool = False, parquet: bool = False
) -> Report:
    """Read the results in `run` and write the report.

    Args:
        run: Folder with one folder a cell.
        out: Where to; `<run>/report` where None.
        margin: Differences of optimality below it count as equivalent.
        pages: Write a page of every episode as well, beside the report's page, which links to them.
        parquet: Write the episodes as Parquet as well, which needs pyarrow.

    Raises:
        UserError: No results there, no trace of keepstate's, or the report cannot be written.
    """
    if parquet:
        check_parquet()
    with CountDisplay("reading episodes") as shown:
        cells = read_results(run, on_progress=shown)
    with CountDisplay("figures of cells") as shown:
        report = make_report(run.resolve().name, cells, margin=margin, each=lambda of: shown.each(of, len(of)))
    folder = out or run / "report"
    if pages:
        with CountDisplay("pages of traces") as shown:
            written = write_pages([run], folder / TRACES, on_progress=shown)
        if written.left_over:
            shown.say(f"{written.left_over} pages of episodes that are gone lie there still: {folder / TRACES}")
    write_report(report, folder, run=run if pages else None)
    if parquet:
        write_parquet(report, folder / PARQUET_FILE)
    return report


def write_report(report: Report, folder: Path, *, run: Path | None = None) -> Path:
    """Write every form of a report; returns the path of the HTML file. `run`: as `html` has it.

    Raises:
        UserError: `folder` cannot be written.
    """
    trainings = losses_of([figures.cell for group in report.groups for figures in group.figures])
    for name, drawing in drawn(report, trainings.curves):
        write_atomic(folder / f"{name}.svg", drawing.document())
        write_atomic(folder / f"{name}.png", to_png(drawing))
    write_atomic(folder / "report.md", markdown(report))
    write_atomic(folder / "report.tex", latex(report))
    write_atomic(folder / EPISODES_FILE, csv_of(report))
    write_json(folder / "report.json", asdict(report_file(report)))
    write_atomic(folder / HTML_FILE, html(report, trainings, run=run))
    return folder / HTML_FILE
