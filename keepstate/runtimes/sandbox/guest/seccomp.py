"""The filter of system calls: an allow-list as a BPF program, built by a pure function for either architecture.

Built from blocks that each end by returning, so that no jump leads further than over one block: a jump that was off
by one once allowed everything and was not noticed. Of two blocks, one is for the lower numbers and one for the higher,
and so on in each: the kernel, which runs a new filter once for every system call, takes .1 ms for it instead of .4.
`build_filter` only computes; `kernel.set_filter` installs.
"""

from __future__ import annotations

import errno
import struct
from enum import Enum
from itertools import chain

from . import syscalls

Instruction = tuple[int, int, int, int]
"""`struct sock_filter`: code, jump if true, jump if false, constant."""

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
AUDIT_ARCH = {syscalls.X86_64: 0xC000003E, syscalls.AARCH64: 0xC00000B7}
X32_BIT = 0x40000000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`."""

AF_UNIX = 1
DEVICE_COMMANDS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)
"""TCGETS and TIOCGWINSZ, which `isatty` and `os.get_terminal_size` ask; FIONBIO, FIONCLEX and FIOCLEX, by which Python
sets sockets non-blocking (asyncio needs it) and descriptors inheritable."""
DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC.

Not F_SETOWN and F_SETSIG, which make the kernel send any signal to any process of the same user. No locks: they belong
to the file, so two episodes that may read one file of the standard library would talk by what they lock of it.
"""
FUTEX_PRIVATE = 128
"""FUTEX_PRIVATE_FLAG. Other futexes are known by the file that is mapped: by one of the standard library, which all may
map, episodes would wake one another, and see who waits. What Python and libc wait for within a process is private."""
CLOCKS = 16
"""Kinds of clocks, which `clock_gettime` takes for any numbers below; others are those of processes by their number."""


CHAIN = 4
"""System calls that are asked for one after the other."""
OPEN_TO_WRITE = 0o1 | 0o2 | 0o100 | 0o1000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC. Landlock before Linux 6.2 lets a file be emptied that may only be read."""


class Files(Enum):
    """Which files the other layers leave in sight."""

    OWN = "own"
    """A private root: every file in sight is the worker's own or read-only."""
    HOST_READ_ONLY = "host read-only"
    """The host's root, of which Landlock opens a part for reading."""
    NONE = "none"
    """Nothing stands between the worker and the host's files: no call that takes a path."""


def _return(value: int) -> Instruction:
    return RETURN, 0, 0, value


def _refuse(error: int) -> Instruction:
    return _return(ERRNO | error)


def _if_number(number: int, block: list[Instruction]) -> list[Instruction]:
    """Run `block`, which returns, for system call `number`."""
    return [(JUMP_EQUAL, 0, len(block), number), *block]


def _by_number(blocks: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Run the block, which returns, of the system call; refuse one that has none.

    Args:
        blocks: By number, ascending.
    """
    if len(blocks) <= CHAIN:
        return [*chain.from_iterable(_if_number(number, block) for number, block in blocks), _refuse(errno.EPERM)]
    middle = len(blocks) // 2
    lower = _by_number(blocks[:middle])
    return [(JUMP_AT_LEAST, len(lower), 0, blocks[middle][0]), *lower, *_by_number(blocks[middle:])]


def _argument(index: int, half: int) -> Instruction:
    """Load the low (0) or high (1) half of an argument; both architectures are little-endian."""
    return LOAD, 0, 0, ARGUMENTS_AT + 8 * index + 4 * half


def _if_one_of(index: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow if the `int` argument `index` is one of `values`, else refuse. The kernel ignores the high half too."""
    block = [_argument(index, 0)]
    for value in values:
        block += [(JUMP_EQUAL, 0, 1, value & 0xFFFFFFFF), _return(ALLOW)]
    return [*block, _refuse(errno.EPERM)]


def _if_below(index: int, bound: int) -> list[Instruction]:
    """Allow if the unsigned `int` argument `index` is smaller than `bound`, else refuse."""
    return [_argument(index, 0), (JUMP_AT_LEAST, 0, 1, bound), _refuse(errno.EPERM), _return(ALLOW)]


def _if_null(index: int) -> list[Instruction]:
    """Allow if the pointer `index` is NULL, else refuse."""
    refuse = _refuse(errno.EPERM)
    return [
        _argument(index, 0),
        (JUMP_EQUAL, 1, 0, 0),
        refuse,
        _argument(index, 1),
        (JUMP_EQUAL, 1, 0, 0),
        refuse,
        _return(ALLOW),
    ]


def _if_clear(index: int, bits: int) -> list[Instruction]:
    """Allow if the `int` argument `index` has none of `bits`, else refuse."""
    return [_argument(index, 0), (JUMP_ANY_BIT, 0, 1, bits), _refuse(errno.EPERM), _return(ALLOW)]


def _if_any_of(index: int, bits: int) -> list[Instruction]:
    """Allow if the `int` argument `index` has one of `bits`, else refuse."""
    return [_argument(index, 0), (JUMP_ANY_BIT, 0, 1, bits), _return(ALLOW), _refuse(errno.EPERM)]


def _checked(files: Files, own_pid: int) -> dict[str, list[Instruction]]:
    """Calls of which the arguments decide."""
    reading = {"open": _if_clear(1, OPEN_TO_WRITE), "openat": _if_clear(2, OPEN_TO_WRITE)}
    clocks = dict.fromkeys(("clock_gettime", "clock_getres", "clock_nanosleep"), _if_below(0, CLOCKS))
    return {
        **(reading if files is Files.HOST_READ_ONLY else {}),
        **clocks,
        "fcntl": _if_one_of(1, DESCRIPTOR_COMMANDS),
        "futex": _if_any_of(1, FUTEX_PRIVATE),
        "ioctl": _if_one_of(1, DEVICE_COMMANDS),
        "kill": _if_one_of(0, (own_pid,)),  # never 0, -1 or a group: these reach beyond a pid namespace
        "tgkill": _if_one_of(0, (own_pid,)),
        "prlimit64": _if_null(2),  # asking is free, setting is not, for anybody
        "socketpair": _if_one_of(0, (AF_UNIX,)),  # asyncio's wake-up
        "sendto": _if_null(4),  # on a connected pair only: no address
    }


def build_filter(architecture: str, files: Files, own_pid: int) -> list[Instruction]:
    """The program for one worker.

    Args:
        architecture: `x86_64` or `aarch64`.
        files: What else confines file access.
        own_pid: The worker's process id as it sees it itself: the only one it may signal.
    """
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_EQUAL, 1, 0, AUDIT_ARCH[architecture]),
        _return(KILL),  # another ABI has other numbers
        (LOAD, 0, 0, NUMBER_AT),
    ]
    if architecture == syscalls.X86_64:
        program += [(JUMP_AT_LEAST, 0, 1, X32_BIT), _refuse(errno.ENOSYS)]
    allowed = dict(syscalls.FREE)
    if files is not Files.NONE:
        allowed |= syscalls.READ_FILES
    if files is Files.OWN:
        allowed |= syscalls.WRITE_FILES
    blocks: dict[int, list[Instruction]] = {}
    for calls, block in (
        (syscalls.NO_PROCESSES, [_refuse(errno.EAGAIN)]),
        (syscalls.ABSENT, [_refuse(errno.ENOSYS)]),
        (allowed, [_return(ALLOW)]),
    ):
        blocks |= dict.fromkeys(syscalls.numbers(calls, architecture), block)
    for name, block in _checked(files, own_pid).items():
        pair = syscalls.CHECKED.get(name) or syscalls.READ_FILES[name]
        blocks |= dict.fromkeys(syscalls.numbers({name: pair}, architecture), block)
    return program + _by_number(sorted(blocks.items()))


def pack(program: list[Instruction]) -> bytes:
    """The program as the kernel reads it: an array of `struct sock_filter`."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
