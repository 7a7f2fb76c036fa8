"""Hints are commands that work: every command, option and module that a message names is there.

Read from the sources, so that a hint nobody has provoked yet counts too. Values that a message fills in stand as X.
"""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from typed import COMMAND, OPTION, leaves, options_of, wrong_commands

from keepstate.cli import cli
from keepstate.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "keepstate").rglob("*.py"), *(ROOT / "train").glob("*.py")])
OTHER_PROGRAMS = re.compile(r"pip install|docker|podman|npm |vllm |nvidia-smi|--query-gpu|--format=|TRACKIO_DIR")
"""Whose options are not ours."""
RAISES = ("UserError", "__init__")
"""The error itself, and what is built on it."""
RAISED_BY = {
    "bench": ["bench run", "bench matrix", "bench regrade"],
    "dataset": ["dataset build", "dataset check", "dataset preview"],
    "report": ["report", "compare", "bench run"],
    "serve": ["serve"],
    "tasks": ["tasks generate", "bench matrix", "traces collect"],
    "traces": ["traces collect", "traces import", "traces check", "traces stats"],
}
"""The commands that show the messages of a folder. Every other file may speak of any command."""


def text_of(node: ast.AST) -> str | None:
    """A string as far as it is known."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "X" for part in node.values)
    return None


def texts(node: ast.AST) -> Iterator[str]:
    """Every string inside, an f-string as one."""
    text = text_of(node)
    if text is not None:
        yield text
        return
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def messages(path: Path) -> Iterator[str]:
    """Every string of a file that a user may come to see: all but docstrings."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for child in ast.iter_child_nodes(node):
            text = text_of(child)
            if text is not None and not isinstance(node, ast.Expr | ast.JoinedStr):
                yield text


def hints(path: Path) -> Iterator[str]:
    """What is passed to an error behind its message, and what functions return, which becomes part of that."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in RAISES:
            for argument in [*node.args[1:], *(keyword.value for keyword in node.keywords)]:
                yield from texts(argument)
        elif isinstance(node, ast.Return) and node.value is not None:
            yield from texts(node.value)


def stray_options(text: str) -> set[str]:
    """Options that stand behind no command: they are of the one that was typed."""
    if OTHER_PROGRAMS.search(text) or text.startswith("X"):  # the rest of a command that was begun elsewhere
        return set()
    return set(OPTION.findall(COMMAND.sub("", text)))


@cache
def everything() -> dict[str, set[str]]:
    """The options of every command, and of the training script."""
    sys.path.insert(0, str(ROOT / "train"))
    known = {name: options_of(command) for name, command in leaves(cli)}
    return known | {"script": options_of(importlib.import_module("qwen3_8b_axolotl").command)}


def known_where_shown(path: Path) -> set[str]:
    """The options of the commands that show a file's messages. Both that train show those of `keepstate.train`."""
    known = everything()
    if path.parent == ROOT / "train":
        return known["script"]
    first = path.relative_to(ROOT / "keepstate").parts[0]
    if first == "train":
        return known["train"] & known["script"]
    own = path.stem.removeprefix("_") if first == "cli" else ""
    names = RAISED_BY.get(first) or [name for name in known if own in name.split()] or list(known)
    return set().union(*(known[name] for name in names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_that_messages_name_are_there(path: Path) -> None:
    assert [wrong for text in messages(path) for wrong in wrong_commands(text)] == []
    for hint in hints(path):
        assert stray_options(hint) <= known_where_shown(path), hint


def test_a_wrong_hint_would_be_found() -> None:
    assert list(wrong_commands("go on: keepstate train X --fresh or --batch-size 1")) == []
    assert list(wrong_commands("keepstate train X --fast; keepstate dataset make; python -m keepstate.nothing")) != []
    assert len(list(wrong_commands("keepstate serve --fast; then keepstate dataset make"))) == 2
    assert stray_options("go on: keepstate train X --fresh, or name another: --out") == {"--out"}


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["traces", "collect"], "keepstate tasks generate"),
        (["report", "nowhere"], "keepstate bench matrix --difficulty easy"),
        (["compare", "nowhere", "nowhere"], "keepstate bench matrix --difficulty easy"),
    ],
)
def test_what_is_missing_is_made_by_the_command_in_the_hint(
    command: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        cli(command, standalone_mode=False)
    assert hint in caught.value.hint
