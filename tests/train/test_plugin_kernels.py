"""The plugin's faster functions compute what those they replace compute."""

import subprocess
from pathlib import Path

import pytest

from keepstate.setup.environments import spec

SCRIPT = Path(__file__).with_name("kernels_agree.py")


@pytest.mark.train_env
@pytest.mark.timeout(330)
def test_they_agree() -> None:
    python = spec("train").python
    if not python.is_file():
        pytest.skip(".venv-train is missing: make setup-train")
    done = subprocess.run([python, SCRIPT], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees:") >= 6
