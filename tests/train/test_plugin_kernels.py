"""The plugin's faster functions compute what those they replace compute, and so do those that are to be measured."""

import subprocess
from pathlib import Path

import pytest

from keepstate.setup.environments import spec

CHECKS = {"kernels_agree.py": 10, "candidates_agree.py": 3}
"""Scripts, and how many checks each makes on any machine."""


@pytest.mark.train_env
@pytest.mark.timeout(330)
@pytest.mark.parametrize("name", CHECKS)
def test_they_agree(name: str) -> None:
    python = spec("train").python
    if not python.is_file():
        pytest.skip(".venv-train is missing: make setup-train")
    done = subprocess.run(
        [python, Path(__file__).with_name(name)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("agrees:") >= CHECKS[name]
