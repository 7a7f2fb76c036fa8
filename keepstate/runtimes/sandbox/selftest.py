"""What a rung must prove in a throw-away worker before it is used: that attacks fail and that honest code works.

A wrong filter still runs every program, so nothing less than trying tells whether a sandbox is one. The attacks are
harmless where they succeed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from keepstate.errors import EpisodeFailure
from keepstate.runtimes.base import ToolGate
from keepstate.runtimes.sandbox.block import BlockResult, WorkerLost
from keepstate.runtimes.sandbox.zygote import RungUnavailable, Zygote
from keepstate.tasks.base import Environment, Verdict
from keepstate.tasks.tools import ToolError
from keepstate.traces.record import Limits
from keepstate.vocabulary import Rung

LIMITS = Limits(tool_calls=1, action_seconds=10, memory_mib=64)

PROBE = """
import json, os, signal, socket

def refused(attempt):
    try:
        found = attempt()
    except (OSError, RuntimeError, MemoryError, ValueError) as error:
        return True, f"{type(error).__name__}: {error}"
    return False, f"succeeded: {found!r:.80}"

def works(attempt):
    try:
        return True, f"{attempt()!r:.80}"
    except BaseException as error:
        return False, f"{type(error).__name__}: {error}"

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)

def thread():
    import _thread
    return _thread.start_new_thread(int, ())

def write_tmp():
    with open("/tmp/probe", "w") as file:
        file.write("text")
    with open("/tmp/probe") as file:
        return file.read()

def descriptors():
    found = []
    for number in range(3, 64):
        try:
            os.get_inheritable(number)
        except OSError:
            continue
        found.append(number)
    if len(found) > 1:
        raise OSError(f"open: {found}")
    return found

def environment():
    names = sorted(os.environ)
    if names != ["LANG", "PATH"]:
        raise OSError(f"found {names}")
    return names

def nothing_at(path):
    os.stat(path)
    return path

def late_import():
    import colorsys
    return colorsys.__name__

attempts = {
    "memory": lambda: refused(lambda: len(bytearray(MEMORY))),
    "environment": lambda: works(environment),
    "descriptors": lambda: works(descriptors),
    "network": lambda: refused(lambda: socket.socket()),
    "processes": lambda: refused(fork),
    "threads": lambda: refused(thread),
    "programs": lambda: refused(lambda: os.execv("/bin/true", ["true"])),
    "host files": lambda: refused(lambda: os.open(HOST_FILE, os.O_RDONLY)),
    "writing files": lambda: refused(lambda: os.open("/keepstate-probe", os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "signals to the host": lambda: refused(lambda: os.kill(HOST, 0)),
    "signals to groups": lambda: refused(lambda: os.kill(0, 0)),
    "raising limits": lambda: refused(lambda: __import__("resource").setrlimit(4, (1, 1))),
    "names of host files": lambda: refused(lambda: nothing_at(HOST_FILE)),
    "own /tmp": lambda: works(write_tmp),
    "late import": lambda: works(late_import),
}
print(json.dumps({name: attempts[name]() for name in NAMES}))
"""

ALWAYS = ("memory", "environment", "descriptors")
CONFINED = (
    *ALWAYS,
    "network",
    "processes",
    "threads",
    "programs",
    "host files",
    "writing files",
    "signals to the host",
    "signals to groups",
    "raising limits",
)
REQUIRED = {
    Rung.PROCESS: ALWAYS,
    Rung.SECCOMP: CONFINED,
    Rung.LANDLOCK: CONFINED,
    Rung.NAMESPACES: (*CONFINED, "names of host files", "own /tmp", "late import"),
}
"""What each rung guarantees. A rung that fails one of these is not used."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing tried in a worker."""

    name: str
    passed: bool
    detail: str
    """What happened."""


@dataclass(frozen=True, slots=True)
class RungReport:
    """Whether a rung can be used on this machine."""

    rung: Rung
    usable: bool
    reason: str
    """Why not; empty where it is usable."""
    checks: tuple[Check, ...] = ()


class _NoTask(Environment):
    """An environment without tools."""

    goal = ""

    def __init__(self) -> None:
        """No task."""

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        raise ToolError("there are no tools")

    def verdict(self) -> Verdict:
        return Verdict(is_solved=False, score=0.0)


async def open_rung(rung: Rung) -> tuple[RungReport, Zygote | None]:
    """Start a zygote for `rung` and test it.

    Returns:
        The report, and the zygote where the rung is usable.
    """
    try:
        zygote = await Zygote.start(rung)
    except RungUnavailable as reason:
        return RungReport(rung, False, str(reason)), None
    try:
        report = await _test(rung, zygote)
    except BaseException:
        await zygote.close()
        raise
    if report.usable:
        return report, zygote
    await zygote.close()
    return report, None


async def _test(rung: Rung, zygote: Zygote) -> RungReport:
    values = {
        "MEMORY": 2 * LIMITS.memory_mib << 20,
        "HOST_FILE": __file__,
        "HOST": os.getpid(),
        "NAMES": REQUIRED[rung],
    }
    code = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + PROBE
    try:
        worker = await zygote.spawn(LIMITS.memory_mib)
        try:
            result = await worker.run(code, ToolGate(_NoTask(), LIMITS.most_calls), LIMITS)
        finally:
            worker.close()
        checks = _checks(result)
    except (EpisodeFailure, WorkerLost, ValueError) as error:
        return RungReport(rung, False, f"its self-test did not run: {error}")
    failed = [f"{check.name} ({check.detail})" for check in checks if not check.passed]
    return RungReport(rung, not failed, "its self-test failed: " + ", ".join(failed) if failed else "", checks)


def _checks(result: BlockResult) -> tuple[Check, ...]:
    if result.error is not None:
        raise ValueError(result.error.splitlines()[-1])
    found: dict[str, tuple[bool, str]] = json.loads(result.output)
    return tuple(Check(name, passed, detail) for name, (passed, detail) in found.items())
