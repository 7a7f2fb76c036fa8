"""The Linux calls that Python 3.11 does not offer, by `ctypes`. Constants are those of the kernel's own headers.

Every function raises `OSError` that names the call. Linux on x86-64 and aarch64 only.
"""

from __future__ import annotations

import ctypes
import os
import struct

from .syscalls import number

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _check(result: int, name: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def _syscall(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(_libc.syscall(ctypes.c_long(number(name)), *converted), name)


def prctl(option: int, value: int) -> None:
    """Set a property of this process."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl({option})")


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def enter_namespace(descriptor: int, kind: int) -> None:
    """Enter the namespace of kind `kind` that the process behind a pidfd is in (Linux 5.8)."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount a file system."""
    words = [text.encode() if text is not None else None for text in (source, target, kind, options)]
    _check(_libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def make_read_only(target: str, *, recursive: bool = False, devices: bool = False) -> None:
    """Make a mount (and those below it) read-only, without set-uid programs and, unless said, devices (Linux 5.12)."""
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | (0 if devices else MOUNT_ATTR_NODEV)
    layout = ctypes.create_string_buffer(struct.pack("=4Q", attributes, 0, 0, 0), 32)
    _syscall("mount_setattr", AT_FDCWD, target.encode(), AT_RECURSIVE if recursive else 0, layout, 32)


def make_root(folder: str) -> None:
    """Make the mount at `folder` the root, and let go of everything outside of it."""
    os.chdir(folder)
    # the new root is stacked on the old one, which umount2 then takes away
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability; with no_new_privs and no exec there is no way back."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), 8)
    _check(_libc.capset(header, ctypes.create_string_buffer(24)), "capset")


def set_filter(program: bytes) -> None:
    """Install a seccomp filter: `program` is an array of `struct sock_filter`."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    _check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header), 0, 0), "seccomp")


def landlock_version() -> int:
    """Version of Landlock's interface; 0 where the kernel has none or it is off."""
    try:
        return _syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def landlock_ruleset(attributes: bytes) -> int:
    """A descriptor of a new rule set."""
    return _syscall("landlock_create_ruleset", attributes, len(attributes), 0)


def landlock_allow(ruleset: int, access: int, folder: int) -> None:
    """Allow `access` beneath the folder behind a descriptor."""
    _syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", access, folder), 0)


def landlock_restrict(ruleset: int) -> None:
    """Put this process under a rule set, for good."""
    _syscall("landlock_restrict_self", ruleset, 0)
