"""Writing the pages of episodes: one each, one of every task with several, and the index.

`episodes/<folder>/<task>.html` is the page of `<folder>/<task>.trace.json`, `tasks/<task>.html` has all episodes of one
task side by side. Reads traces by the one reader, a task's at a time; holds no more than these and the index's rows.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from keepstate.errors import UserError
from keepstate.files import write_error
from keepstate.traces.pages.columns import EpisodeColumn
from keepstate.traces.pages.markup import GENERATOR, environment, frame
from keepstate.traces.reader import BadTrace, OtherFormat, load_trace, read_fault, trace_files
from keepstate.traces.record import TraceError
from keepstate.traces.writer import TRACE_SUFFIX

INDEX = "index.html"
MOST_COLUMNS = 24
"""Episodes on the page of one task."""
AT_ONCE = 3
"""Of these side by side before a reader chooses others."""
ROWS_AT_FIRST = 300
"""Of the index's table, before the rest is asked for: a browser lays out 10,000 rows for seconds."""
MOST_CHOICES = 40
"""Of a filter, the most frequent; the search finds all."""


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One line of the index."""

    column: EpisodeColumn
    page: str
    """Address of its page, from the index."""
    beside: str | None
    """That of its task's, with this episode and its nearest; None where it is the only one."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    start: Path
    """Where to begin: the one episode, the one task, else the index."""
    episodes: int
    unreadable: tuple[BadTrace, ...]
    left_over: int
    """Pages of an earlier call that nothing leads to any more: their traces are gone."""


def page_of(path: Path, root: Path) -> PurePosixPath:
    """Where the page of the trace at `path` lies in the folder of pages, if `root` is what they were made of."""
    relative = Path(os.path.relpath(path, root))
    return PurePosixPath("episodes", *relative.parent.parts, f"{_stem(relative.name)}.html")


def write_pages(
    paths: Sequence[Path], out: Path, *, on_progress: Callable[[tuple[int, int]], None] = lambda _: None
) -> Written:
    """Write the pages of all traces in `paths`, then their index.

    Args:
        paths: Traces, and folders of them.
        out: Where to; what lies there and is of the same name is replaced.
        on_progress: Called before each task with how many traces are done, and how many there are.

    Raises:
        UserError: No such path, no trace in it, or `out` cannot be written or holds another's pages.
    """
    root, found, bad = _files(paths)
    _check_free(out)
    tasks: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        tasks[_stem(path.name)].append(path)
    rows: list[IndexRow] = []
    done = 0
    for name, its in sorted(tasks.items()):
        on_progress((done, len(found)))
        done += len(its)
        columns = []
        for path in its:
            try:
                columns.append(EpisodeColumn.of(load_trace(path), path, str(page_of(path, root)), _folder(path, root)))
            except (TraceError, OSError) as error:
                bad.append(BadTrace(path, read_fault(error), other=isinstance(error, OtherFormat)))
        rows += _write_task(name, columns, out)
    if not rows:
        named = " ".join(map(str, paths))
        reasons = f"; {bad[0].path}: {bad[0].reason}" if bad else ""
        folders = " ".join(dict.fromkeys(str(path if path.is_dir() else path.parent) for path in paths))
        hint = f"see why: keepstate traces check {folders}" if bad else "make some: keepstate traces collect"
        raise UserError(f"no readable trace in {named}{reasons}", hint)
    _write(out / INDEX, _index(rows, bad, root))
    start = rows[0].page if len(rows) == 1 else INDEX
    if len(rows) > 1 and len({row.beside and row.beside.partition("#")[0] for row in rows}) == 1:
        start = rows[0].beside or INDEX
    led_to = {unquote(page.partition("#")[0]) for row in rows for page in (row.page, row.beside) if page}
    lie = [page.relative_to(out).as_posix() for part in ("episodes", "tasks") for page in (out / part).rglob("*.html")]
    return Written(out / start.partition("#")[0], len(rows), tuple(bad), len(set(lie) - led_to))


def _files(paths: Sequence[Path]) -> tuple[Path, list[Path], list[BadTrace]]:
    """The folder that all lie in, the traces, and the folders that cannot be read."""
    found: dict[str, Path] = {}
    bad: list[BadTrace] = []
    for path in paths:
        if path.is_dir():
            below, closed = trace_files(path)
            bad += closed
            found |= {os.path.abspath(each): Path(each) for each in below}
        elif path.exists():
            found[os.path.abspath(path)] = path
        else:
            raise UserError(f"no such file or folder: {path}", "make traces: keepstate traces collect")
    folders = [path if path.is_dir() else path.parent for path in paths]
    return Path(os.path.commonpath(map(os.path.abspath, folders))), list(found.values()), bad


