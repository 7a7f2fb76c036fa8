"""Finds a Python of a version that an environment's lock files hold wheels for, or lets uv fetch it.

    find_python(environments.spec("train"))      # the running one, else of PATH, /usr/bin, pyenv or uv

The core may run on another version than the environments. Installs nothing by itself: uv does, where it is there and
its own setting (`UV_PYTHON_DOWNLOADS`) lets it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from keepstate import machine
from keepstate.errors import UserError
from keepstate.setup.environments import EnvironmentSpec
from keepstate.vocabulary import Engines

SYSTEM = Path("/usr/bin")
ASK_SECONDS = 20
FETCH_SECONDS = 600


def find_python(wanted: EnvironmentSpec, *, fetch: bool = False) -> str:
    """An interpreter for `wanted`: the running one where its version will do.

    Args:
        wanted: What is to be made with it.
        fetch: Let uv fetch one where none is found.

    Raises:
        UserError: There is none, which says how to get one; or the CPU wheels do not run on this kind of machine.
    """
    if wanted.device == "cpu" and not machine.is_x86_linux():
        raise UserError(
            "the CPU environments hold wheels for x86-64 Linux only",
            "run keepstate there, or in a container of that kind; tasks, traces, datasets and reports work everywhere",
        )
    versions = wanted.release.pythons
    running = ".".join(platform.python_version_tuple()[:2])
    for version in sorted(versions, key=lambda version: version != running):
        for candidate in _candidates(version):
            if python_version(candidate) == version:
                return candidate
    if fetch and (fetched := _fetched(versions[0])):
        return fetched
    needed, ways = wanted.release.words(), "your system's package, uv python install {0} or pyenv install {0}"
    hint = f"install it ({ways.format(versions[0])}), then: {wanted.command}"
    for other in (replace(wanted, engines=engines) for engines in Engines):
        if running in other.release.pythons:
            hint += f"; or take {other.release.words()}, which Python {running} will do for: {other.choice}"
    raise UserError(f"no Python {' or '.join(versions)} found (PATH, /usr/bin, pyenv, uv), which {needed} needs", hint)


def _candidates(version: str) -> Iterator[str]:
    """Where a Python of that version may lie, the running one first."""
    name = f"python{version}"
    yield sys.executable
    if on_path := shutil.which(name):
        yield on_path
    yield str(SYSTEM / name)
    pyenv = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    with suppress(OSError):  # somebody else's, as where a shell of theirs became this user's
        yield from map(str, sorted(pyenv.glob(f"versions/{version}*/bin/{name}"), reverse=True))
    if by_uv := _uv("find", version, ASK_SECONDS):
        yield by_uv


def _fetched(version: str) -> str | None:
    """The Python that uv fetches; None where there is no uv, or it may not or cannot."""
    if not shutil.which("uv"):
        return None
    print(f"uv fetches Python {version}, as none is found", file=sys.stderr, flush=True)
    if _uv("install", version, FETCH_SECONDS) is None:
        return None
    found = _uv("find", version, ASK_SECONDS)
    return found if found and python_version(found) == version else None


def _uv(action: str, version: str, seconds: float) -> str | None:
    """What `uv python ACTION VERSION` prints; None where there is no uv, or it fails."""
    return _said(["uv", "python", action, version], seconds)


def python_version(python: str) -> str | None:
    """`major.minor` of an interpreter; None where it does not run (a shim of pyenv may exist and fail)."""
    if python == sys.executable:
        return ".".join(platform.python_version_tuple()[:2])
    return _said([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], ASK_SECONDS)


def _said(command: Sequence[str], seconds: float) -> str | None:
    try:
        errors = None if "install" in command else subprocess.DEVNULL  # uv shows there how far it is
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=seconds, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
