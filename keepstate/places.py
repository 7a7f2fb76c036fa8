"""Where things lie: what ships with keepstate, what it makes once for all runs (home), and logs.

What ships (`locks/`, `train/`, `docs/sandbox.md`) lies beside the package in a checkout and inside it, below
`keepstate/shipped/`, in a wheel; pyproject.toml puts it there. Data and results are no concern of this module: they go
where a command is told to put them, else below the current folder.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from keepstate.errors import UserError

PACKAGE = Path(__file__).resolve().parent
IN_CHECKOUT = not (PACKAGE / "shipped").is_dir()
SHIPPED = PACKAGE.parent if IN_CHECKOUT else PACKAGE / "shipped"
"""The folder that `locks/` and `train/` lie in."""


def shipped(name: str) -> Path:
    """A file or folder that ships with keepstate, by its path in the repository.

    Raises:
        UserError: It is not there: somebody copied the package without it.
    """
    path = SHIPPED / name
    if not path.exists():
        raise UserError(f"{path} is missing, which ships with keepstate", "install keepstate again, from its wheel")
    return path


def find(name: str | Path) -> Path:
    """`name` as a path from here; where nothing is, what ships with keepstate under that path of the repository."""
    candidates = (Path(name), SHIPPED / name, PACKAGE.parent / name)
    return next((path for path in candidates if path.exists()), candidates[0])


def home() -> Path:
    """Where environments and models lie: `KEEPSTATE_HOME`, else the checkout, else the user's own data folder.

    Raises:
        UserError: The user has no home folder, or `KEEPSTATE_HOME` names that of nobody.
    """
    if named := os.environ.get("KEEPSTATE_HOME"):
        return _expanded(named).resolve()
    if IN_CHECKOUT:
        return PACKAGE.parent
    return (_expanded(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "keepstate").resolve()


def writable_home(what: str, command: str) -> Path:
    """`home()`, made where it is missing, for something that is to be made in it.

    Args:
        what: What is to be made, for the message.
        command: What makes it.

    Raises:
        UserError: It cannot be written.
    """
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{what} is to be made in {folder}, which cannot be written: {error.strerror}",
            f"let its owner make it ({command}), or use a folder of yours: export KEEPSTATE_HOME=/folder/of/yours",
        ) from error
    return folder


def log_file(name: str) -> Path:
    """Where a log of that name goes: into home, or where that is another's, to the user's state, or a new folder."""
    own = home() / ".stamps" / name
    if is_writable(own):
        return own
    try:
        state = _expanded(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "keepstate" / name
    except UserError:
        state = own
    return state if is_writable(state) else Path(tempfile.mkdtemp(prefix="keepstate-")) / name


def caches(folder: Path) -> dict[str, str]:
    """Variables for Axolotl and vLLM, whose libraries keep caches below the user's home folder.

    Args:
        folder: Takes them where the user has no home folder that can be written.
    """
    with suppress(UserError):
        if is_writable(_expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"):
            return {}
    return {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache")}


def is_writable(path: Path) -> bool:
    """Whether this user may write `path`, or make it together with the folders that are missing."""
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    return os.access(there, os.W_OK) and (there == path or there.is_dir())


def _expanded(folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"where {folder} is cannot be told: {error}", "export KEEPSTATE_HOME=/folder/for/environments/and/models"
        ) from error
