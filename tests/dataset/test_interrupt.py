"""`dataset build` that is cut ends at once, with 130, and leaves no process and no half of a data set."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_traces import make_trace, write_traces

from keepstate.dataset.tokenizer import TextTokenizer

PATIENCE_SECONDS = 20.0
"""Far more than it takes, far less than for ever."""


def group(leader: int) -> list[int]:
    """The processes of a session that still live."""
    living = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == leader and state != "Z":
                living.append(int(entry.name))
    return living


def wait_until(what: str, true: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


@pytest.mark.parametrize("wait", [0.0, 0.5], ids=["while workers start", "while they work"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_cut_leaves_nothing(
    number: signal.Signals, wait: float, tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0, answers=["words " * 500] * 20)])
    for copy in range(5_000):
        os.link(root / "knapsack-t0.trace.json", root / f"x{copy}.trace.json")
    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"]
    command[-1] += "from keepstate.cli import main; main()"  # a shell may have ignored SIGINT for us
    command += ["dataset", "build", "--traces", root, "--runtime", "persistent", "--out", tmp_path / "d", "--jobs", "2"]
    command += ["--tokenizer", small_tokenizer.path, "--template", "chatml"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until("two workers", lambda: len(group(process.pid)) >= 3)
        time.sleep(wait)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, words = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, words.strip()) == (130, "interrupted")
        wait_until("the end of every process", lambda: not group(process.pid))
    finally:
        for left in group(process.pid):
            os.kill(left, signal.SIGKILL)
    assert [path for path in (tmp_path / "d").rglob("*") if path.is_file()] == []
