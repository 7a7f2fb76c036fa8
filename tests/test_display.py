"""How work in progress is shown: bars on a terminal, lines elsewhere."""

import json
import re
import threading
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from made_traces import make_trace
from rich.console import Console

from keepstate import display, live
from keepstate.display import Bar, CountDisplay, Display
from keepstate.play.tally import Tally, TallyDisplay
from keepstate.serve.launch import StartDisplay, Starting
from keepstate.train.progress import TrainingDisplay, TrainingProgress
from keepstate.vocabulary import Origin


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


def tallies() -> list[Tally]:
    """Two cells: one with failures, and one whose server counts nothing."""
    first = Tally("<b>a", Path("a"), 10, played=3, open=2, solved=1, score=1.5, tokens=900)
    first.prompt_tokens, first.cached_tokens = 800, 600
    first.failures[Origin.MODEL] += 1
    first.last_failures = ("t1: <script>lost</script>",)
    return [first, Tally("b", Path("b"), 10, tokens=None, prompt_tokens=None, cached_tokens=None)]


def test_a_page_shows_the_run_while_it_lasts_and_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_PAGES", 0.01)
    page, written, twice = tmp_path / "live.html", threading.Semaphore(0), 2

    def counted(path: Path, view: live.LiveView, *, ended: str = "") -> None:
        live.write_page(path, view, ended=ended)
        written.release()

    monkeypatch.setattr(display, "write_page", counted)
    with pytest.raises(KeyboardInterrupt), TallyDisplay(page=page) as show:  # noqa: PT012
        assert not page.exists(), "nothing is known yet"
        show(state := tallies())
        assert all(written.acquire(timeout=30) for _ in range(twice)), "again, though no episode ended"
        source = page.read_text()
        assert "at work" in source
        assert "&lt;script&gt;lost" in source
        assert "<b>a" not in source
        for told in ("4/10", "75 %", "50 %", "unknown", "2 open"):
            assert told in source, told
        assert 'data-seconds="5.0"' in source
        state[0].open = 0
        raise KeyboardInterrupt
    assert "stopped" in (source := page.read_text())
    assert 'data-seconds="0"' in source, "it looks no more"
    assert re.findall(r"<(?:img|link|iframe)|(?:src|href)=", source) == []
    assert capsys.readouterr().err.count(f"live page: {page}") == 1


def test_work_goes_on_where_no_page_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with TallyDisplay(page=tmp_path / "file/live.html") as show:
        show(tallies())
    assert capsys.readouterr().err.count("no live page: ") == 1


def test_a_training_shows_its_losses_from_before_it_was_cut_too(tmp_path: Path) -> None:
    lines = [{"event": "begin", "step": 0, "steps": 3}]
    lines += [{"event": "log", "step": step, "steps": 3, "loss": 3 / step, "seconds": step} for step in (1, 2)]
    (tmp_path / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with TrainingDisplay("react", tmp_path) as show:
        show(TrainingProgress(2, 3, 1.5, None, None, None))
    source = (tmp_path / "live.html").read_text()
    assert "Loss of react by step" in source
    assert "last 1.500" in source
    assert "2/3" in source


def test_a_failure_is_told_in_bounds_and_commands_no_terminal() -> None:
    trace, tally = make_trace(failed=True), Tally("a", Path("a"), 1)
    assert trace.failure is not None
    told = f"tool x: ValueError: \x1b[2J\u202e{'y' * 1_000_000}"
    tally.add(trace.model_copy(update={"failure": trace.failure.model_copy(update={"message": told})}))
    assert len(tally.first_failure) < 3_000
    assert r"ValueError: \x1b[2J\u202ey" in tally.first_failure
    assert tally.last_failures == (tally.first_failure,)