def _check_free(out: Path) -> None:
    """Raise `UserError` where `out` holds an index that is not ours."""
    index = out / INDEX
    if index.is_file():
        with index.open("rb") as file:
            if GENERATOR.encode() not in file.read(1_000):
                raise UserError(f"{index} is of another program and would be replaced", "name another folder: --out")


def _write_task(name: str, columns: Iterable[EpisodeColumn], out: Path) -> list[IndexRow]:
    """The pages of the episodes of one name; several of one problem have one more, side by side."""
    problems: dict[str, list[EpisodeColumn]] = defaultdict(list)
    for column in columns:
        problems[column.content_hash].append(column)
    rows = []
    for content_hash, its in problems.items():
        its.sort(key=lambda column: column.order)
        together = its[:MOST_COLUMNS] if len(its) > 1 else []
        place = f"tasks/{name}.html" if len(problems) == 1 else f"tasks/{name}-{content_hash[:8]}.html"
        for column in its:
            beside = _beside(place, column, together) if column in together else None
            rows.append(IndexRow(column, _address(column.page), beside))
            up = "../" * (len(PurePosixPath(column.page).parts) - 1)
            _write(out / column.page, _page([column], up, others=len(its) - 1, beside=beside and up + beside))
        if together:
            _write(out / place, _page(together, "../", left_out=len(its) - len(together)))
    return rows


def _beside(place: str, column: EpisodeColumn, together: list[EpisodeColumn]) -> str:
    """The address of a task's page with one episode and its nearest: its model's in other runtimes, then others."""
    others = [other for other in together if other is not column]
    near = [column, *sorted(others, key=lambda other: other.model != column.model)][:AT_ONCE]
    return f"{_address(place)}#show={','.join(str(number) for number, each in enumerate(together) if each in near)}"


def _page(
    columns: list[EpisodeColumn], up: str, *, others: int = 0, beside: str | None = None, left_out: int = 0
) -> str:
    rows = max(len(column.turns) for column in columns)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            columns=columns,
            numbers=range(rows),
            most_tokens=max((turn.tokens or 0 for column in columns for turn in column.turns), default=0),
            most_seconds=max((turn.seconds or 0 for column in columns for turn in column.turns), default=0),
            cells=[
                [column.cells()[number] if number < len(column.turns) else "" for column in columns]
                for number in range(rows)
            ],
            up=up,
            others=others,
            beside=beside,
            left_out=left_out,
            at_once=AT_ONCE,
            links=[_address(column.page) for column in columns],
            **frame("page"),
        )
    )


def _index(rows: Sequence[IndexRow], bad: Sequence[BadTrace], root: Path) -> str:
    filters = {
        "folder": Counter(row.column.folder for row in rows),
        "runtime": Counter(row.column.runtime for row in rows),
        "model": Counter(row.column.model for row in rows),
        "result": Counter(row.column.result for row in rows),
        "ended": Counter(row.column.finish for row in rows),
        "error": Counter(name for row in rows for name in row.column.errors),
        "missing": Counter(row.column.missed for row in rows),
    }
    return (
        environment()
        .get_template("index.html.jinja")
        .render(
            rows=rows,
            bad=bad,
            name=root.name or "traces",
            filters={
                name: sorted(dict(counts.most_common(MOST_CHOICES)).items())
                for name, counts in filters.items()
                if len(counts) > 1 or (name == "error" and counts)
            },
            at_first=ROWS_AT_FIRST,
            words={"ended": "ended by", "missing": "missing variable"},
            **frame("index"),
        )
    )


def _stem(name: str) -> str:
    return name.removesuffix(TRACE_SUFFIX)


def _folder(path: Path, root: Path) -> str:
    folder = os.path.relpath(path.parent, root)
    return root.name if folder == "." else folder


def _address(place: str) -> str:
    return quote(os.fsencode(place))


def _write(path: Path, text: str) -> None:
    """Not forced to the disk, which takes longer than all else: a page is made again from its trace."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    except OSError as error:
        raise write_error(path, error) from error
