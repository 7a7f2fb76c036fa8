"""Loading a family from a user's file, module or package: his own code, which runs in this process, as a conftest does.

Whatever is wrong in it is told with file and line. Looks for nothing: `keepstate.tasks.families` says where to look.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any

from keepstate.errors import UserError
from keepstate.files import canonical_json, content_hash, file_hash
from keepstate.tasks.base import Environment
from keepstate.tasks.family import Family

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
SEE = "docs/tasks.md shows a whole one; a working start: keepstate tasks new my_tasks.py"


_OF_FILE = "keepstate_family_"
"""Before the name of the module that a family's file becomes."""


@functools.cache
def from_file(path: Path) -> Family:
    """The family in a Python file, which is run once.

    Raises:
        UserError: There is no such file, it cannot be run, or it holds no valid family.
    """
    if not path.is_file():
        raise UserError(f"no family file {path}", f"make one with: keepstate tasks new {path.name}")
    name = f"{_OF_FILE}{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file", SEE)
    module = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # its own modules lie beside it
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _not_loaded(str(path), error) from error
    _refuse_others_modules(path)
    return the_family(module, path.stem, source=path.name)


def _refuse_others_modules(path: Path) -> None:
    """One process holds one module of a name: a `helpers.py` beside this family's file may not be that of another.

    Raises:
        UserError: A module that the file imports, and that lies beside it, was loaded from elsewhere.
    """
    for name in _imported(path, path.parent, None):
        inner = path.parent / name
        dotted = ".".join(Path(name).with_suffix("").parts).removesuffix(".__init__")
        file = getattr(sys.modules.get(dotted), "__file__", None)
        if inner != path and file and inner.resolve() != Path(file).resolve():
            raise UserError(
                f"{path} imports {dotted}, which lies beside it as {name}, but Python has it from {file}",
                f"give {inner} a name of its own",
            )


def named_as(kind: type[Family]) -> str:
    """What a user types for a family that was loaded from his file or module: the file's path, or the module."""
    module = kind.__module__
    return str(sys.modules[module].__file__) if module.startswith(_OF_FILE) else module


def from_module(dotted: str) -> Family:
    """The family in an importable module; the current folder is on the path.

    Raises:
        UserError: It cannot be imported, or holds no valid family.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(dotted)
    except (Exception, SystemExit) as error:
        raise _not_loaded(dotted, error) from error
    return the_family(module, dotted.rpartition(".")[2], source=dotted)


def from_entry_point(entry: EntryPoint) -> Family:
    """The family that an installed package offers: a module, or a subclass of `Family`.

    Raises:
        UserError: It cannot be loaded, or is none.
    """
    try:
        found = entry.load()
    except (Exception, SystemExit) as error:
        raise _not_loaded(entry.value, error) from error
    if isinstance(found, type) and issubclass(found, Family):
        return _made(found, entry.name, entry.value)
    if isinstance(found, ModuleType):
        return the_family(found, entry.name, source=entry.value)
    raise UserError(f"the entry point {entry.name} = {entry.value} is no subclass of Family and no module", SEE)


def the_family(module: ModuleType, name: str, source: str | None = None) -> Family:
    """The one family that a module defines.

    Args:
        module: Where it is.
        name: Of the family, where it does not set its own.
        source: What it was loaded from, as task files tell it; None for one that comes with keepstate.

    Raises:
        UserError: There is none, there are several, or it lacks something.
    """
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Family) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        several = f"{len(found)} families: {', '.join(kind.__name__ for kind in found)}" if found else "no family"
        raise UserError(f"{source or name} holds {several}", f"one file holds one subclass of Family; {SEE}")
    return _made(found[0], name, source)


def place_of(error: BaseException, source: Family) -> str:
    """`my_tasks.py:31`: the line of the family's own file that was running when `error` arose, else of its class."""
    kind = type(source)
    return line_in(kind, error.__traceback__) or _place(inspect.getsourcefile(kind), inspect.getsourcelines(kind)[1])


def line_in(kind: type, running: TracebackType | FrameType | None) -> str:
    """The innermost line that is of the file of `kind`, as `my_tasks.py:31`; empty where none is.

    Args:
        kind: A class of the family.
        running: Of an exception, or the innermost frame of a thread.
    """
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if isinstance(running, FrameType):
        frames = [*traceback.walk_stack(running)][::-1]
    else:
        frames = list(traceback.walk_tb(running))
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    return _place(file, lines[-1]) if lines else ""


def _place(file: str | None, line: int | None) -> str:
    return f"{Path(file or '?').name}:{line}"


