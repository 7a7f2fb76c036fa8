"""What two processes train together is what one trains: the rows of every step, each once an epoch, the same losses.

With real Axolotl on the CPU (gloo), as `--gpus 2` starts it on two GPUs. An epoch has an odd number of packed rows.
"""

from pathlib import Path

import pytest
from test_resume import ROUNDING, bench, finish, losses, rows_seen, start

from keepstate.train import read_done

__all__ = ["bench"]
pytestmark = [pytest.mark.train_env, pytest.mark.timeout(900)]


def test_two_processes_train_what_one_does(bench: Path, tmp_path: Path) -> None:
    alone, out = tmp_path / "alone", tmp_path / "two"
    finish(start(bench, "packed", alone))

    finish(start(bench, "packed", out, "--gpus", "2"))
    trained = {step: row[1:] for step, row in rows_seen(out).items()}
    assert trained == {step: row[1:] for step, row in rows_seen(alone).items()}
    assert losses(out) == pytest.approx(losses(alone), abs=ROUNDING)
    done, whole = read_done(out), read_done(alone)
    assert done is not None
    assert whole is not None
    assert (done.key, done.steps) == (whole.key, whole.steps)
