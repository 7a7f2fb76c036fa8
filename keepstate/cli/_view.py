"""`keepstate traces view`: a trace in the terminal, or any number of them as pages for a browser."""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console

from keepstate.cli._options import PATH
from keepstate.display import CountDisplay
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.traces import read_trace
from keepstate.traces.view import show


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH...")
@click.option("--errors-only", is_flag=True, help="In the terminal: only the turns that ended in an error.")
@click.option("--web", is_flag=True, help="Write pages for a browser: of traces, and of all in folders.")
@click.option("--out", type=PATH, help="With --web: folder of the pages.  [default: a new one in the temporary folder]")
@click.option("--serve", "serves", is_flag=True, help="With --web: serve them on this machine until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Of the server; with --serve, else a free one.")
@click.option(
    "--no-open", is_flag=True, help="With --web: start no browser, which is done on a desktop's terminal only."
)
def command(
    paths: tuple[Path, ...],
    *,
    errors_only: bool,
    web: bool,
    out: Path | None,
    serves: bool,
    port: int | None,
    no_open: bool,
) -> None:
    """Show the trace at PATH: every message, and what each step cost.

    With --web several, and folders such as runs/bench: one page an episode, the episodes of a task side by side, an
    index to search and filter. Plain files that need no server. Exit 1 if a file could not be read.
    """
    if not web:
        _show_one(paths, errors_only=errors_only, foreign=serves or no_open or out is not None or port is not None)
        return
    if errors_only:
        raise click.UsageError("--errors-only is for the terminal; in a page the key e goes to the next error")
    if port is not None and not serves:
        raise click.UsageError("--port belongs to --serve")
    from keepstate.traces.pages import PageServer, write_pages

    folder = out or Path(tempfile.mkdtemp(prefix="keepstate-view-"))
    try:
        with CountDisplay("writing pages") as shown:
            written = write_pages(paths, folder, on_progress=shown)
    finally:
        if out is None:
            with suppress(OSError):  # it holds pages
                folder.rmdir()
    if written.unreadable:
        click.echo(f"{len(written.unreadable)} files are no traces: the index names them", err=True)
    if written.left_over:
        click.echo(f"{written.left_over} pages of episodes that are gone lie there still: {folder}", err=True)
    click.echo(f"{written.episodes} episodes: {written.start}", err=True)
    if not serves:
        _open(written.start.resolve().as_uri(), no_open)
    else:
        with PageServer(folder, port or 0) as server:
            url = server.url + written.start.relative_to(folder).as_posix()
            click.echo(f"{url}\nCtrl-C ends it", err=True)
            _open(url, no_open)
            server.serve_forever()
    if written.unreadable:
        raise click.exceptions.Exit(EXIT_PARTIAL)


def _show_one(paths: tuple[Path, ...], *, errors_only: bool, foreign: bool) -> None:
    if foreign:
        raise click.UsageError("--out, --serve, --port and --no-open belong to --web")
    if len(paths) > 1 or paths[0].is_dir():
        what = f"{len(paths)} paths" if len(paths) > 1 else f"{paths[0]} is a folder"
        raise UserError(
            f"{what}: the terminal shows one trace",
            f"as pages for a browser: keepstate traces view {' '.join(map(str, paths[:3]))} --web",
        )
    show(read_trace(paths[0]), Console(highlight=False), errors_only=errors_only)


def _open(url: str, refused: bool) -> None:
    """Start the desktop's browser; elsewhere `webbrowser` could put one into the terminal."""
    desktop = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if desktop and sys.stderr.isatty() and not refused:
        webbrowser.open(url)
