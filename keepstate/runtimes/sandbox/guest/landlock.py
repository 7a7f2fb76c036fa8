"""Rule sets of Landlock (Linux 5.13): which files, ports and processes remain within reach.

One rule set is made by the zygote and shared by all workers. Does not mediate looking at names and sizes (`stat`),
nor `chmod` and the like, which the filter of system calls refuses instead.
"""

from __future__ import annotations

import os
import struct

from . import kernel
from .library import INSTALLED_PACKAGES

EXECUTE, READ_FILE, READ_FOLDER = 1 << 0, 1 << 2, 1 << 3
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights over files each version of the interface knows, where that changed."""
NETWORK_VERSION, SCOPE_VERSION = 4, 6
TCP_BIND_AND_CONNECT = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def _attributes(version: int, *, files: bool) -> bytes:
    rights = (1 << FILE_RIGHTS[max(known for known in FILE_RIGHTS if known <= version)]) - 1
    fields = [rights if files else 0]
    if version >= NETWORK_VERSION:
        fields.append(TCP_BIND_AND_CONNECT)
    if version >= SCOPE_VERSION:
        fields.append(ABSTRACT_SOCKETS_AND_SIGNALS)
    return struct.pack(f"={len(fields)}Q", *fields)


def ruleset_for_files(libraries: list[str]) -> int:
    """No file but those of the standard library, and those only for reading; no TCP, no signal to another process.

    A right to a folder is one to all beneath it, so what lies in `libraries` is allowed one by one, without packages
    that were installed there; the folders themselves cannot be listed.

    Raises:
        OSError: This kernel has no Landlock.
    """
    version = kernel.landlock_version()
    if not version:
        raise OSError("Landlock is not available: the kernel is older than 5.13, or it is switched off or forbidden")
    ruleset = kernel.landlock_ruleset(_attributes(version, files=True))
    for entry in (entry for folder in libraries for entry in os.scandir(folder)):
        if entry.name in INSTALLED_PACKAGES or entry.is_symlink():  # a link may lead out; the file beside it is allowed
            continue
        descriptor = os.open(entry.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        access = EXECUTE | READ_FILE | (READ_FOLDER if entry.is_dir(follow_symlinks=False) else 0)
        kernel.landlock_allow(ruleset, access, descriptor)
        os.close(descriptor)
    return ruleset


def ruleset_without_files() -> int | None:
    """No TCP and no signal to another process, behind a private root; None where this kernel cannot do that."""
    version = kernel.landlock_version()
    if version < NETWORK_VERSION:
        return None
    return kernel.landlock_ruleset(_attributes(version, files=False))
