"""The seccomp filter, run by an interpreter for both architectures: what it allows, refuses and kills."""

import errno
import re
from pathlib import Path

import pytest
import syscall_numbers as numbers
from bpf import ACTION_MASK, ALLOW, ERRNO, KILL_PROCESS, check, decode, run, traced

from keepstate.runtimes.sandbox.guest import syscalls
from keepstate.runtimes.sandbox.guest.seccomp import Files, Instruction, build_filter, pack

MACHINES = {"x86_64": numbers.AUDIT_ARCH_X86_64, "aarch64": numbers.AUDIT_ARCH_AARCH64}
OTHER_ARCHITECTURES = {numbers.AUDIT_ARCH_I386, numbers.AUDIT_ARCH_ARM, 0, 0xFFFFFFFF}
OWN_PID = 4242
NEVER = (
    numbers.PROCESSES,
    numbers.OTHERS,
    numbers.OTHERS_DOINGS,
    numbers.NETWORK,
    numbers.KERNEL,
    numbers.NAMESPACES,
    numbers.PRIVILEGES,
    numbers.SHARED,
    numbers.HANDLES,
    numbers.SCHEDULING,
)
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}

each_machine = pytest.mark.parametrize("machine", MACHINES)
each_files = pytest.mark.parametrize("files", Files)


def program_of(machine: str, files: Files) -> list[Instruction]:
    """The filter as the kernel would decode it."""
    program = decode(pack(build_filter(machine, files, OWN_PID)))
    check(program)
    return program


def verdict(program: list[Instruction], machine: str, name: str, *arguments: int) -> str:
    """`allow`, the name of an error, `kill`, or `absent` where the architecture lacks the call."""
    found = numbers.number(name, machine)
    return "absent" if found is None else outcome(run(program, found, MACHINES[machine], arguments))


def outcome(value: int) -> str:
    if value == ALLOW:
        return "allow"
    if value & ACTION_MASK == ERRNO:
        return errno.errorcode[value & 0xFFFF]
    assert value == KILL_PROCESS, hex(value)
    return "kill"


@each_machine
@each_files
def test_what_an_interpreter_needs_is_allowed(machine: str, files: Files) -> None:
    program = program_of(machine, files)
    assert {name: verdict(program, machine, name) for name in numbers.NEEDED} == dict.fromkeys(numbers.NEEDED, "allow")


@each_machine
@each_files
def test_what_is_dangerous_is_refused(machine: str, files: Files) -> None:
    program = program_of(machine, files)
    for group in NEVER:
        for name in group:
            for arguments in ((), (0xFFFFFFFFFFFFFFFF,) * 6, (1, 2, 3, 4, 5, 6), (OWN_PID,) * 6):
                assert verdict(program, machine, name, *arguments) in ("EPERM", "ENOSYS", "EAGAIN", "absent"), name


@each_machine
def test_new_processes_look_like_an_exhausted_system(machine: str) -> None:
    program = program_of(machine, Files.OWN)
    seen = {name: verdict(program, machine, name) for name in ("clone", "clone3", "fork", "vfork", "execve")}
    assert seen["clone"] == "EAGAIN"
    assert seen["clone3"] == "ENOSYS", "libc then falls back to clone"
    assert seen["execve"] == "EPERM"
    assert seen["fork"] == seen["vfork"] == ("EAGAIN" if machine == "x86_64" else "absent")


@each_machine
@pytest.mark.parametrize("files", [Files.HOST_READ_ONLY, Files.NONE])
def test_files_of_the_host_cannot_be_changed(machine: str, files: Files) -> None:
    program = program_of(machine, files)
    for name in numbers.METADATA:
        assert verdict(program, machine, name) in ("EPERM", "ENOSYS", "absent"), name


@each_machine
def test_without_any_layer_for_files_nothing_is_opened(machine: str) -> None:
    program = program_of(machine, Files.NONE)
    for name in numbers.OPENING:
        assert verdict(program, machine, name) in ("EPERM", "ENOSYS", "absent"), name
    assert verdict(program_of(machine, Files.OWN), machine, "openat") == "allow"


@each_machine
@each_files
def test_another_architectures_numbers_are_fatal(machine: str, files: Files) -> None:
    program = program_of(machine, files)
    for arch in OTHER_ARCHITECTURES | (set(MACHINES.values()) - {MACHINES[machine]}):
        assert {outcome(run(program, number, arch)) for number in range(512)} == {"kill"}


def test_the_x32_entrance_is_closed() -> None:
    program = program_of("x86_64", Files.OWN)
    arch = numbers.AUDIT_ARCH_X86_64
    assert {outcome(run(program, numbers.X32_BIT | number, arch)) for number in range(1024)} == {"ENOSYS"}
    assert outcome(run(program, 0xFFFFFFFF, arch)) == "ENOSYS"


@each_machine
@each_files
def test_numbers_nobody_listed_are_refused(machine: str, files: Files) -> None:
    program = program_of(machine, files)
    allowed = [n for n in range(4096) if outcome(run(program, n, MACHINES[machine], (OWN_PID, 0))) == "allow"]
    assert max(allowed) < 450
    assert 50 < len(allowed) <= 131, "no more than the design's allow-list"
    forbidden = {pair[machine == "aarch64"] for group in NEVER for pair in group.values()}
    assert not forbidden & set(allowed)


