"""Where families are found: in this folder, in packages that offer one, and in files and modules that the user names.

Every module or package in this folder that defines a subclass of `Family` is one that comes with keepstate. A package
offers its own under the entry-point group `keepstate.families`. A file or module is loaded only where the user names it
(`--family my_tasks.py`), never because a task file does: reading others' tasks runs nothing of theirs.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from keepstate.errors import UserError
from keepstate.tasks import aside
from keepstate.tasks.base import Environment, Task
from keepstate.tasks.family import Family
from keepstate.tasks.loading import from_entry_point, from_file, from_module, named_as, place_of, the_family

GROUP = "keepstate.families"
_NAMED: dict[str, Family] = {}
"""Loaded because the user named them, by their name."""


class UnknownFamily(UserError):
    """A task is of a user's family that he has not named: no fault of the task's file."""


def names() -> list[str]:
    """The families that come with keepstate, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def offered() -> dict[str, EntryPoint]:
    """Families of installed packages, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def family(name: str) -> Family:
    """The family called `name`: one that was named by the user, comes with keepstate, or an installed package offers.

    Raises:
        UserError: There is none.
    """
    return _NAMED.get(name) or _known(name)


@functools.cache
def _known(name: str) -> Family:
    if name in names():
        return the_family(import_module(f"{__name__}.{name}"), name)
    if entry := offered().get(name):
        return from_entry_point(entry)
    known = ", ".join([*names(), *offered()])
    raise UserError(
        f"unknown task family {name!r}",
        f"families: {known}; one of your own: --family my_tasks.py, or --family my_package.module",
    )


def named_beside(named: str, folder: Path) -> str:
    """What a config in `folder` calls a family: a relative path starts there."""
    return str(folder / Path(named).expanduser()) if is_file(named) else named


def is_file(named: str) -> bool:
    """Whether this names a family's file, and no family or module."""
    return named.endswith(".py") or "/" in named


def use_family(named: str) -> Family:
    """The family that the user names, loaded: a name, a Python file or a dotted module. Its name then stands for it.

    Args:
        named: What `--family` or a config says.

    Raises:
        UserError: There is none, it has an error (told with file and line), or two have one name.
    """
    if is_file(named):
        found = from_file(Path(named).expanduser().resolve())
    elif "." in named:
        found = from_module(named)
    else:
        return family(named)
    other = _NAMED.get(found.name)
    if found.name in names() or (other and other.source != found.source):
        taken = (other.source if other else None) or "the one that comes with keepstate"
        raise UserError(f"{named}: another family is called {found.name!r}: {taken}", "set another name = ... in it")
    _NAMED[found.name] = found
    return found


def named_families() -> tuple[tuple[str, str], ...]:
    """The families that the user named: what names each in another process of his, and its source."""
    return tuple((named_as(type(found)), found.source) for found in _NAMED.values() if found.source)


def family_of(task: Task) -> Family:
    """The family of a task.

    Raises:
        UnknownFamily: It is a user's own; says how to name it.
        UserError: It is not known here.
    """
    try:
        return family(task.family)
    except UserError as error:
        if task.family_source is None:
            raise
        where = task.family_source.partition(" ")[0]
        raise UnknownFamily(
            f"{task.name} is of the family {task.family!r}, which was in {where}",
            f"name that file or module: --family {where} (if it was renamed: with name = {task.family!r} in its class)",
        ) from error


def environment_for(task: Task) -> Environment:
    """A new environment that plays `task`.

    Raises:
        UserError: The family is unknown, or the content is not valid.
    """
    found = family_of(task)
    with told(found, f"{found.environment.__name__}(task)"):
        environment = found.environment(task)
        if not isinstance(getattr(environment, "goal", None), str):
            raise TypeError(f"{found.environment.__name__} has no text as its goal: set self.goal in __init__")
    return environment


def reference_scores(task: Task) -> dict[str, float]:
    """Score in [0, 1] of each reference policy of the task's family; none where it has none.

    Raises:
        UserError: The task's family is unknown, or its content is not valid.
    """
    found = family_of(task)
    with told(found, "reference_scores"):
        return dict(found.reference_scores(task))


@contextmanager
def told(source: Family, doing: str) -> Iterator[None]:
    """Tell what the code of a user's family raises, or that it does not end, as an error of that file, with its line.

    Raises:
        UserError: Something was raised, or (in the main thread) it took longer than `aside.SECONDS`. Of a family that
            comes with keepstate it is raised as it is, and takes as long as it takes: our bug.
    """
    if source.source is None:
        yield
        return
    try:
        with aside.in_time():
            yield
    except UserError:
        raise
    except (Exception, SystemExit, aside.TooLong) as error:
        late = isinstance(error, aside.TooLong)
        how = f"did not return within {aside.SECONDS:g} s" if late else f"failed: {type(error).__name__}: {error}"
        raise UserError(
            f"{place_of(error, source)}: {doing} of the family {source.name} {how}",
            f"mend that file, then prove it with: keepstate tasks check {source.source.partition(' ')[0]}",
        ) from error
