"""How a training is followed, through crashes and resumed runs."""

import json
from pathlib import Path

from keepstate.train.progress import Follower, TrainingProgress


def test_follower_joins_the_runs_of_a_resumed_training(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    entries: list[dict[str, object]] = [{"event": "begin", "step": 0, "seconds": 0}]
    entries += [{"event": "log", "step": s, "seconds": s, "loss": float(s), "tokens/total": 10 * s} for s in (1, 2, 3)]
    entries += [{"event": "begin", "step": 2, "seconds": 0, "versions": {"torch": "2"}}]
    entries += [{"event": "log", "step": 3, "seconds": 5, "loss": 3.0, "tokens/total": 30, "eval_loss": 7.0}]
    entries += [{"event": "end", "step": 3, "seconds": 6}]
    path.write_text("".join(json.dumps(entry | {"steps": 3}) + "\n" for entry in entries))
    follower = Follower(path)
    follower.look()
    assert follower.losses == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert (follower.seconds, follower.tokens, follower.eval_loss) == (9.0, 30, 7.0)
    assert follower.finished
    assert follower.versions == {"torch": "2"}


def test_an_ended_training_has_no_minutes_left() -> None:
    assert TrainingProgress(59, 60, 0.5, 100.0, None, 6.0).words().endswith("100 tokens/s, 0.1 min left")
    assert TrainingProgress(60, 60, 0.5, 100.0, None, 0.0).words().endswith("100 tokens/s")


def test_follower_reads_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    follower = Follower(path)
    assert follower.look() is None
    begin = {"event": "begin", "step": 10, "steps": 20, "seconds": 0}
    log = {"event": "log", "step": 12, "steps": 20, "seconds": 4.0, "loss": 0.5, "tokens/total": 800}
    path.write_text(json.dumps(begin) + "\n" + json.dumps(log)[:20])
    state = follower.look()
    assert state is not None
    assert (state.step, state.loss) == (10, None)
    path.write_text(json.dumps(begin) + "\n" + json.dumps(log) + "\n")
    state = follower.look()
    assert state is not None
    assert (state.step, state.tokens_per_second, state.eta_seconds) == (12, 200.0, 16.0)
    later = {"event": "log", "step": 14, "steps": 20, "seconds": 5.0, "loss": 0.5, "tokens/total": 900}
    with path.open("a") as file:
        file.write(json.dumps(later) + "\n")
    state = follower.look()
    assert state is not None
    # .5 s a step since the first log: the first step, which warms up, no longer counts
    assert (state.eta_seconds, state.mean_tokens_per_second, state.timed_steps) == (3.0, 100.0, 2)
    warning = {"event": "warning", "step": 14, "steps": 20, "seconds": 6.0, "words": "the database is locked"}
    with path.open("a") as file:
        file.write(json.dumps(warning) + "\n")
    assert follower.look() is None
    assert follower.warnings == ["the database is locked"]
    resumed = Follower(path)
    resumed.take_in_earlier()  # said by the run before
    assert (resumed.losses, resumed.warnings) == (follower.losses, [])
    end = {"event": "end", "step": 20, "steps": 20, "seconds": 20.0, "peak_bytes": 0}
    with path.open("a") as file:
        file.write(json.dumps(end) + "\n")
    follower.look()
    assert follower.finished


def test_a_loss_that_is_no_number_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    begin: dict[str, object] = {"event": "begin", "step": 0, "steps": 9, "seconds": 0}
    logs = [{"event": "log", "step": s, "steps": 9, "seconds": s, "loss": 2.0 if s < 3 else None} for s in (1, 2, 3, 4)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in [begin, *logs]))
    follower = Follower(path)
    state = follower.look()
    assert state is not None
    assert (state.step, state.loss) == (4, None)
    assert (follower.losses, follower.diverged) == ([(1, 2.0), (2, 2.0)], 3)
    assert len(follower.warnings) == 1
    assert "step 3" in follower.warnings[0]
    resumed = Follower(path)
    resumed.take_in_earlier()
    assert resumed.warnings == follower.warnings
