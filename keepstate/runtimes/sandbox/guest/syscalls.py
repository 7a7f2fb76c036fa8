"""System call numbers on x86-64 and aarch64, and which of them a worker may use.

Numbers are those of the kernel's `asm/unistd_64.h` and `asm-generic/unistd.h`. None: that architecture has no such
call, its libc uses another one. Any call that is not named here is refused by the filter (`seccomp.py`): `flock`,
`sysinfo` and `statfs` too, by which one episode could see what another or the host does.
"""

from __future__ import annotations

import os
from functools import cache

X86_64, AARCH64 = "x86_64", "aarch64"
ARCHITECTURES = (X86_64, AARCH64)

FREE: dict[str, tuple[int | None, int | None]] = {
    # bytes through descriptors that are already open
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "fstat": (5, 80),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "recvfrom": (45, 207),
    "shutdown": (48, 210),
    "getsockopt": (55, 209),
    "getsockname": (51, 204),
    # memory
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "membarrier": (324, 283),
    # signals to itself, and waiting
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133),
    "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    # time
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, None),
    # what the process is
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "umask": (95, 166),
    "uname": (63, 160),
    "getcwd": (79, 17),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""Harmless with any arguments."""

READ_FILES: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None),
    "openat": (257, 56),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "getdents64": (217, 61),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "fadvise64": (221, 223),
}
"""Opening and looking at files, where something else (a mount namespace, Landlock) decides which."""

WRITE_FILES: dict[str, tuple[int | None, int | None]] = {
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "utimensat": (280, 88),
    "copy_file_range": (326, 285),
    "sendfile": (40, 71),
}
"""Changing files, and reading where links lead: only where every file in sight is the worker's own. Landlock does not
mediate chmod, utimensat and readlink."""

CHECKED: dict[str, tuple[int | None, int | None]] = {
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "fcntl": (72, 25),
    "futex": (202, 98),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "socketpair": (53, 199),
    "sendto": (44, 206),
}
"""Allowed with some arguments; `seccomp.py` says which."""

ABSENT: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),
    "openat2": (437, 437),
    "io_uring_setup": (425, 425),
}
"""Refused as if the kernel did not know them, so that libc falls back to the older call."""

NO_PROCESSES: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
}
"""Refused with EAGAIN, which Python reports as "can't start new thread" and "Resource temporarily unavailable"."""

OWN: dict[str, tuple[int | None, int | None]] = {
    "mount_setattr": (442, 442),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}
"""Used by the zygote before the filter stands, by `kernel.py`; refused to workers."""


def numbers(calls: dict[str, tuple[int | None, int | None]], architecture: str) -> list[int]:
    """The numbers of `calls` that exist on `architecture`."""
    column = ARCHITECTURES.index(architecture)
    return [found for pair in calls.values() if (found := pair[column]) is not None]


@cache
def number(name: str) -> int:
    """The number of one of our own calls on this machine.

    Raises:
        OSError: This architecture is not known.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise OSError(f"no system call table for {machine}; there are tables for {', '.join(ARCHITECTURES)}")
    found = OWN[name][ARCHITECTURES.index(machine)]
    assert found is not None
    return found
