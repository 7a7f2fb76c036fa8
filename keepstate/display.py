"""How a long command in progress looks: bars on a terminal, elsewhere a line now and then, also while nothing changes.

    with CountDisplay("reading traces") as shown:
        work(on_progress=shown)  # call it with every new state

What a state looks like is said by who makes it, in a class of its own: `TallyDisplay` of episodes, `TrainingDisplay`,
`StartDisplay` of a server, `InstallDisplay`. All is written to stderr.
"""

from __future__ import annotations

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from keepstate.errors import UserError
from keepstate.live import SECONDS_BETWEEN_PAGES, LiveView, write_page

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 15.0
"""Where stderr is no terminal."""
SECONDS_BETWEEN_DRAWINGS = 0.1
BAR_WIDTH = 24

State = TypeVar("State")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar on a terminal, known by its name."""

    name: str
    done: float = 0.0
    total: float | None = None
    """None where it is not known: the bar then moves to and fro."""
    words: str = ""


class Display(ABC, Generic[State]):
    """Shows the state of one piece of work while its context lasts. Call it with every new state.

    Args:
        console: Where bars are drawn; by default stderr. Lines go to stderr.
        page: Where a page shows the work from its first state on, see `keepstate.live`; none where None.
    """

    begin: Bar | None = None
    """What a terminal shows before the first state."""
    remaining = False
    """Beside a bar stands the time that is left, instead of what it took so far."""
    transient = False
    """The bars vanish in the end."""

    def __init__(self, console: Console | None = None, *, page: Path | None = None) -> None:
        self._console, self._page = console, page
        self._bars: Progress | None = None
        self._ids: dict[str, TaskID] = {}
        self._drawn = self._said = time.monotonic()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stage: str | None = None
        self.last: State | None = None
        """The newest state."""

    @abstractmethod
    def bars(self, state: State) -> Sequence[Bar]:
        """What is drawn; bars that came once come with every state."""

    @abstractmethod
    def line(self, state: State) -> str:
        """How far it is, in one line."""

    def view(self, state: State) -> LiveView:
        """What its page shows."""
        return LiveView(self.line(state))

    def stage(self, state: State) -> str | None:
        """Where this changes, a line is said at once; None says nothing of it."""
        return None

    def __call__(self, state: State) -> None:
        """Show a new state."""
        first, self.last = self.last is None, state
        if self._bars is not None:
            if first or time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
                self._draw(self._bars, self.bars(state))
        elif (stage := self.stage(state)) not in (None, self._stage):
            self._stage = stage
            self.beat()

    def beat(self) -> None:
        """Say in one line how far it is."""
        if self.last is not None:
            self._said = time.monotonic()
            self.say(self.line(self.last))

    def say(self, line: str) -> None:
        """Say a line, above the bars where there are any."""
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        from rich.console import Console  # `keepstate doctor` does not wait for it

        console = self._console or Console(stderr=True)
        if console.is_terminal:
            self._bars = self._columns(console)
            if self.begin is not None:
                self._draw(self._bars, [self.begin])
            self._bars.start()
        else:
            self._threads.append(threading.Thread(target=self._beats, daemon=True))
        if self._page is not None:
            self._threads.append(threading.Thread(target=self._pages, args=(self._page,), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._page is not None and self.last is not None:
            stopped = "stopped" if isinstance(error, KeyboardInterrupt) else f"failed: {error}"
            self._write_page(self._page, "ended" if error is None else stopped)
        if self._bars is None:
            return
        if self.last is not None:
            self._draw(self._bars, self.bars(self.last))
        self._bars.stop()
        self._bars = None

    def _columns(self, console: Console) -> Progress:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn() if self.remaining else TimeElapsedColumn(),
            console=console,
            transient=self.transient,
        )

    def _draw(self, drawn: Progress, bars: Sequence[Bar]) -> None:
        self._drawn = time.monotonic()
        for bar in bars:
            if bar.name not in self._ids:
                self._ids[bar.name] = drawn.add_task(bar.name, total=None, words="")
            drawn.update(self._ids[bar.name], completed=bar.done, total=bar.total, words=bar.words)

    def _beats(self) -> None:
        """A line every few seconds, from a thread of its own: what is shown may be in a call that takes minutes."""
        pause = SECONDS_BETWEEN_LINES
        while not self._over.wait(pause):
            pause = self._said + SECONDS_BETWEEN_LINES - time.monotonic()
            if pause <= 0:
                self.beat()
                pause = SECONDS_BETWEEN_LINES

    def _pages(self, page: Path) -> None:
        """The page from the first state on, then every few seconds, as long as it can be written."""
        while self.last is None:
            if self._over.wait(SECONDS_BETWEEN_DRAWINGS):
                return
        self.say(f"live page: {page}")
        while self._page is not None:
            self._write_page(page)
            if self._over.wait(SECONDS_BETWEEN_PAGES):
                return

    def _write_page(self, page: Path, ended: str = "") -> None:
        """Work goes on without it where it cannot be written."""
        assert self.last is not None
        try:
            write_page(page, self.view(self.last), ended=ended)
        except UserError as error:
            self._page = None
            self.say(f"no live page: {error.message}")


class CountDisplay(Display[tuple[int, int]]):
    """How many of how many are done.

    Args:
        name: What is counted.
    """

    remaining = True
    transient = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def bars(self, state: tuple[int, int]) -> Sequence[Bar]:
        """One."""
        done, total = state
        return [Bar(self._name, done, total, f"{done:,}/{total:,}")]

    def line(self, state: tuple[int, int]) -> str:
        """The same."""
        done, total = state
        return f"{self._name}: {done:,}/{total:,}"

    def each(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        """Pass `items` on, and show how many of `total` were taken."""
        for number, item in enumerate(items):
            self((number, total))
            yield item
        self((total, total))
