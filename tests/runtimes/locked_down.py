"""Enter a sandbox where the kernel refuses what its rungs need, as a container does: locked_down.py CALL...

Installs a filter that refuses the named system calls, then prints the rung that `Sandbox()` takes and whether a block
runs in it, or the message and hint of its refusal.
"""

import asyncio
import platform
import sys

import bpf
import syscall_numbers as numbers
from playground import PERSISTENT, opened

from keepstate.errors import UserError
from keepstate.runtimes import Sandbox
from keepstate.runtimes.sandbox.guest import kernel, seccomp

ERRNO_EPERM, ERRNO_ENOSYS = bpf.ERRNO | 1, bpf.ERRNO | 38
LANDLOCK = {"landlock_create_ruleset": 444, "landlock_add_rule": 445, "landlock_restrict_self": 446}


def refuse(names: list[str]) -> None:
    """From here on the kernel refuses these calls, to this process and its children."""
    program: list[bpf.Instruction] = [(0x20, 0, 0, 0)]
    for name in names:
        if name == "landlock":
            found = [(number, ERRNO_ENOSYS) for number in LANDLOCK.values()]
        elif name == "filter":  # prctl(PR_SET_SECCOMP, ...) and seccomp()
            found = []
            program += [
                (0x15, 0, 4, numbers.number("prctl", platform.machine()) or 0),
                (0x20, 0, 0, 16),
                (0x15, 0, 1, kernel.PR_SET_SECCOMP),
                (0x06, 0, 0, ERRNO_EPERM),
                (0x06, 0, 0, bpf.ALLOW),
            ]
        else:
            found = [(numbers.number(name, platform.machine()) or 0, ERRNO_EPERM)]
        for number, answer in found:
            program += [(0x15, 0, 1, number), (0x06, 0, 0, answer)]
    program.append((0x06, 0, 0, bpf.ALLOW))
    bpf.check(program)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.Filter(seccomp.pack(program)).install()


async def main() -> None:
    try:
        async with Sandbox() as sandbox, opened(PERSISTENT, sandbox) as session:
            print(sandbox.rung, await session.works())
    except UserError as error:
        print(error.message, error.hint, sep="\n")


if __name__ == "__main__":
    refuse(sys.argv[1:])
    asyncio.run(main())
