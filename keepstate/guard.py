"""Runs one command and ends it, with everything it started, when the process that asked for it is gone.

Started by `keepstate.processes` as `python -I -S guard.py FD GRACE COMMAND...`; FD is the reading end of a pipe whose
writing end only the asker holds, so it closes however the asker ends, SIGKILL included; GRACE is how many seconds the
command may then take to end by itself after SIGTERM. Exits with the command's
code (128 + signal where a signal ended it). Standard library only: it must start in milliseconds.
Does not catch a process that is both outside the command's tree and on a system other than Linux.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
IS_LINUX = sys.platform == "linux"


def prctl(option: int, value: int) -> None:
    """Linux process control; elsewhere nothing."""
    if IS_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(asker_fd: int, grace: float, command: list[str]) -> int:
    """Run `command` until it ends or the asker goes, then leave no process behind."""
    asker = os.getppid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become our children, so that we find them
    stop_read, stop_write = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.write(stop_write, b"."))
    try:
        child = subprocess.Popen(
            command,
            start_new_session=True,  # its own process group, out of the terminal's Ctrl-C
            preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509  (no threads; if we are killed)
        )
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while child.poll() is None:
        # The command's end wakes nobody here: 0.1 s is how late it may be noticed.
        told = select.select([asker_fd, stop_read], [], [], 0.1)[0]
        if told or os.getppid() != asker:
            if stop_read in told:
                os.read(stop_read, 1)
            end(child, grace, stop_read)
            break
    code = child.wait()
    kill_descendants(child.pid)
    return code if code >= 0 else 128 - code


def end(child: "subprocess.Popen[bytes]", grace: float, hurry: int) -> None:
    """Ask the command's group to end, again whenever we are, then force it."""
    signal_group(child.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while child.poll() is None and time.monotonic() < deadline:
        if select.select([hurry], [], [], 0.05)[0]:
            os.read(hurry, 1)
            signal_group(child.pid, signal.SIGTERM)
    signal_group(child.pid, signal.SIGKILL)


def signal_group(group: int, number: int) -> None:
    """Signal a process group that may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_descendants(group: int) -> None:
    """Kill what the command left: its group, and on Linux whatever was handed to us when its parent died."""
    signal_group(group, signal.SIGKILL)
    while IS_LINUX:
        pids = descendants(os.getpid())
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, from /proc."""
    found: list[int] = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = [int(child) for child in file.read().split()]
    except OSError:
        return found
    for child in children:
        found += [child, *descendants(child)]
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
