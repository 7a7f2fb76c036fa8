"""`keepstate report`: tables, plots and one HTML file from benchmark results."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from keepstate.cli._options import PATH, json_option, margin_option
from keepstate.cli._output import print_json
from keepstate.report import HTML_FILE, MARGIN, build_report
from keepstate.report.entries import report_file
from keepstate.report.tables import print_report


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, help="Folder of the report.  [default: RUN/report]")
@margin_option(MARGIN)
@click.option("--parquet", is_flag=True, help="Write the episodes as Parquet, too; needs pyarrow.")
@click.option("--pages", is_flag=True, help="Write a page of every episode, too; the report links to them.")
@json_option
def command(run: Path, *, out: Path | None, margin: float, pages: bool, parquet: bool, as_json: bool) -> None:
    """Report on the benchmark results in RUN, e.g. runs/bench."""
    report = build_report(run, out, margin=margin, pages=pages, parquet=parquet)
    if as_json:
        print_json(asdict(report_file(report)))
    else:
        print_report(report, Console())
    click.echo(f"report: {(out or run / 'report') / HTML_FILE}", err=True)
