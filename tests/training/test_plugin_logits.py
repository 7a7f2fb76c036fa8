"""Leaving out the logits of masked tokens changes what is computed, not what comes out."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from keepstate.environments import spec
from keepstate.training.config import PLUGIN_FOLDER

HERE = Path(__file__).parent


@pytest.mark.train_env
@pytest.mark.timeout(600)
def test_gradients_are_those_of_all_logits(tmp_path: Path) -> None:
    python = spec("train").python
    if not python.is_file():
        pytest.skip(".venv-train is missing: make setup-train")
    env = os.environ | {"PYTHONPATH": str(PLUGIN_FOLDER)}
    for script in ("tiny_model.py", "logits_agree.py"):
        done = subprocess.run(
            [python, HERE / script, tmp_path], capture_output=True, text=True, env=env, timeout=250, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.partition("RESULT")[2])
    assert found["seen"] == [40, 20]  # half of the positions are trained in some row
    assert found["apart"] < 1e-6
    assert found["losses"][0] == pytest.approx(found["losses"][1], abs=1e-5)