@each_machine
@each_files
def test_no_call_runs_through_the_whole_program(machine: str, files: Files) -> None:
    """The kernel runs a new filter for every system call that there is, for every worker."""
    program = program_of(machine, files)
    steps = [traced(program, number, MACHINES[machine])[1] for number in range(512)]
    assert max(steps) < 30 < len(program) / 5


CLOCK_CALLS = ("clock_gettime", "clock_getres", "clock_nanosleep")
CASES = [
    # signals: to itself alone, never to a group or everybody
    ("kill", (OWN_PID, 9), "allow"),
    ("kill", (0, 9), "EPERM"),
    ("kill", (-1, 9), "EPERM"),
    ("kill", (-OWN_PID, 9), "EPERM"),
    ("kill", (1, 9), "EPERM"),
    ("kill", (OWN_PID + 1, 9), "EPERM"),
    ("kill", ((1 << 32) + 0, 9), "EPERM"),
    ("tgkill", (OWN_PID, OWN_PID, 9), "allow"),
    ("tgkill", (0, OWN_PID, 9), "EPERM"),
    ("tgkill", (1, 1, 9), "EPERM"),
    ("tkill", (OWN_PID, 9), "EPERM"),
    # limits: asking for one's own at most, setting never
    ("prlimit64", (0, 7, 0x1000, 0), "EPERM"),
    ("prlimit64", (0, 7, 1 << 32, 0), "EPERM"),
    ("prlimit64", (1, 7, 0x1000, 0), "EPERM"),
    # descriptors: no owner and no signal of theirs
    ("fcntl", (3, 1, 0), "allow"),
    ("fcntl", (3, 3, 0), "allow"),
    ("fcntl", (3, 8, 1), "EPERM"),  # F_SETOWN
    ("fcntl", (3, 10, 9), "EPERM"),  # F_SETSIG
    ("fcntl", (3, 15, 0), "EPERM"),  # F_SETOWN_EX
    ("fcntl", (3, 1024, 0), "EPERM"),  # F_SETLEASE
    ("fcntl", (3, 1026, 0), "EPERM"),  # F_NOTIFY
    ("fcntl", (3, 1033, 0), "EPERM"),  # F_ADD_SEALS
    ("fcntl", (3, (1 << 32) + 8, 1), "EPERM"),
    # locks are the file's: two episodes that may read it would see each other's
    *[("fcntl", (3, command, 0x1000), "EPERM") for command in (5, 6, 7, 36, 37, 38)],  # F_GETLK to F_OFD_SETLKW
    # futexes: within the process; by those of a mapped file one episode would wake another
    *[("futex", (0x1000, 128 | command), "allow") for command in (0, 1, 4, 9, 10, 256 | 9)],
    *[("futex", (0x1000, command), "EPERM") for command in (0, 1, 4, 9, 10, 256 | 9, (1 << 39) | 1)],
    # clocks: none of another process
    *[(name, (clock, 0), "allow") for name in CLOCK_CALLS for clock in (0, 1, 2, 3, 7)],
    *[
        (name, (clock & 0xFFFFFFFF, 0), "EPERM")
        for name in CLOCK_CALLS
        for clock in (~1 << 3 | 2, ~OWN_PID << 3 | 6, -1)
    ],
    ("clock_gettime", ((1 << 64) - 6, 0), "EPERM"),
    # terminals and devices
    ("ioctl", (0, 0x5401, 0), "allow"),
    ("ioctl", (0, 0x5412, 0), "EPERM"),  # TIOCSTI
    ("ioctl", (0, 0x541C, 0), "EPERM"),  # TIOCLINUX
    ("ioctl", (0, 0x8901, 0), "EPERM"),  # FIOSETOWN
    ("ioctl", (0, 0x5452, 0), "EPERM"),  # FIOASYNC
    # sockets: a connected pair, never an address
    ("socketpair", (1, 1, 0), "allow"),
    ("socketpair", (2, 1, 0), "EPERM"),
    ("socketpair", (16, 1, 0), "EPERM"),
    ("sendto", (3, 0x1000, 1, 0, 0, 0), "allow"),
    ("sendto", (3, 0x1000, 1, 0, 0x1000, 16), "EPERM"),
    ("sendto", (3, 0x1000, 1, 0, 1 << 32, 16), "EPERM"),
    ("sendmsg", (3, 0x1000, 0), "EPERM"),  # would pass descriptors to the host
    ("prctl", (4, 1), "EPERM"),  # dumpable again
]


@each_machine
@each_files
@pytest.mark.parametrize(("name", "arguments", "expected"), CASES)
def test_arguments_decide(machine: str, files: Files, name: str, arguments: tuple[int, ...], expected: str) -> None:
    assert verdict(program_of(machine, files), machine, name, *arguments) == expected


@each_machine
def test_the_tables_agree_with_the_kernels_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"{HEADERS[machine]} is missing (linux-libc-dev): the whole table was NOT compared")
    text = HEADERS[machine].read_text()
    kernel = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    if machine == "aarch64":
        kernel["newfstatat"] = kernel.pop("fstatat")
    tables = (syscalls.FREE, syscalls.READ_FILES, syscalls.WRITE_FILES, syscalls.CHECKED, syscalls.ABSENT)
    column = syscalls.ARCHITECTURES.index(machine)
    for table in (*tables, syscalls.NO_PROCESSES, syscalls.OWN):
        for name, pair in table.items():
            if pair[column] is None:
                assert machine == "aarch64"
                assert name not in kernel or name == "getrlimit", name
            else:
                assert pair[column] == kernel[name], name
