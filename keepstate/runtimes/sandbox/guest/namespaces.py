"""The top rung: namespaces of our own, in which there is no host to reach.

The zygote moves into new user, mount, network, IPC, UTS and process-id namespaces, whose root is a small read-only
tmpfs that shows Python's standard library and nothing else: no /proc, no /etc, no home, no installed packages. Each
worker gets a process-id namespace and a /tmp of its own. Needs Linux 5.12 and the right to make user namespaces.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from os import fork  # not the one that agents find, whose errors have other words

from . import kernel
from .library import INSTALLED_PACKAGES

INSIDE_ID = 1000
"""User and group id that a worker sees itself under."""
NOBODY = 65534
"""User and group id of workers outside, where the host is root."""
TMP_OPTIONS = f"size=16m,nr_inodes=1024,mode=0700,uid={INSIDE_ID},gid={INSIDE_ID}".encode()
STAGE = "/proc"
"""Where the new root is put together: a folder that every Linux has and that holds no library of Python."""
DEVICES = ("null", "zero", "urandom", "random")
ZONES = "/usr/share/zoneinfo"


def enter(libraries: dict[str, str]) -> bool:
    """Move this process into new namespaces, and return in its only child: process 1 of them. The parent waits.

    Args:
        libraries: Folders of the standard library, and under which path each is to be shown, read-only.

    Returns:
        Whether workers can take a user id that is not the host's (`INSIDE_ID` is then `NOBODY` outside).

    Raises:
        OSError: This machine does not permit it.
    """
    dropped = _enter_user_namespace()
    kernel.unshare(
        kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID
    )
    socket.sethostname("sandbox")
    _build_root(libraries)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # again: it is lost with the change of user namespace
    child = fork()
    if child:
        os.closerange(3, 256)
        os.waitpid(child, 0)
        os._exit(0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    return dropped


def fork_worker(own: int) -> int:
    """Fork process 1 of a new process-id namespace. Returns as `os.fork`.

    Args:
        own: A descriptor of this process.
    """
    kernel.unshare(kernel.CLONE_NEWPID)
    pid = fork()
    if pid:
        kernel.enter_namespace(own, kernel.CLONE_NEWPID)  # or the next child would be born into the same one
    return pid


def give_own_tmp() -> None:
    """Give this worker a mount namespace with its own /tmp, and move there."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount_tmp(TMP_OPTIONS)
    os.chdir("/tmp")


def _enter_user_namespace() -> bool:
    user, group = os.geteuid(), os.getegid()
    if user == 0 and _enter_with_two_identities():
        return True
    if user != 0:
        kernel.unshare(kernel.CLONE_NEWUSER)
    with contextlib.suppress(FileNotFoundError):
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{INSIDE_ID} {user} 1")
    _write("/proc/self/gid_map", f"{INSIDE_ID} {group} 1")
    return False


def _enter_with_two_identities() -> bool:
    """As root: the zygote stays root inside, to read what only root may; workers become `NOBODY`.

    Only a process outside of the new namespace may write a map of two ids, so a short-lived child does.
    """
    os.setgroups([])
    parent = os.getpid()
    wait, go = os.pipe()
    helper = fork()
    if helper == 0:
        code = 1
        try:
            os.close(go)
            os.read(wait, 1)
            for kind in ("uid", "gid"):
                _write(f"/proc/{parent}/{kind}_map", f"0 0 1\n{INSIDE_ID} {NOBODY} 1\n")
            code = 0
        finally:
            os._exit(code)
    os.close(wait)
    kernel.unshare(kernel.CLONE_NEWUSER)
    os.write(go, b".")
    os.close(go)
    return os.waitpid(helper, 0)[1] == 0


def _build_root(libraries: dict[str, str]) -> None:
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    shown = {**libraries, **({ZONES: ZONES} if os.path.isdir(ZONES) else {})}
    kernel.mount("tmpfs", STAGE, "tmpfs", kernel.MS_NOSUID, "size=1m,nr_inodes=256,mode=0755")
    for folder, place in shown.items():
        os.makedirs(STAGE + place)
        kernel.mount(folder, STAGE + place, None, kernel.MS_BIND | kernel.MS_REC)
        for name in INSTALLED_PACKAGES:
            if os.path.isdir(packages := f"{STAGE}{place}/{name}"):
                kernel.mount("tmpfs", packages, "tmpfs", 0, "size=4k,nr_inodes=1,mode=0555")
        kernel.make_read_only(STAGE + place, recursive=True)
    os.makedirs(STAGE + "/dev")
    for name in DEVICES:
        os.close(os.open(f"{STAGE}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o600))
        kernel.mount(f"/dev/{name}", f"{STAGE}/dev/{name}", None, kernel.MS_BIND)
        kernel.make_read_only(f"{STAGE}/dev/{name}", devices=True)  # its times are the host's; writing to it works
    os.makedirs(STAGE + "/tmp", exist_ok=True)
    kernel.make_root(STAGE)
    kernel.make_read_only("/")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())  # the kernel wants a map in one piece
    finally:
        os.close(descriptor)
