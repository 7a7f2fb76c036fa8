"""Makes `.venv-train` and `.venv-serve` where they are missing or broken, with pip, showing progress on stderr.

    keepstate setup train serve                       # make what is missing or broken, say where it is
    keepstate setup train serve --engines current     # with the newest Axolotl and vLLM that were tested

The result is complete or an error is raised. pip resolves nothing (`--no-deps`: the locks are complete), takes wheels
by hash only, and compiles no bytecode in advance, which would take as long as the rest together (.venv-train: 89 s
with, 42 s without; Python does it on first import). Never touches the core environment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from keepstate import machine
from keepstate.display import Bar, Display
from keepstate.errors import UserError
from keepstate.places import writable_home
from keepstate.processes import GuardedProcess, log_end, log_text, only_one
from keepstate.setup.environments import (
    DEFAULT,
    NEEDED_GIB,
    NOT_ON_A_GPU,
    TORCH_CPU_INDEX,
    EnvironmentSpec,
    Name,
    State,
    core_has_pip,
    spec,
)
from keepstate.setup.interpreters import find_python
from keepstate.vocabulary import Engines

NO_TORCH = re.compile(
    r"No matching distribution found for torch==|no matching distributions available for your environment:\s+torch\b",
    re.IGNORECASE,
)
"""As pip says it, without a constraints file and with one."""
POLL_SECONDS = 0.3
INDEX_PATIENCE = ("--retries", "1", "--timeout", "20")
"""For an index that may not be reachable from here."""
PYPI_GIB = 3
"""What PyPI's torch takes more than its CPU build: CUDA's libraries, which it does not start without."""


def ensure(name: Name, engines: Engines | None = None) -> Path:
    """Make the environment `name` unless it is ready, and return its interpreter.

    Progress goes to stderr, pip's own words to `.stamps/<name>.log`. Of two callers at once, one makes it, the other
    waits.

    Args:
        name: Which.
        engines: Which versions, from now on; as they were chosen before where None.

    Raises:
        UserError: No fitting Python, no space, pip failed, or the engine is none that the plugins were tested with.
    """
    wanted = spec(name, engines)
    if wanted.state() is State.READY:
        wanted.check_release()
        return wanted.python
    writable_home(f"{wanted.folder.name} ({wanted.words()})", wanted.command)
    with only_one(wanted.log.with_suffix(".lock"), wanted.folder.name):
        if wanted.lacks_rest_of_ray():
            _add_ray(wanted)
        elif wanted.state() is not State.READY:
            print(f"{wanted.folder.name} is made: {wanted.words()} (log: {wanted.log})", file=sys.stderr, flush=True)
            _build(wanted)
    wanted.check_release()
    return wanted.python


def _build(wanted: EnvironmentSpec) -> None:
    if wanted.is_untried:
        words = f"{wanted.release.words()} was {NOT_ON_A_GPU}: no figure of the documentation is of it"
        print(f"{words}; back: keepstate setup {wanted.name} --engines {DEFAULT}", file=sys.stderr, flush=True)
    python = find_python(wanted, fetch=True)
    elsewhere = "put environments and models elsewhere: export KEEPSTATE_HOME=/folder/with/space"
    machine.require_disk(wanted.home, NEEDED_GIB[wanted.device], wanted.folder.name, elsewhere)
    if wanted.folder.is_symlink() or wanted.folder.is_file():
        wanted.folder.unlink()  # the link: what it leads to is another's
    elif wanted.folder.exists():
        wanted.begin_stamp()  # first of all, so that a half-removed one is known as broken
        shutil.rmtree(wanted.folder)
    wanted.begin_stamp()
    install(wanted, python)
    wanted.write_stamp()


def install(wanted: EnvironmentSpec, python: str) -> None:
    """Make `wanted.folder` with `python` and install its lock files.

    Raises:
        UserError: pip failed; the message says why, as far as its log tells.
    """
    wanted.log.parent.mkdir(parents=True, exist_ok=True)
    wanted.log.unlink(missing_ok=True)
    without = ["--without-pip"] if core_has_pip() else []
    _run(wanted, [python, "-m", "venv", *without, str(wanted.folder)])
    pip = _pip_install(wanted)
    if wanted.torch_locks:
        _install_torch(wanted, pip)
    _run(wanted, [*pip, "-r", str(wanted.lock)])


def _install_torch(wanted: EnvironmentSpec, pip: list[str]) -> None:
    """Install torch: its CPU build from the index in use or PyTorch's own, else the release of PyPI.

    Raises:
        UserError: None of them has one for this Python.
    """
    cpu, *whole = wanted.torch_locks
    index = os.environ.get("KEEPSTATE_TORCH_INDEX", TORCH_CPU_INDEX)
    ask = ["--extra-index-url", index, *INDEX_PATIENCE]
    attempts = [
        ([*pip, "-r", str(cpu)], ""),
        ([*pip, "-r", str(cpu), *ask], f"the package index in use has no CPU build of torch: asking {index} for it"),
    ]
    attempts += [
        ([*pip, "-r", str(lock)], f"{index} has none either: taking PyPI's own, {PYPI_GIB} GiB larger")
        for lock in whole
    ]
    for number, (command, words) in enumerate(attempts, 1):
        if words:
            print(words, file=sys.stderr, flush=True)
        start = len(log_text(wanted.log))
        try:
            _run(wanted, command)
            return
        except UserError:
            if number == len(attempts) or not NO_TORCH.search(log_text(wanted.log)[start:]):
                raise


def _pip_install(wanted: EnvironmentSpec) -> list[str]:
    """How pip installs from lock files into an environment; they follow."""
    python = str(wanted.python)
    pip = [sys.executable, "-m", "pip", "--python", python] if core_has_pip() else [python, "-m", "pip"]
    pip += ["install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    pip += ["--no-warn-script-location", "--no-compile", "--no-deps", "--require-hashes"]
    return pip


def ensure_serve_ray() -> Path:
    """Make `.venv-serve` unless it is ready, put Ray Serve into it unless it is there, and return its interpreter.

    Raises:
        UserError: It has engines that no Ray was locked for, no fitting Python, no space, or pip failed.
    """
    wanted = spec("serve")
    if wanted.ray_lock is None:
        raise UserError(
            f"{wanted.folder.name} has the {wanted.engines} engines, which no Ray was locked for",
            f"take the measured ones: keepstate setup serve --engines {Engines.MEASURED}",
        )
    python = ensure("serve")
    version = re.search(r"^ray==(\S+)", wanted.ray_lock.read_text(), re.MULTILINE)
    assert version is not None
    with only_one(wanted.log.with_suffix(".lock"), wanted.folder.name):
        if not [*wanted.folder.glob(f"lib/python*/site-packages/ray-{version[1]}.dist-info")]:
            _add_ray(wanted)
    return python


def _add_ray(wanted: EnvironmentSpec) -> None:
    """Install Ray beside the server, all of it anew where that was cut: what pip left half looks whole to it."""
    lock = wanted.ray_lock
    assert lock is not None
    cut = wanted.lacks_rest_of_ray()
    doing = "Ray's installation, which was cut, is finished in" if cut else "Ray is installed into"
    print(f"{doing} {wanted.folder.name} (log: {wanted.log})", file=sys.stderr, flush=True)
    _run(wanted, [*_pip_install(wanted), *["--ignore-installed"] * cut, "-r", str(lock)], lock)
    wanted.write_stamp()


def _run(wanted: EnvironmentSpec, command: list[str], *locks: Path) -> None:
    """Run one command into the log, and show how far it is with the lock files that it belongs to, the environment's
    own where none is named; raise when it fails."""
    with wanted.log.open("a") as log:
        start = log.tell()
        show = InstallDisplay(wanted, locks or (*wanted.torch_locks[:1], wanted.lock))
        with GuardedProcess(command, output=log) as process, show:
            while (code := process.poll(POLL_SECONDS)) is None:
                show(start)
    if code:
        raise _explain(wanted, log_text(wanted.log, start))


class InstallDisplay(Display[int]):
    """Shows how far pip is, by its log and by what has appeared in site-packages. A state is where its log begins.

    Args:
        wanted: What is installed into.
        locks: What is installed; what was there before is not counted.
    """

    transient = True

    def __init__(self, wanted: EnvironmentSpec, locks: Sequence[Path]) -> None:
        super().__init__()
        self._wanted = wanted
        self._coming = wanted.still_to_come(*locks)

    def bars(self, state: int) -> Sequence[Bar]:
        """One."""
        what, count, total = self._position(state)
        return [Bar(f"  {self._wanted.folder.name}", count, total, f"{what} {count}/{total}")]

    def line(self, state: int) -> str:
        """The same."""
        what, count, total = self._position(state)
        return f"  {self._wanted.folder.name}: {what} {count}/{total}"

    def _position(self, log_start: int) -> tuple[str, int, int]:
        said, total = log_text(self._wanted.log, log_start), len(self._coming)
        if "Installing collected packages" in said:
            return "installing", self._wanted.count(self._coming), total
        named = len(re.findall(r"^(?:Collecting|Processing) ", said, re.MULTILINE))
        return "downloading", min(named, total), total  # PyPI's torch brings more


def _explain(wanted: EnvironmentSpec, said: str) -> UserError:
    """Turn pip's words into what a user can do."""
    again = f"then repeat: {wanted.command}"
    name = wanted.folder.name
    if NO_TORCH.search(said):
        return UserError(
            "the package index has no CPU build of torch (PyPI's own torch would pull gigabytes of CUDA libraries)",
            "name an index that has torch 2.13.0+cpu for it, such as PyTorch's: "
            f"export KEEPSTATE_TORCH_INDEX=https://download.pytorch.org/whl/cpu, {again}",
        )
    if "No space left on device" in said:
        return UserError(f"no disk space left while {name} was installed", f"free some space, {again}")
    if "DO NOT MATCH THE HASHES" in said:
        return UserError(
            f"a package for {name} is not the one its lock file names (see {wanted.log})",
            f"a mirror may have altered it, or a download broke: try another index (PIP_INDEX_URL), {again}",
        )
    return UserError(
        f"{name} could not be installed; the end of {wanted.log}:\n{log_end(said)}", f"mend what it names, {again}"
    )
