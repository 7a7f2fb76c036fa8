"""How work in progress is shown: bars on a terminal, lines elsewhere."""

import threading
from collections.abc import Sequence
from io import StringIO

import pytest
from rich.console import Console

from keepstate import display
from keepstate.display import Bar, CountDisplay, Display
from keepstate.serve.launch import StartDisplay, Starting
from keepstate.train.progress import TrainingDisplay, TrainingProgress


def test_without_a_terminal_each_stage_is_said_once_and_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with StartDisplay() as show:
        for seconds, stage in ((1, "loading"), (2, "loading"), (3, "compiling"), (4, "compiling")):
            show(Starting(seconds, stage))
    assert capsys.readouterr().err == "vLLM: loading (1 s)\nvLLM: compiling (3 s)\n"


def test_a_training_says_its_first_and_last_step_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingDisplay("react") as show:
        for step in (0, 1, 2, 3, 3):
            show(TrainingProgress(step, 3, None, None, None, None))
    assert capsys.readouterr().err == "react: step 0/3\nreact: step 3/3\n"


def test_the_newest_state_is_said_now_and_then_while_the_work_is_busy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0.01)
    said = threading.Semaphore(0)

    class Counted(CountDisplay):
        def beat(self) -> None:
            super().beat()
            if self.last == (2, 1_000):
                said.release()

    with Counted("rows") as show:
        show((1, 1_000))
        show((2, 1_000))
        assert all(said.acquire(timeout=30) for _ in range(2)), "the thread that called is held, and it is said again"
    assert capsys.readouterr().err.count("rows: 2/1,000\n") >= 2


class Plain(Display[int]):
    """Shows a number."""

    begin = Bar("work", words="starts")

    def bars(self, state: int) -> Sequence[Bar]:
        """One."""
        return [Bar("work", state, 3, f"[bold]{state}")]

    def line(self, state: int) -> str:
        """None is said."""
        raise AssertionError


def test_a_terminal_shows_the_last_state_whatever_came_between_and_lines_above() -> None:
    screen = StringIO()
    with Plain(Console(file=screen, force_terminal=True, width=100)) as show:
        assert "starts" in screen.getvalue()
        show.say("a [word] above")
        for state in range(4):
            show(state)
    assert "a [word] above" in screen.getvalue()
    assert "[bold]3" in screen.getvalue(), "markup in words is none"
