"""The layout's promises: one direction of imports, a light core, files and functions that a reader can hold."""

import ast
import collections
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import keepstate
from keepstate.stages import STAGES

PACKAGE = Path(__file__).parents[1] / "keepstate"
ORDER = [
    "setup",
    "tasks",
    "models",
    "traces",
    "runtimes",
    "agents",
    "play",
    "dataset",
    "train",
    "serve",
    "bench",
    "report",
    "demo",
]
HEAVY = {"torch", "axolotl", "vllm", "transformers", "datasets", "ray"}
PLACES = {"inside", "plugin", "guest"}
"""Folders of code that runs in another interpreter: scripts started by ours, plugins of Axolotl and vLLM, the sandbox's
guest."""

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ELSEWHERE = [path for path in FILES if PLACES & set(path.split("/"))]
OWN_ENVIRONMENT = {path for path in ELSEWHERE if "guest" not in path.split("/")}
"""What needs the packages of `.venv-train` or `.venv-serve`: never imported by the core."""


EXTRAS = {"play/cluster.py": {"ray"}, "play/connect.py": {"ray"}}
"""Where an optional extra is imported, in functions alone: whoever does not ask for it need not have it."""


TOP_LEVEL = {
    "__main__.py": {"cli"},
    "doctor.py": {"setup", "runtimes", "train", "serve"},
    "inventory.py": {"tasks", "traces", "dataset", "train", "play", "bench"},
    "leftovers.py": {"train"},
}
"""Modules at the top of the package import no room, but for `python -m keepstate` and what looks at all of them."""
TWICE = {"ToolCallLimit", "ToolError"}
"""Classes that the sandbox's guest, which imports nothing of ours, has under the names that agents are told."""
SHORT_WITH_ONE_IMPORTER = {
    "models/connections.py": "its importer would pass 400 lines",
    "runtimes/sandbox/guest/preload.py": "what every interpreter has loaded: a list that grows by itself",
    "tasks/questions.py": "called by families outside the package",
    "models/scripted.py": "what tests and benchmarks drive the loop with, beside replays",
    "stages.py": "names of the pipeline, which the Makefile's help runs without an environment",
}
"""Modules under 60 lines that a single module imports, each with its reason to stand alone. Those of a plugin have one:
each changes one thing in another's library."""


