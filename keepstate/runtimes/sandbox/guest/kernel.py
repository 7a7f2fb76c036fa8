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
# what each worker calls is looked up and typed here, once: a function of a library, an array and its type that are made
# in a worker cost it up to 80 pages that have to be copied for it
_prctl, _unshare, _setns, _capset, _mount = _libc.prctl, _libc.unshare, _libc.setns, _libc.capset, _libc.mount
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_unshare.argtypes = (ctypes.c_int,)
_setns.argtypes = (ctypes.c_int, ctypes.c_int)
_capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.syscall.restype = ctypes.c_long
_call = ctypes.CDLL(None, use_errno=True).syscall  # another object than `_libc.syscall`, with types of its own
_call.argtypes = (ctypes.c_long,) * 3
_call.restype = ctypes.c_long
_capabilities = (
    ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0), 8),
    ctypes.create_string_buffer(24),
)


def _check(result: int, name: str, detail: object = "") -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{detail}: {os.strerror(error)}")
    return result


def _syscall(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(_libc.syscall(ctypes.c_long(number(name)), *converted), name)


def prctl(option: int, value: int) -> None:
    """Set a property of this process."""
    _check(_prctl(option, value, 0, 0, 0), "prctl ", option)


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones."""
    _check(_unshare(flags), "unshare")


def enter_namespace(descriptor: int, kind: int) -> None:
    """Enter the namespace of kind `kind` that the process behind a pidfd is in (Linux 5.8)."""
    _check(_setns(descriptor, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount a file system."""
    kind_, options_ = (None if text is None else text.encode() for text in (kind, options))
    _check(_mount(source.encode(), target.encode(), kind_, flags, options_), "mount ", target)


def mount_tmp(options: bytes) -> None:
    """Mount an empty /tmp."""
    _check(_mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options), "mount /tmp")


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
    _check(_capset(*_capabilities), "capset")


class Filter:
    """A seccomp filter that can be installed.

    Args:
        program: An array of `struct sock_filter`.
    """

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        self._header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(self._code)))
        self._at = ctypes.addressof(self._header)

    def install(self) -> None:
        """Put this process under it, for good."""
        _check(_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, self._at, 0, 0), "seccomp")


def landlock_version() -> int:
    """Version of Landlock's interface; 0 where the kernel has none or it is off."""
    try:
        return _syscall("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def landlock_ruleset(attributes: bytes) -> int:
    """A descriptor of a new rule set."""
    number("landlock_restrict_self")  # known from here on
    return _syscall("landlock_create_ruleset", attributes, len(attributes), 0)


def landlock_allow(ruleset: int, access: int, folder: int) -> None:
    """Allow `access` beneath the folder behind a descriptor."""
    _syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", access, folder), 0)


def landlock_restrict(ruleset: int) -> None:
    """Put this process under a rule set, for good."""
    _check(_call(number("landlock_restrict_self"), ruleset, 0), "landlock_restrict_self")
