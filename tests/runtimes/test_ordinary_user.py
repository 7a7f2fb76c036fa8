"""The same promises where the host is an ordinary user: tests that run as root run themselves as nobody too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DROP = [sys.executable, str(HERE / "as_nobody.py"), sys.executable]
SELECTION = "not test_ordinary_user and not test_filter and not test_frames"


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: every test here runs as an ordinary user anyway")
@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes beside others
def test_the_promises_hold_for_an_ordinary_user() -> None:
    tried = subprocess.run([*DROP, "-c", "import os; print(os.getuid())"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"this root may not make a mount namespace, NOT tested as an ordinary user: {tried.stderr[-200:]}")
    assert tried.stdout == "65534\n"
    command = [*DROP, "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider", "-k", SELECTION, "--tb=short"]
    command += ["-n", "2", "--dist", "worksteal"]  # half of it is waiting, as of the tests beside it
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) >= 800
