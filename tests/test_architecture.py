"""The layout's promises: one direction of imports, a light core, files and functions that a reader can hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
]
HEAVY = {"torch", "axolotl", "vllm", "transformers", "datasets", "ray"}
PLACES = {"inside", "plugin", "guest"}
"""Folders of code that runs in another interpreter: scripts started by ours, plugins of Axolotl and vLLM, the sandbox's
guest."""

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ELSEWHERE = [path for path in FILES if PLACES & set(path.split("/"))]
OWN_ENVIRONMENT = {path for path in ELSEWHERE if "guest" not in path.split("/")}
"""What needs the packages of `.venv-train` or `.venv-serve`: never imported by the core."""


def imports_of(path: str) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", [f for f in FILES if f.split("/")[0] in ORDER])
def test_imports_flow_one_way(path: str) -> None:
    own = ORDER.index(path.split("/", maxsplit=1)[0])
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "keepstate" and len(parts) > 1 and parts[1] in ORDER:
            assert ORDER.index(parts[1]) <= own, f"{path} imports {name}, which comes later in the pipeline"
        assert parts[:2] != ["keepstate", "cli"], f"{path} imports the command line"


@pytest.mark.parametrize("path", [f for f in FILES if f not in OWN_ENVIRONMENT])
def test_the_core_imports_nothing_heavy(path: str) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & HEAVY


def test_the_core_imports_nothing_of_other_environments() -> None:
    theirs = {f"keepstate.{path.removesuffix('.py').replace('/', '.')}" for path in OWN_ENVIRONMENT}
    assert len(theirs) >= 3
    for path in FILES:
        if path not in OWN_ENVIRONMENT:
            assert not imports_of(path) & theirs, path


@pytest.mark.parametrize("path", ELSEWHERE)
def test_what_runs_in_another_interpreter_needs_nothing_of_keepstate(path: str) -> None:
    assert "keepstate" not in {name.split(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_stay_readable(path: str) -> None:
    text = (PACKAGE / path).read_text()
    assert len(text.splitlines()) <= 400, "split the file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 80, f"{node.name} is {length} lines long"


@pytest.mark.parametrize("path", FILES)
def test_modules_say_what_they_are(path: str) -> None:
    docstring = ast.get_docstring(ast.parse((PACKAGE / path).read_text()))
    assert docstring
    assert "TODO" not in docstring


def test_importing_the_package_loads_no_third_party_module() -> None:
    code = "import sys; before = set(sys.modules); import keepstate; print(*sorted(set(sys.modules) - before))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["keepstate"]


def test_help_loads_no_stage() -> None:
    code = (
        "import sys; from keepstate.cli import cli; cli.main(['--help'], standalone_mode=False);"
        "print(*[m for m in sys.modules if m.split('.')[0] in "
        "{'numpy', 'pydantic', 'rich', 'httpx2', 'scipy', 'altair', 'jinja2'}], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
