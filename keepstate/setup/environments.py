"""The Python environments beside the core: `.venv-train` (Axolotl), `.venv-serve` (vLLM), and how they stand.

Each is made once from its lock files (`locks/`, every wheel pinned by hash). A stamp, written last, names the locks it
was made from and what is installed; an environment without a fitting stamp is made anew. `docs/environments.md` tells
why there are three. Looks at files only: `keepstate.setup.installing` makes them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from keepstate import machine
from keepstate.errors import UserError
from keepstate.files import write_json
from keepstate.places import home, shipped

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds, asked where the index in use has none. `KEEPSTATE_TORCH_INDEX` names another."""
CPU_PYTHON = "3.11"
"""The CPU locks hold wheels for this version alone (Axolotl 0.19.0 with torch 2.13.0, measured)."""
NEEDED_GIB = {"cpu": 8, "cuda": 20}
"""Free disk space to ask for: the larger CPU environment takes 4 GiB, and pip unpacks beside it."""

NO_TELEMETRY = dict.fromkeys(
    ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "AXOLOTL_DO_NOT_TRACK", "VLLM_NO_USAGE_STATS"), "1"
)
"""Variables of whatever runs in them."""

Name = Literal["train", "serve"]
Device = Literal["cpu", "cuda"]
NAMES: tuple[Name, ...] = ("train", "serve")


def unless_set(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` with the values of this process's environment where a user set them."""
    return {name: os.environ.get(name, value) for name, value in variables.items()}


class State(StrEnum):
    """What was found where an environment should be."""

    READY = "ready"
    MISSING = "missing"
    STALE = "stale"
    """Made from other locks than those in the repository."""
    BROKEN = "broken"
    """Half made, or changed since."""
    CLOSED = "closed"
    """Whole, but its interpreter leads to a Python that is gone, or that this user may not run."""


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """One environment: where it lies and what it is made from."""

    name: Name
    device: Device
    home: Path

    @property
    def folder(self) -> Path:
        """The virtual environment's folder."""
        return self.home / f".venv-{self.name}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def log(self) -> Path:
        """What pip said when it was last made."""
        return self.home / ".stamps" / f"{self.name}.log"

    @property
    def locks(self) -> tuple[Path, ...]:
        """Its lock files, torch's first: a wrong index is then noticed within a second."""
        own = f"{self.name}-{self.device}.txt"
        names = ("torch-cpu.txt", own) if self.device == "cpu" else (own,)
        return tuple(shipped("locks") / name for name in names)

    @property
    def lock_hash(self) -> str:
        """SHA-256 (hex) of the lock files."""
        return hashlib.sha256(b"\0".join(path.read_bytes() for path in self.locks)).hexdigest()

    @property
    def command(self) -> str:
        """What a user types to make it."""
        return f"keepstate setup {self.name}"

    def state(self) -> State:
        """What is there now. Looks at files only (a millisecond); starts nothing."""
        if not os.path.lexists(self.folder):
            return State.MISSING
        try:
            stamp = json.loads(self.stamp.read_bytes())
        except (OSError, ValueError):
            return State.BROKEN
        if not isinstance(stamp, dict):
            return State.BROKEN
        if stamp.get("locks") != self.lock_hash or stamp.get("device") != self.device:
            return State.STALE
        if stamp.get("installed") != self._inventory():
            return State.BROKEN
        return State.READY if os.access(self.python, os.X_OK) else State.CLOSED

    def words(self) -> str:
        """What is there now, for people."""
        match self.state():
            case State.READY:
                return f"ready ({self.device})"
            case State.MISSING:
                return "not made yet"
            case State.STALE:
                return "made from other lock files than these"
            case State.BROKEN:
                return "half made, or changed since"
            case State.CLOSED:
                return f"whole, but this user cannot run its {self.python.resolve()}"

    def write_stamp(self) -> None:
        """Declare the environment complete."""
        stamp = {"locks": self.lock_hash, "device": self.device, "installed": self._inventory()}
        write_json(self.stamp, stamp)

    @property
    def stamp(self) -> Path:
        """What says that it is complete; written last."""
        return self.folder / "keepstate-stamp.json"

    def _inventory(self) -> list[str]:
        """Name and version of every installed package."""
        return sorted(
            path.name.removesuffix(".dist-info") for path in self.folder.glob("lib/python*/site-packages/*.dist-info")
        )


def device() -> Device:
    """`cuda` where nvidia-smi names a GPU, else `cpu`; `KEEPSTATE_DEVICE` decides otherwise.

    Raises:
        UserError: `KEEPSTATE_DEVICE` is neither.
    """
    match os.environ.get("KEEPSTATE_DEVICE"):
        case None:
            return "cuda" if machine.gpus() else "cpu"
        case "cpu":
            return "cpu"
        case "cuda":
            return "cuda"
        case named:
            raise UserError(f"KEEPSTATE_DEVICE is {named!r}", "set it to cpu or cuda, or unset it")


def spec(name: Name) -> EnvironmentSpec:
    """The environment `name` as this machine needs it."""
    return EnvironmentSpec(name, device(), home())


def find_python(for_device: Device) -> str:
    """An interpreter that the lock files of `for_device` have wheels for.

    Raises:
        UserError: There is none, or the CPU wheels do not run on this kind of machine.
    """
    if for_device == "cuda":
        return sys.executable
    if not machine.is_x86_linux():
        raise UserError(
            "the CPU environments hold wheels for x86-64 Linux only",
            "run keepstate there, or in a container of that kind; tasks, traces, datasets and reports work everywhere",
        )
    for candidate in (sys.executable, shutil.which(f"python{CPU_PYTHON}"), f"/usr/bin/python{CPU_PYTHON}"):
        if candidate and python_version(candidate) == CPU_PYTHON:
            return candidate
    raise UserError(
        f"no Python {CPU_PYTHON} found, which .venv-train and .venv-serve need",
        f"install it (your system's package, uv python install {CPU_PYTHON} or pyenv install {CPU_PYTHON}), "
        "then repeat the command",
    )


def core_has_pip() -> bool:
    """Whether the running interpreter can install (one made by uv cannot)."""
    return importlib.util.find_spec("pip") is not None


def python_version(python: str) -> str | None:
    """`major.minor` of an interpreter; None where it does not run (a shim of pyenv may exist and fail)."""
    try:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        return subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
