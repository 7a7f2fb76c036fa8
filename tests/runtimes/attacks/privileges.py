"""Attacks on the kernel and on limits: system calls that must not exist here, rights that must not come back."""

from __future__ import annotations

import syscall_numbers as numbers

from attacks import Attack


def _group(group: numbers.Numbers, *left_out: str) -> str:
    return """
""".join(f"denied({name!r})" for name in group if name not in left_out)


_X32 = """
import platform
if platform.machine() == "x86_64":
    library()
    NR["x32 getpid"], NR["x32 fork"] = 0x40000000 + 39, 0x40000000 + 57
    denied("x32 getpid")
    denied("x32 fork")
print("refused")
"""

_ROOT = """
tried("setuid", lambda: os.setuid(0) if os.getuid() else 1 / 0)
tried("setgroups", lambda: os.setgroups([0]))
tried("chroot", lambda: os.chroot("/tmp"))
tried("nice", lambda: os.nice(-5))
tried("setns", lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else 1 / 0)
tried("shadow", lambda: open("/etc/shadow").read())
"""

_RAISE = """
import resource
for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_NPROC"):
    which = getattr(resource, name)
    before = resource.getrlimit(which)
    infinity = resource.RLIM_INFINITY
    if before == (infinity, infinity) and name in ("RLIMIT_AS", "RLIMIT_CORE"):
        print("BREACH no limit", name)
    try:
        resource.setrlimit(which, (infinity, infinity))
    except (ValueError, OSError) as error:
        print("refused", name)
    if resource.getrlimit(which) != before:
        print("BREACH raised", name)
"""

_DUMPABLE = """
import ctypes
prctl = library().prctl
print("BREACH" if prctl(4, 1, 0, 0, 0) == 0 and prctl(3, 0, 0, 0, 0) == 1 else "refused dumpable")
print("BREACH" if prctl(1, 0, 0, 0, 0) == 0 else "refused death signal")
print("BREACH" if prctl(39, 0, 0, 0, 0) == 0 else "refused no_new_privs")
print("BREACH" if prctl(47, 2, 0, 0, 0) == 0 and prctl(47, 1, 0, 0, 0) == 1 else "refused ambient")
"""

ATTACKS = (
    Attack("process calls", _group(numbers.PROCESSES, "fork", "vfork", "clone", "clone3")),
    Attack(
        "calls that reach others",
        _group(numbers.OTHERS, "get_robust_list", "process_mrelease", "migrate_pages", "move_pages"),
    ),
    Attack("namespace calls", _group(numbers.NAMESPACES)),
    Attack("kernel calls", _group(numbers.KERNEL, "personality", "seccomp", "vhangup", "nfsservctl")),
    Attack("identity calls", _group(numbers.PRIVILEGES)),
    Attack("shared memory calls", _group(numbers.SHARED)),
    Attack("handle calls", _group(numbers.HANDLES)),
    Attack("network calls", _group(numbers.NETWORK)),
    Attack("the x32 entrance", _X32),
    Attack(
        "numbers that do not exist yet",
        """
library()
for nr in (600, 1023, 5000, 2**31 - 1, -1):
    NR['new'] = nr
    denied('new')
""",
    ),
    Attack("become root", _ROOT),
    Attack("raise limits", _RAISE),
    Attack("prctl", _DUMPABLE),
    Attack(
        "executable memory of others",
        """
import mmap
tried('mem', lambda: open('/dev/mem', 'r+b'))
denied('userfaultfd', 0)
denied('memfd_create', b'x', 0)
""",
    ),
    Attack(
        "io_uring",
        """
denied('io_uring_setup', 8, 0)
denied('io_uring_enter', 3, 1, 0, 0, 0, 0)
denied('io_uring_register', 3, 0, 0, 0)
""",
    ),
    Attack(
        "terminal injection",
        r"""
import fcntl
for fd in range(4):
    tried('TIOCSTI', lambda: fcntl.ioctl(fd, 0x5412, b'x'))
    tried('TIOCLINUX', lambda: fcntl.ioctl(fd, 0x541C, b'\x03'))
""",
    ),
)
