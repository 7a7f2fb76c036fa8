"""When checkpoints are played beside their training, for how long it stands still, and what a failure costs."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from keepstate.errors import UserError
from keepstate.setup import installing
from keepstate.train import TrainedAdapter, evaluation
from keepstate.train.evaluation import LOG, PAUSE, STOP_SECONDS, Evaluation, Evaluations, Place
from keepstate.train.progress import Follower
from keepstate.train.result import WEIGHTS
from keepstate.train.scores import FOLDER, ScorePoint, kept_steps, read_scores, score_curve, step_folder, told

WHO = Path(__file__).with_name("plays.py")
Make = Callable[..., Evaluations]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Make:
    """Evaluations of a training of which steps 20 and 40 are kept."""
    monkeypatch.setattr(installing, "ensure", lambda _: None)
    monkeypatch.setattr(evaluation, "CONSIDER_SECONDS", 0.0)
    for step in (20, 40):
        step_folder(tmp_path, step).mkdir()

    def evaluations(way: str = "plays", *, pauses: bool = True, share: float = 0.5, tasks: str = "a") -> Evaluations:
        what = Evaluation(
            cell="two tasks",
            command=(sys.executable, str(WHO), way),
            decisive={"tasks": tasks},
            settings={},
            episodes=2,
            share=share,
            steps=None,
            beside=lambda: Place(pauses=pauses),
        )
        return Evaluations(what, tmp_path, said.append)

    return evaluations


def trained(tmp_path: Path, seconds: float, *, stood: float = 0.0, stands_still: bool = False) -> Follower:
    """A training that took so long."""
    return Follower(tmp_path / "progress.jsonl", stood=stood, stands_still=stands_still, _run_seconds=seconds)


def tend_to_its_end(evaluations: Evaluations, follower: Follower) -> list[str]:
    """Tend until nothing goes on; what went on."""
    doing, deadline = [evaluations.tend(follower)], time.monotonic() + 30
    while doing[-1]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        doing.append(evaluations.tend(follower))
    return doing


def adapter(tmp_path: Path, steps: int) -> TrainedAdapter:
    for name in (WEIGHTS, "adapter_config.json"):
        (tmp_path / name).write_text("x")
    return TrainedAdapter.model_construct(steps=steps, seconds=200.0, evaluation_seconds=30.0)


def test_it_waits_for_its_share_and_for_the_training_to_stand_still(
    make: Make, tmp_path: Path, said: list[str]
) -> None:
    evaluations = make()
    needed = (evaluation.FIRST_SECONDS + STOP_SECONDS) / 0.5
    assert evaluations.tend(trained(tmp_path, needed - 1)) == ""
    assert evaluations.tend(trained(tmp_path, needed + 99, stood=60)) == "", "what it took already counts"
    assert not (tmp_path / PAUSE).exists()
    assert evaluations.tend(trained(tmp_path, needed)) == ""
    assert (tmp_path / PAUSE).exists()
    assert read_scores(tmp_path) is None, "the step under way ends first"
    doing = tend_to_its_end(evaluations, trained(tmp_path, needed, stands_still=True))
    assert doing[0].startswith("evaluating step 40: ")
    assert not (tmp_path / PAUSE).exists()
    assert said == ["step 40 in forget: 50.0 (1 of 2 solved)"]


def test_what_the_last_one_took_decides_how_many_fit(make: Make, tmp_path: Path, said: list[str]) -> None:
    """20 s of start and 5 for each of two episodes: 33 s of one checkpoint, 44 of two."""
    evaluations = make(share=1)
    evaluations.tend(trained(tmp_path, 70))
    tend_to_its_end(evaluations, trained(tmp_path, 70, stands_still=True))
    step_folder(tmp_path, 60).mkdir()
    assert evaluations.tend(trained(tmp_path, 100, stood=60)) == ""
    assert not (tmp_path / PAUSE).exists()
    evaluations.tend(trained(tmp_path, 104, stood=60))
    tend_to_its_end(evaluations, trained(tmp_path, 104, stood=60, stands_still=True))
    evaluations.tend(trained(tmp_path, 204, stood=100))
    tend_to_its_end(evaluations, trained(tmp_path, 204, stood=100, stands_still=True))
    assert [line.partition(" in")[0] for line in said] == ["step 40", "step 60", "step 20"]
    assert evaluations.tend(trained(tmp_path, 9_999)) == ""
    assert not (tmp_path / PAUSE).exists(), "all is played"


def test_one_that_takes_longer_than_it_may_is_ended_and_loses_nothing(
    make: Make, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "FIRST_SECONDS", 1.0)
    evaluations = make("hangs", share=1)
    allowed = STOP_SECONDS + 3
    evaluations.tend(trained(tmp_path, allowed))
    began = time.monotonic()
    tend_to_its_end(evaluations, trained(tmp_path, allowed, stands_still=True))
    assert time.monotonic() - began < allowed
    assert not (tmp_path / PAUSE).exists()
    assert said == ["the evaluation of step 20, 40 took longer than it may: the rest of it is played later"]
    assert told(read_scores(tmp_path), [20, 40]) == [
        f"step {step} in forget: 50.0 (1 of 1 solved, 1 not played)" for step in (20, 40)
    ]
    assert nobody_plays(tmp_path)


def nobody_plays(tmp_path: Path) -> bool:
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return not [line for line in lines if WHO.name in line and str(tmp_path) in line]


def test_a_failure_is_unknown_is_not_repeated_and_reaches_nobody(make: Make, tmp_path: Path, said: list[str]) -> None:
    evaluations = make("fails")
    evaluations.tend(trained(tmp_path, 900))
    tend_to_its_end(evaluations, trained(tmp_path, 900, stands_still=True))
    assert len(said) == 1
    assert said[0].startswith(
        f"the evaluation of step 20, 40 failed, its scores are unknown ({tmp_path / FOLDER / LOG})"
    )
    assert said[0].endswith("\nno memory left")
    assert not (tmp_path / PAUSE).exists()
    assert evaluations.tend(trained(tmp_path, 9_999)) == ""
    assert not (tmp_path / PAUSE).exists()
    evaluations.finish(adapter(tmp_path, 60), lambda _: None)
    assert "step 20, 40, 60 failed" in said[1], "tried once more"
    assert said[3:6] == [f"  step {step}: unknown, it was not played" for step in (20, 40, 60)]
    assert "unknown is no 0" in said[7]


def test_without_a_place_or_a_share_all_is_played_afterwards(make: Make, tmp_path: Path, said: list[str]) -> None:
    evaluations = make(share=0)
    assert evaluations.tend(trained(tmp_path, 9_999)) == ""
    evaluations.finish(adapter(tmp_path, 60), lambda _: None)
    scores = read_scores(tmp_path)
    assert scores
    assert [point.step for point in scores.points] == [20, 40, 60] == kept_steps(tmp_path)
    said.clear()
    make().finish(adapter(tmp_path, 60), lambda _: None)
    assert said[0] == "held-out scores, two tasks:", "nothing is played twice"
    assert said[-1] == (
        "evaluation took 15 % of the training's time, 30 s of standing still beside 200 s (50 % were allowed)"
    )


def test_beside_a_training_on_another_gpu_nothing_stands_still(make: Make, tmp_path: Path) -> None:
    evaluations = make(pauses=False)
    assert evaluations.tend(trained(tmp_path, 0)).startswith("evaluating step 20, 40")
    assert not (tmp_path / PAUSE).exists()
    tend_to_its_end(evaluations, trained(tmp_path, 0))


def test_room_is_looked_for_now_and_then(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CONSIDER_SECONDS", 60.0)
    evaluations, asked = make(), list[int]()
    monkeypatch.setattr(evaluations, "_consider", asked.append)
    for _ in range(9):
        evaluations.tend(trained(tmp_path, 900))
    assert len(asked) == 1


def test_ctrl_c_ends_both(make: Make, tmp_path: Path) -> None:
    evaluations = make("hangs")
    evaluations.tend(trained(tmp_path, 900))
    evaluations.tend(trained(tmp_path, 900, stands_still=True))
    assert not nobody_plays(tmp_path)
    evaluations.stop()
    assert nobody_plays(tmp_path)
    assert not (tmp_path / PAUSE).exists()

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluations.finish(adapter(tmp_path, 60), interrupt)
    evaluations.stop()
    assert nobody_plays(tmp_path)


def test_another_cell_is_refused_where_checkpoints_have_scores(make: Make, tmp_path: Path) -> None:
    make()
    make(tasks="b").finish(adapter(tmp_path, 40), lambda _: None)
    make(tasks="b")
    with pytest.raises(UserError, match="tasks: b -> c") as caught:
        make(tasks="c")
    assert str(tmp_path / FOLDER) in caught.value.hint


def test_an_unknown_score_is_drawn_as_such() -> None:
    drawn = score_curve("a", [ScorePoint(10, None), ScorePoint(20, 40.0, 10.0, 70.0)], (0, 20)).marks
    assert drawn.count(">?<") == 1
    assert "last 40.0" in drawn
    assert "none known" in score_curve("a", [ScorePoint(10, None)], (0, 20)).marks
