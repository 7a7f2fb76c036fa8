"""How a long command in progress looks: bars on a terminal, elsewhere a line now and then, also while nothing ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from keepstate.play.tally import Tally
from keepstate.traces import BadTrace
from keepstate.traces.record import known_sum

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_DRAWINGS = 0.1
MOST_NAMED = 10


class Display:
    """Shows the state of a run on stderr. Call it with every new state."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._rows: dict[str, TaskID] = {}
        self._total: TaskID | None = None
        self._started = self._shown = time.monotonic()
        self.last: Sequence[Tally] | None = None

    def __call__(self, tallies: Sequence[Tally]) -> None:
        """Show them."""
        first, self.last = self.last is None, tallies
        now = time.monotonic()
        over = all(tally.done == tally.total for tally in tallies)
        if self._bars is not None and (first or over or now - self._shown >= SECONDS_BETWEEN_DRAWINGS):
            self._shown = now
            self._draw(self._bars, tallies)
        if first:
            tell_replaced([file for tally in tallies for file in tally.replaced], self._say)

    def beat(self) -> None:
        """Say in one line how far the run is."""
        if self.last is not None:
            click.echo(self._line(self.last), err=True)

    def _say(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line, err=True)

    def _draw(self, bars: Progress, tallies: Sequence[Tally]) -> None:
        if self._total is None:
            for tally in tallies:
                self._rows[tally.name] = bars.add_task("", total=tally.total, words="")
            self._total = bars.add_task("", total=_total(tallies), words="")
        for tally in tallies:
            row = self._rows[tally.name]
            bars.update(row, completed=tally.done, description=tally.name, words=_words(tally))
        done = sum(tally.done for tally in tallies)
        bars.update(self._total, completed=done, description="in all", words=self._rate(tallies))

    def _rate(self, tallies: Sequence[Tally]) -> str:
        took = max(time.monotonic() - self._started, 1e-9)
        played = sum(tally.done - tally.kept for tally in tallies)
        tokens = known_sum(tally.tokens for tally in tallies)
        speed = "tokens unknown" if tokens is None else f"{tokens / took:,.0f} tokens/s"
        open_now = sum(tally.open for tally in tallies)
        return f"{open_now} open, {60 * played / took:.0f} episodes/min, {speed}"

    def _line(self, tallies: Sequence[Tally]) -> str:
        done = sum(tally.done for tally in tallies)
        failures = sum(tally.failures.total() for tally in tallies)
        failed = f" ({failures} failed)" if failures else ""
        return f"{done}/{_total(tallies)} episodes{failed}; {self._rate(tallies)}"


@contextmanager
def display(console: Console | None = None) -> Iterator[Display]:
    """A display for one run, on stderr unless another console is given."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        shown = Display(None)
        with heartbeat(shown.beat):
            yield shown
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield Display(bars)


@contextmanager
def heartbeat(beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` every few seconds, from a thread of its own, as long as the context lasts."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(SECONDS_BETWEEN_LINES):
            beat()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def tell_replaced(files: Sequence[BadTrace], say: Callable[[str], None]) -> None:
    """Name files of an earlier run in whose place an episode is played again."""
    for file in files[:MOST_NAMED]:
        say(f"played again: {file.path}: {file.reason}")
    if len(files) > MOST_NAMED:
        say(f"played again: {len(files) - MOST_NAMED} more")


def _total(tallies: Sequence[Tally]) -> int:
    return sum(tally.total for tally in tallies)


def _words(tally: Tally) -> str:
    words = f"solved {tally.solved}"
    if tally.graded:
        words += f", optimality {100 * tally.score / tally.graded:.0f} %"
    if tally.failures:
        words += f", not graded {tally.failures.total()}"
    return words
