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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

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
    """

    begin: Bar | None = None
    """What a terminal shows before the first state."""
    remaining = False
    """Beside a bar stands the time that is left, instead of what it took so far."""
    transient = False
    """The bars vanish in the end."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._ids: dict[str, TaskID] = {}
        self._drawn = self._said = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beats, daemon=True)
        self._stage: str | None = None
        self.last: State | None = None
        """The newest state."""

    @abstractmethod
    def bars(self, state: State) -> Sequence[Bar]:
        """What is drawn; bars that came once come with every state."""

    @abstractmethod
    def line(self, state: State) -> str:
        """How far it is, in one line."""

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
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is None:
            self._over.set()
            self._thread.join()
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

    def each(self, items: Sequence[Item]) -> Iterator[Item]:
        """Pass `items` on, and show how many were taken."""
        for number, item in enumerate(items):
            self((number, len(items)))
            yield item
        self((len(items), len(items)))
