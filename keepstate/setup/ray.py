"""Ray, the optional extra `[ray]`: whether it is in the running environment, and putting it there from its lock file.

    keepstate setup ray     # install what is missing of locks/ray.txt, and print where it lies

It is part of the core environment, as the driver of a run is keepstate itself; its lock is made to fit the core's, so
nothing that is there changes. Imports no Ray.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import secrets
import sys
from pathlib import Path

from keepstate.errors import UserError
from keepstate.places import home, shipped, writable_home
from keepstate.processes import run_logged
from keepstate.setup.environments import core_has_pip, unless_set

COMMAND = "keepstate setup ray"
LOCK = "locks/ray.txt"


def ray_environment(*, alone: bool) -> dict[str, str]:
    """Variables of a process that uses Ray: no reports to its makers.

    Args:
        alone: Of one that starts a cluster of this machine: all listens on the loopback, and asks for a token.
    """
    quiet = {"RAY_USAGE_STATS_ENABLED": "0"}
    if not alone:
        return quiet
    token = unless_set({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    return quiet | token | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's word for "there are no other machines"


def locked() -> str:
    """The version that the lock file holds."""
    found = re.search(r"^ray==(\S+)", shipped(LOCK).read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def installed() -> str | None:
    """The version that is here."""
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return None


def ensure_ray() -> Path:
    """Install Ray unless it is there as locked, and return its folder.

    Raises:
        UserError: This environment has no pip, or pip failed.
    """
    if installed() != locked():
        by_hand = f"install -p {sys.executable} --no-deps --require-hashes -r {shipped(LOCK)}"
        if not core_has_pip():
            raise UserError(f"{sys.prefix} has no pip to install Ray with", f"with uv: uv pip {by_hand}")
        writable_home("the log of Ray's installation", COMMAND)
        log = home() / ".stamps" / "ray.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        print(f"Ray {locked()} is installed into {sys.prefix} (log: {log})", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-deps"]
        code, said = run_logged([*command, "--require-hashes", "-r", shipped(LOCK)], log)
        if code:
            raise UserError(f"Ray could not be installed; the end of {log}:\n{said}", f"mend it, then: {COMMAND}")
        importlib.invalidate_caches()
    found = importlib.util.find_spec("ray")
    if found is None or found.origin is None:
        raise UserError(
            f"Ray {locked()} is installed in {sys.prefix}, but has no files", f"pip uninstall ray, {COMMAND}"
        )
    return Path(found.origin).parent
