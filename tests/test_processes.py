"""One at a time: who comes second says so and waits; the kernel lets it go on however the first ends."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from keepstate.errors import UserError
from keepstate.processes import INSTANT_SECONDS, alone_in, is_held, only_one

HOLD = """
import sys, time
from pathlib import Path
from keepstate.processes import only_one
with only_one(Path(sys.argv[1]), "it"):
    print("in", flush=True)
    time.sleep(60)
"""


def holder(lock: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_second_says_that_it_waits_and_goes_on_when_the_first_is_killed(tmp_path: Path) -> None:
    first = holder(tmp_path / "lock")
    assert first.stdout
    assert first.stdout.readline() == "in\n"
    second = holder(tmp_path / "lock")
    assert second.stderr
    assert second.stdout
    assert second.stderr.readline() == "it is being made by another keepstate: waiting for it\n"
    first.kill()
    first.communicate()
    assert second.stdout.readline() == "in\n"
    second.kill()
    second.communicate()


def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), only_one(tmp_path / "file" / "lock", "it"):
        pass


def test_of_two_demos_in_one_folder_the_second_waits_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    with only_one(tmp_path / ".lock", "the first"):
        command = [sys.executable, "-m", "keepstate", "demo", "--out", tmp_path]
        second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        assert second.stderr
        assert (
            second.stderr.readline() == f"the demo in {tmp_path} is being made by another keepstate: waiting for it\n"
        )
        second.send_signal(signal.SIGINT)
        _, said = second.communicate(timeout=30)
    assert second.returncode == 130
    assert said.split() == ["interrupted"]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_who_only_looks_keeps_nobody_out(tmp_path: Path) -> None:
    """`ls` holds the lock of a training for an instant; one that is held on is told."""
    lock, busy = tmp_path / "lock", UserError("busy", "wait")
    lock.touch()
    with lock.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(INSTANT_SECONDS / 4, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with only_one(lock, "it", busy=busy):
            assert is_held(lock)
            with pytest.raises(UserError, match="busy"), only_one(lock, "it", busy=busy):
                pass
    assert not is_held(lock)


def test_who_only_looks_at_a_folder_keeps_no_run_out(tmp_path: Path) -> None:
    """`clean` holds the lock of a folder of results for an instant."""
    looking = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(INSTANT_SECONDS / 4, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with alone_in(tmp_path):
            assert is_held(tmp_path)
            with pytest.raises(UserError, match="another keepstate plays into"), alone_in(tmp_path):
                pass
        assert not is_held(tmp_path)
        assert is_held(tmp_path / "gone", unknown=True)
    finally:
        os.close(looking)