def _not_loaded(named: str, error: BaseException) -> UserError:
    """What went wrong in loading, with the line of the user's own code, if it got that far."""
    if isinstance(error, SyntaxError) and error.filename:
        return UserError(
            f"{_place(error.filename, error.lineno)}: {type(error).__name__}: {error.msg}", "mend the file"
        )
    ours = str(Path(__file__).parents[1])
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((ours, "<frozen"))]
    frames = [f for f in frames if "importlib" not in f.filename]
    place = _place(frames[-1].filename, frames[-1].lineno) if frames else named
    return UserError(f"{place}: loading {named} failed: {type(error).__name__}: {error}", SEE)


def _made(kind: type[Family], name: str, source: str | None) -> Family:
    """The family, once all that it must have is there."""
    file = inspect.getsourcefile(kind)
    where = f"{_place(file, inspect.getsourcelines(kind)[1])}: {kind.__name__}"
    if fault := _fault(kind):
        raise UserError(f"{where} {fault}", SEE)
    made = kind()
    kind.name = kind.name or name
    if not NAME.fullmatch(kind.name):
        raise UserError(
            f"{where}: {kind.name!r} cannot name a family", 'set e.g. name = "my_tasks" (a-z, 0-9, _ and -)'
        )
    made.source = f"{source} sha256:{_digest(kind, Path(file))}" if source and file else None
    return made


def _digest(kind: type[Family], file: Path) -> str:
    """SHA-256 of a family's file; where it imports others of its own folder or package, of all of them by name."""
    parts = kind.__module__.split(".")
    if kind.__module__.startswith(_OF_FILE):
        found = _imported(file, file.parent, None)
    else:
        found = _imported(file, file.parents[len(parts) - (file.name != "__init__.py")], parts[0])
    return content_hash(found) if len(found) > 1 else file_hash(file)


def _imported(file: Path, root: Path, package: str | None) -> dict[str, str]:
    """SHA-256 of a Python file and of all below `root` that it imports, directly or not, by their paths there.

    Read from import statements, wherever in a file they stand; what is imported by other means is not found.

    Args:
        file: Where to begin.
        root: Where the names of modules start.
        package: Only what is of this package; None: of whatever lies below `root`.
    """
    found: dict[str, str] = {}
    due = [file, *(folder / "__init__.py" for folder in file.parents if package and root in folder.parents)]
    while due:
        path = due.pop()
        name = str(path.relative_to(root))
        if name in found or not path.is_file():
            continue
        found[name] = file_hash(path)
        for parts in _names(path, path.relative_to(root).parts[:-1]):
            if parts[0] == (package or parts[0]) and parts[0] != "keepstate":
                places = [root.joinpath(*parts[: length + 1]) for length in range(len(parts))]
                due += [inner for place in places for inner in (place.with_suffix(".py"), place / "__init__.py")]
    return found


def _names(path: Path, package: tuple[str, ...]) -> Iterator[list[str]]:
    """The dotted names that a file of `package` imports, in their parts; none of a file that is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except (SyntaxError, ValueError):
        nodes = []
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            named = [*above, *(node.module.split(".") if node.module else ())]
            yield from ([*named, alias.name] for alias in node.names)


def _fault(kind: type[Family]) -> str:
    """The first thing that a family lacks; empty where it has all."""
    difficulties: Any = getattr(kind, "difficulties", None)
    if not isinstance(difficulties, Mapping) or not difficulties:
        return 'has no difficulties, e.g. difficulties = {"mini": {}}'
    for what, names in (("difficulty", difficulties), ("rule set", kind.rules)):
        if bad := [name for name in names if not isinstance(name, str) or not NAME.fullmatch(name)]:
            return f"has a {what} called {bad[0]!r}; a name consists of a-z, 0-9, _ and -"
    try:
        canonical_json([parameters_of(value) for value in difficulties.values()])
    except (TypeError, ValueError) as error:
        return f"has difficulties whose parameters are no JSON: {error}"
    if kind.sample is Family.sample and kind.instances is Family.instances:
        return "has no method sample(self, dice, parameters, rules), and no instances either"
    return _fault_of_environment(getattr(kind, "environment", None))


def _fault_of_environment(environment: Any) -> str:
    if not isinstance(environment, type) or not issubclass(environment, Environment):
        return "has no environment = ..., a subclass of Environment"
    if missing := sorted(environment.__abstractmethods__):
        return f"has an environment, {environment.__name__}, without the method {missing[0]}(self)"
    if not environment.tools:
        return f"has an environment, {environment.__name__}, without tools: mark its methods with @tool"
    return ""


def parameters_of(value: Any) -> Any:
    """The parameters of a difficulty as JSON: what seeds its tasks."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
