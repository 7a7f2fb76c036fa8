"""Programs that keepstate starts: how long they may take to end, and what an impatient user does."""

import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from keepstate.processes import GuardedProcess

SAVES = """
import signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def hurry(*_):
    (folder / "hurried").touch()
    sys.exit(3)
def end(*_):
    signal.signal(signal.SIGTERM, hurry)
    (folder / "asked").touch()
    time.sleep(float(sys.argv[2]))
    (folder / "saved").touch()
    sys.exit(4)
signal.signal(signal.SIGTERM, end)
(folder / "up").touch()
time.sleep(60)
"""


def saver(folder: Path, seconds: float, grace: float) -> GuardedProcess:
    """A program that takes so long to save what it did."""
    process = GuardedProcess([sys.executable, "-c", SAVES, str(folder), str(seconds)], grace=grace)
    wait_for(folder / "up")
    return process


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.mark.parametrize(("seconds", "grace", "code", "saved"), [(0.3, 60, 4, True), (60, 0.3, 128 + 9, False)])
def test_a_program_may_save_within_its_grace(
    seconds: float, grace: float, code: int, saved: bool, tmp_path: Path
) -> None:
    assert saver(tmp_path, seconds, grace).stop() == code
    assert (tmp_path / "asked").exists()
    assert (tmp_path / "saved").exists() is saved


def test_a_second_ctrl_c_hurries_it(tmp_path: Path) -> None:
    process, main = saver(tmp_path, 60, 60), threading.main_thread().ident
    assert main

    def impatient() -> None:
        wait_for(tmp_path / "asked")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=impatient)
    thread.start()
    assert process.stop() == 3
    thread.join()
    assert (tmp_path / "hurried").exists()
    assert not (tmp_path / "saved").exists()