def module_of(path: str) -> str:
    """Dotted name of a file of the package."""
    return ".".join(["keepstate", *Path(path).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def what_runs(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, those in functions too, but for what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from what_runs(other)
        else:
            yield child
            yield from what_runs(child)


def imports_of(path: str) -> set[str]:
    """Dotted names that a file imports when it runs, anywhere in it, relative ones resolved."""
    package = [*("keepstate", *Path(path).parts)][:-1]
    found: set[str] = set()
    for node in what_runs(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found.add(origin)
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def files_imported(path: str) -> set[str]:
    """Files of the package that a file imports by name: the package of a module that it names is not one of them."""
    names = imports_of(path)
    names |= {
        ".".join([module_of(path).rpartition(".")[0], name]) for name in names
    }  # a plugin's folder is on the path
    found = {name for name in names if name in MODULES}
    packages = {name for name in found if any(other.startswith(f"{name}.") for other in found)}
    return {MODULES[name] for name in found - packages} - {path}


@functools.cache
def graph() -> dict[str, set[str]]:
    """By file: the files that it imports."""
    return {path: files_imported(path) for path in FILES}


def reached(start: str) -> set[str]:
    """Every file that importing `start` may come to, `start` itself only round a circle."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph()[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def test_every_package_has_its_place_in_the_order_that_contributing_tells() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == {*ORDER, "cli"}
    assert " -> ".join(ORDER) in (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    assert f": {', '.join(ORDER)}." in " ".join((keepstate.__doc__ or "").split())


def test_a_stage_its_command_and_its_package_share_one_word_and_one_order() -> None:
    names = [stage.name for stage in STAGES]
    assert [room for room in ORDER if room in names] == names
    assert not [name for name in names if not (PACKAGE / "cli" / f"{name}.py").is_file()]


def test_no_two_classes_share_a_name() -> None:
    trees = (ast.parse((PACKAGE / path).read_text()) for path in FILES)
    names = collections.Counter(
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == TWICE


def test_no_modules_import_each_other_in_a_circle() -> None:
    beyond = {path: reached(path) for path in FILES}
    circles = {path: {path, *(other for other in beyond[path] if path in beyond[other])} for path in FILES}
    assert not {path: sorted(circle) for path, circle in circles.items() if path in beyond[path]}


def test_short_modules_have_several_importers_or_a_reason() -> None:
    importers = collections.Counter(imported for path in FILES for imported in graph()[path])
    short = {path for path in FILES if len((PACKAGE / path).read_text().splitlines()) < 60}
    alone = {path for path in short if importers[path] == 1 and not {"__init__.py", "plugin"} & set(Path(path).parts)}
    assert alone == set(SHORT_WITH_ONE_IMPORTER), "put it into its importer, or give a reason why not"


def test_the_graph_sees_every_kind_of_import() -> None:
    """What the tests above rest on: imports in functions, relative ones, and of a package's module by its name."""
    assert "cli/__init__.py" in graph()["__main__.py"]
    assert "vocabulary.py" in graph()["errors.py"]
    assert "stages.py" in graph()["cli/__init__.py"]
    assert "errors.py" in reached("cli/bench.py")


@pytest.mark.parametrize("path", FILES)
def test_imports_flow_one_way(path: str) -> None:
    room = path.split("/", maxsplit=1)[0]
    rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("keepstate.")} & {*ORDER, "cli"}
    if room in ORDER:
        later = {*ORDER[ORDER.index(room) + 1 :], "cli"}
        assert not rooms & later, "comes later in the pipeline"
    elif room != "cli":
        assert rooms <= TOP_LEVEL.get(path, set()), "what all share imports no room"
    if path != "__main__.py" and room != "cli":
        assert "cli" not in rooms, "nothing imports the command line"


@pytest.mark.parametrize("path", [f for f in FILES if f not in OWN_ENVIRONMENT])
def test_the_core_imports_nothing_heavy(path: str) -> None:
    assert {name.split(".")[0] for name in imports_of(path)} & HEAVY == EXTRAS.get(path, set())


@pytest.mark.parametrize("path", EXTRAS)
def test_an_extra_is_imported_where_it_is_asked_for(path: str) -> None:
    code = f"import sys, {module_of(path)}; print(*{EXTRAS[path]} & sys.modules.keys())"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_core_imports_nothing_of_other_environments() -> None:
    theirs = {f"keepstate.{path.removesuffix('.py').replace('/', '.')}" for path in OWN_ENVIRONMENT}
    assert len(theirs) >= 3
    for path in FILES:
        if path not in OWN_ENVIRONMENT:
            assert not imports_of(path) & theirs, path


@pytest.mark.parametrize("path", ELSEWHERE)
def test_what_runs_in_another_interpreter_needs_nothing_of_keepstate(path: str) -> None:
    folder = module_of(path).rpartition(".")[0] if not path.endswith("__init__.py") else module_of(path)
    ours = {name for name in imports_of(path) if name.split(".")[0] == "keepstate"}
    assert all(name == folder or name.startswith(f"{folder}.") for name in ours), "of its own folder alone"


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_stay_readable(path: str) -> None:
    text = (PACKAGE / path).read_text()
    assert len(text.splitlines()) <= 400, "split the file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 70, f"{node.name} is {length} lines long"


@pytest.mark.parametrize("path", FILES)
def test_modules_say_what_they_are(path: str) -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGE / path).read_text()))
    assert docstring
    assert "TODO" not in docstring


def test_importing_the_package_loads_no_third_party_module() -> None:
    code = "import sys; before = set(sys.modules); import keepstate; print(*sorted(set(sys.modules) - before))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["keepstate"]


def test_reading_traces_and_results_loads_no_runtime() -> None:
    code = (
        "import sys, keepstate.traces, keepstate.bench.results, keepstate.report.build;"
        "print(*[name for name in sys.modules if name.startswith('keepstate.runtimes')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []


def test_help_loads_no_stage() -> None:
    code = (
        "import sys; from keepstate.cli import cli; cli.main(['--help'], standalone_mode=False);"
        "print(*[m for m in sys.modules if m.split('.')[0] in "
        "{'numpy', 'pydantic', 'rich', 'httpx2', 'vl_convert', 'jinja2'}], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
