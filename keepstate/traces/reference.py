"""The reference page of the trace schema, made from the classes themselves.

Run `python -m keepstate.traces.reference > docs/trace-schema.md`; a test compares the page. Describes, checks nothing.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator

from keepstate.tasks import base
from keepstate.traces import record
from keepstate.vocabulary import FinishReason, Origin, Rung, RuntimeName

HEADING = """\
# Trace schema

`<family>-<task_id>.trace.json` is the record of one episode: UTF-8 JSON, one key a line, and one message or event a
line. `<family>-<task_id>.json` beside it is its verdict, written last: `status` (`completed` or `failed`), `error` and
`origin` of a failure of ours, `result` with `is_solved`, `score` and `metrics` (`score` is null where the episode was
not graded), `started_at`, `finished_at`. Unknown keys are refused. This page is made by
`python -m keepstate.traces.reference`.
"""


def page() -> str:
    """The page in Markdown."""
    classes = [*_classes(inspect.getsource(record)), *_classes(inspect.getsource(base), {"Verdict"})]
    first = next(node for node in classes if node.name == "Trace")
    ordered = [first, *(node for node in classes if node is not first)]
    sections = [section for node in ordered for section in _section(node)]
    return "\n".join([HEADING, *sections, *_choices()])


def _choices() -> Iterator[str]:
    """What each closed choice may be."""
    yield "## Choices\n"
    for choice in (RuntimeName, FinishReason, Origin, Rung):
        yield f"- `{choice.__name__}`: {', '.join(f'`{value}`' for value in choice)}"
    yield ""


def _classes(source: str, names: set[str] | None = None) -> list[ast.ClassDef]:
    """The classes of a module that hold fields."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return [node for node in found if (not names or node.name in names) and list(_fields(node))]


def _section(node: ast.ClassDef) -> Iterator[str]:
    yield f"## {node.name}\n\n{ast.get_docstring(node)}\n"
    yield "| key | type | meaning |\n|---|---|---|"
    for name, kind, meaning in _fields(node):
        yield f"| `{name.rstrip('_')}` | `{kind.replace('|', chr(92) + '|')}` | {meaning} |"
    yield ""


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, type and docstring of each field."""
    for place, statement in enumerate(node.body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        after = node.body[place + 1] if place + 1 < len(node.body) else None
        meaning = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            meaning = " ".join(after.value.value.split())
        yield statement.target.id, ast.unparse(statement.annotation), meaning


if __name__ == "__main__":
    sys.stdout.write(page())
