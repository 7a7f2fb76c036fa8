"""Every episode of a report as a row, for `episodes.csv` and the page. Tasks without a grade are there, and why."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from keepstate.bench.results import CellResult, Episode
from keepstate.errors import UserError
from keepstate.files import atomic_file
from keepstate.report.model import Report
from keepstate.traces.writer import trace_path

EPISODES_FILE, PARQUET_FILE = "episodes.csv", "episodes.parquet"
TRACES = "traces"
"""Folder of the pages of all traces, beside the page."""
HEAD = (
    "cell",
    "task",
    "seed",
    "status",
    "score",
    "steps",
    "tokens",
    "completion tokens",
    "errors",
    "missing variable",
    "finish reason",
    "seconds",
    "rung",
    "folder",
    "task hash",
)
"""Of `rows_of`. `status`: solved, graded, not graded (and where the failure of ours arose), unreadable (its
trace), not played. `errors`: classes of the agent's own errors. `folder`: that of the cell. What is not known is
empty."""
UNREADABLE = "unreadable"
SHOWN = HEAD.index("finish reason") + 1
"""So many columns does the page show."""
NUMBERS = frozenset({"seed", "score", "steps", "tokens", "completion tokens"})
Row = tuple[str | float | None, ...]


def csv_of(report: Report) -> str:
    """The rows of all cells as CSV (RFC 4180, without its carriage returns).

    A text that a spreadsheet would take for a formula begins with an apostrophe: models name their own error classes.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(HEAD)
    for group in report.groups:
        for figures in group.figures:
            table.writerows([_no_formula(value) for value in row] for row in rows_of(figures.cell))
    return text.getvalue()


def check_parquet() -> None:
    """Refuse Parquet where its library is missing: it takes more disk than all of the core, for one file.

    Raises:
        UserError: pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            "--parquet: pyarrow is not installed",
            f"{sys.executable} -m pip install pyarrow; without it: {EPISODES_FILE} has the same rows",
        )


def write_parquet(report: Report, path: Path) -> None:
    """The rows of `csv_of` as Parquet: whole numbers, floats and text, null where something is not known.

    Raises:
        UserError: It cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    rows = [
        [value.encode(errors="backslashreplace") if isinstance(value, str) else value for value in row]
        for group in report.groups
        for figures in group.figures
        for row in rows_of(figures.cell)
    ]
    kinds = dict.fromkeys(HEAD, pyarrow.string()) | dict.fromkeys(NUMBERS, pyarrow.int64())
    kinds |= dict.fromkeys(("score", "seconds"), pyarrow.float64())
    columns = dict(zip(HEAD, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(HEAD, ())
    table = pyarrow.table({name: pyarrow.array(columns[name], kind) for name, kind in kinds.items()})
    with atomic_file(path) as file:
        pyarrow.parquet.write_table(table, file)


def _no_formula(value: str | float | None) -> str | float | None:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else value


def table_of(report: Report, run: Path | None = None) -> dict[str, Any]:
    """The columns that the page shows, and the rows: a text is its place in `texts`, where it stands once.

    Args:
        report: Whose episodes.
        run: The folder whose traces have pages in `TRACES`: a row ends in the address of its page there.
    """
    texts: dict[str, int] = {}
    rows = [
        [
            texts.setdefault(value, len(texts)) if isinstance(value, str) else value
            for value in (*row[:SHOWN], *_page(figures.cell, row, run))
        ]
        for group in report.groups
        for figures in group.figures
        for row in rows_of(figures.cell)
    ]
    columns = [[title, title in NUMBERS] for title in HEAD[:SHOWN]]
    return {"columns": columns, "texts": list(texts), "rows": rows}


def _page(cell: CellResult, row: Row, run: Path | None) -> list[str | None]:
    """The address of its page in `TRACES`; None where there is no trace."""
    if run is None:
        return []
    if row[HEAD.index("status")] in ("not played", UNREADABLE):
        return [None]
    from keepstate.traces.pages import page_of

    trace = trace_path(cell.folder, str(row[HEAD.index("task")]))
    return [quote(str(page_of(trace, run.resolve())))]


def rows_of(cell: CellResult) -> Iterator[Row]:
    """The episodes of a cell, by task, under `HEAD`."""
    played = {episode.task: episode for episode in cell.episodes}
    for task, content_hash in sorted(cell.tasks.items()):
        if task in played:
            found: Sequence[str | float | None] = _graded(played[task])
        else:
            unread = UNREADABLE if task in cell.unread else "not played"
            found = [f"not graded: {cell.failed[task]}" if task in cell.failed else unread, *[None] * 9]
        yield (cell.label, task, cell.config["seed"], *found, cell.name, content_hash)


def _graded(episode: Episode) -> list[str | float | None]:
    return [
        "solved" if episode.solved else "graded",
        episode.score,
        episode.steps,
        episode.tokens,
        episode.completion_tokens,
        " ".join(episode.errors),
        "yes" if episode.missed_variable else "no",
        str(episode.finish_reason),
        episode.seconds,
        episode.rung,
    ]
