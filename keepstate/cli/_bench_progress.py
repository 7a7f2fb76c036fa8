"""How a benchmark in progress looks: a bar a cell on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from keepstate.agents.record import known_sum
from keepstate.bench.tally import CellTally
from keepstate.bench.tally import Progress as State

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_DRAWINGS = 0.1


class Display:
    """Shows the state of a run on stderr. Call it with every new state."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._rows: dict[str, TaskID] = {}
        self._total: TaskID | None = None
        self._started = self._shown = time.monotonic()
        self.last: State | None = None

    def __call__(self, state: State) -> None:
        """Show `state`."""
        first, self.last = self.last is None, state
        now = time.monotonic()
        over = all(tally.done == len(tally.cell.tasks) for tally in state.tallies)
        if self._bars is not None and (first or over or now - self._shown >= SECONDS_BETWEEN_DRAWINGS):
            self._shown = now
            self._draw(self._bars, state)
        elif self._bars is None and now - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = now
            click.echo(self._line(state), err=True)

    def _draw(self, bars: Progress, state: State) -> None:
        if self._total is None:
            for tally in state.tallies:
                self._rows[tally.cell.config.name] = bars.add_task("", total=len(tally.cell.tasks), words="")
            self._total = bars.add_task("", total=_total(state), words="")
        for tally in state.tallies:
            row = self._rows[tally.cell.config.name]
            bars.update(row, completed=tally.done, description=tally.cell.config.name, words=_words(tally))
        done = sum(tally.done for tally in state.tallies)
        bars.update(self._total, completed=done, description="all cells", words=self._rate(state))

    def _rate(self, state: State) -> str:
        took = max(time.monotonic() - self._started, 1e-9)
        played = sum(tally.done - tally.kept for tally in state.tallies)
        tokens = known_sum(tally.tokens for tally in state.tallies)
        speed = "tokens unknown" if tokens is None else f"{tokens / took:,.0f} tokens/s"
        open_now = sum(admission.open_episodes for admission in state.admissions.values())
        return f"{open_now} open, {60 * played / took:.0f} episodes/min, {speed}"

    def _line(self, state: State) -> str:
        done = sum(tally.done for tally in state.tallies)
        return f"{done}/{_total(state)} episodes; {self._rate(state)}"


@contextmanager
def display(console: Console | None = None) -> Iterator[Display]:
    """A display for one run, on stderr unless another console is given."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Display(None)
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


def _total(state: State) -> int:
    return sum(len(tally.cell.tasks) for tally in state.tallies)


def _words(tally: CellTally) -> str:
    graded = tally.kept + tally.graded
    words = f"solved {tally.solved}"
    if graded:
        words += f", optimality {100 * tally.score / graded:.0f} %"
    if tally.not_graded:
        words += f", not graded {tally.not_graded.total()}"
    return words
