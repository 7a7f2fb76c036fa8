"""The attack suite: what model-written code may try, each entry with what must then be true.

Every module holds one group in `ATTACKS`. A script marks what it achieved by `BREACH` and what was refused by
`refused`, through the helpers of `PRELUDE`; `test_attacks.py` runs each script at each real rung and then asks whether
host, sandbox, a canary episode and the attacked episode are still well.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field

import syscall_numbers as numbers

from keepstate.vocabulary import Rung

REAL = (Rung.NAMESPACES, Rung.LANDLOCK, Rung.SECCOMP)


@dataclass(frozen=True, slots=True)
class Attack:
    """One script and what must be true of its outcome."""

    name: str
    code: str
    shows: str = "refused"
    """Regular expression that must match what the agent sees; proves that the script did what it says."""
    ends: tuple[str | None, ...] = (None,)
    """Error types with which it may end."""
    lost: bool | None = False
    """Whether the interpreter must be lost (True), kept (False), or may be either (None)."""
    seconds: float = 5.0
    calls: int = 25
    rungs: tuple[Rung, ...] = field(default=REAL)
    """Where it is tried; fewer where a rung's page says that it does not guarantee this."""


def prelude(host: dict[str, object]) -> str:
    """Helpers that every script may use, with the host's own coordinates as `HOST`."""
    machine = "aarch64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    every = (*numbers.GROUPS, numbers.ARGUMENTS)
    table = {name: numbers.number(name, machine) for group in every for name in group}
    return f"HOST = {host!r}\nNR = {table!r}\n{PRELUDE}"


PRELUDE = '''
import os, sys
BORN = os.getpid()

def tried(name, action):
    """Run what must fail."""
    try:
        value = action()
    except (TimeoutError, Exception) as error:
        print("refused", name, type(error).__name__, getattr(error, "errno", ""))
    else:
        print("BREACH", name, repr(value)[:200])

def library():
    """The C library, or the end of this block where even ctypes is out of reach."""
    try:
        import ctypes
        return ctypes.CDLL(None, use_errno=True)
    except (ImportError, OSError) as error:
        print("refused ctypes", error)
        raise SystemExit from None

def syscall(name, *arguments):
    """A raw system call: (result, errno)."""
    import ctypes
    call = library().syscall
    call.restype = ctypes.c_long
    ctypes.set_errno(0)
    result = call(ctypes.c_long(NR[name]), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if os.getpid() != BORN:
        os._exit(0)
    return result, ctypes.get_errno()

def denied(name, *arguments, also=()):
    """A system call that the sandbox itself must refuse, by EPERM, EACCES or ENOSYS."""
    if NR[name] is None:
        return
    result, code = syscall(name, *(arguments or (0, 0, 0, 0, 0, 0)))
    good = result == -1 and code in (1, 13, 38, *also)
    print("refused" if good else "BREACH", name, result, code)
'''
