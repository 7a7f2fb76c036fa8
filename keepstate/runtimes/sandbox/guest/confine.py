"""What a worker does to itself before it runs model code, by rung; nothing of it can be undone afterwards.

| rung | needs | adds to the rung below |
|---|---|---|
| process | fork | own session, limits, empty environment, no descriptors; not a sandbox |
| seccomp | seccomp filters | no call that opens, signals, connects, starts or traces anything |
| landlock | Linux 5.13 | the standard library can be read, so that later imports work |
| namespaces | Linux 5.12, user namespaces | an own root, /tmp, process table and network, all empty |
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from os import fork  # not the one that agents find, whose errors have other words
from pathlib import Path

from . import kernel, landlock, library, namespaces
from .seccomp import Files, build_filter, pack

NAMESPACES, LANDLOCK, SECCOMP, PROCESS = "namespaces", "landlock", "seccomp", "process"
FILES = {NAMESPACES: Files.OWN, LANDLOCK: Files.HOST_READ_ONLY, SECCOMP: Files.NONE}
NICE = 10
"""Workers yield to the host: +35-45 % throughput measured with 64 of them on two cores."""
MIB = 1 << 20
LIMITS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_FSIZE: 16 * MIB,
    resource.RLIMIT_NOFILE: 64,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_CPU: 3600,  # seconds in its whole life, should the host be stopped while it runs
}
"""Not RLIMIT_NPROC: it counts all processes of a user, other episodes included, and does not bind root."""


@dataclass(frozen=True)
class Confinement:
    """What the zygote prepared once for all its workers."""

    rung: str
    idle_bytes: int
    """Address space of an idle worker."""
    ruleset: int | None
    """Descriptor of a Landlock rule set."""
    identity: int | None
    """User and group id that workers take; None to keep the host's."""
    zygote: int
    """Its process id."""
    itself: int
    """A descriptor of its process."""


def prepare(rung: str, places: dict[str, str]) -> Confinement:
    """Prepare the zygote; on the top rung this returns in another process than it was called in.

    Args:
        rung: Which.
        places: Folders of the standard library, and under which path each is to be shown.

    Raises:
        OSError: This machine does not permit this rung.
    """
    with open("/proc/self/statm") as file:
        idle_bytes = int(file.read().split()[0]) * resource.getpagesize()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, the kernel ends workers before it ends the host
    ruleset = None
    drops = os.geteuid() == 0 and (rung == SECCOMP or _anybody_may_read(places))
    identity = namespaces.NOBODY if drops else None
    if rung == NAMESPACES:
        identity = namespaces.INSIDE_ID if namespaces.enter(places) else None
        library.mounted()
        ruleset = landlock.ruleset_without_files()
        _filter(rung, 1)  # the same for all, each being process 1: building it takes longer than forking
    elif rung == LANDLOCK:
        ruleset = landlock.ruleset_for_files(list(places))
    return Confinement(rung, idle_bytes, ruleset, identity, os.getpid(), os.pidfd_open(os.getpid()))


def _anybody_may_read(folders: Iterable[str]) -> bool:
    """Whether later imports work under any user id: not where Python lies below /root."""
    needed = {str(path) for folder in folders for path in (Path(folder), *Path(folder).parents)}
    return all(os.stat(path).st_mode & 0o001 for path in needed)


@cache
def _filter(rung: str, own_pid: int) -> kernel.Filter:
    return kernel.Filter(pack(build_filter(os.uname().machine, FILES[rung], own_pid)))


def fork_worker(confinement: Confinement) -> int:
    """Fork a process for a worker. Returns as `os.fork`."""
    return namespaces.fork_worker(confinement.itself) if confinement.rung == NAMESPACES else fork()


def confine(confinement: Confinement, memory_mib: int) -> None:
    """Confine this worker.

    Args:
        confinement: What the zygote prepared.
        memory_mib: Address space that it may use beyond an idle interpreter's.

    Raises:
        OSError: A step failed; the worker must end.
    """
    rung = confinement.rung
    os.setsid()
    if rung == NAMESPACES:
        namespaces.give_own_tmp()
    else:
        os.chdir("/")
    memory = confinement.idle_bytes + memory_mib * MIB
    for kind, limit in {**LIMITS, resource.RLIMIT_AS: memory}.items():
        resource.setrlimit(kind, (limit, limit))
    if confinement.identity is not None:
        os.setgroups([])
        os.setresgid(*(confinement.identity,) * 3)
        os.setresuid(*(confinement.identity,) * 3)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() not in (confinement.zygote, 0):  # it died before we asked; 0: it is outside of our namespace
        os._exit(1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.drop_capabilities()
    os.nice(NICE)
    if rung == PROCESS:
        return
    if confinement.ruleset is not None:
        kernel.landlock_restrict(confinement.ruleset)
        os.close(confinement.ruleset)
    _filter(rung, os.getpid()).install()
