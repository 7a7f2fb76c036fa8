"""Hints are commands that work: every command, option and module that a message names is there.

Read from the sources, so that a hint nobody has provoked yet counts too. Values that a message fills in stand as X.
"""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from keepstate.cli import COMMANDS, cli
from keepstate.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "keepstate").rglob("*.py"), *(ROOT / "train").glob("*.py")])
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
OTHER_PROGRAMS = re.compile(r"pip install|docker|podman|npm |vllm |nvidia-smi|--query-gpu|--format=|TRACKIO_DIR")
"""Whose options are not ours."""
RAISES = ("UserError", "__init__")
"""The error itself, and what is built on it."""
COMMAND = re.compile(r"\bkeepstate [a-z].*?(?=[;,)`]|\. | or | to |: |$|\bkeepstate )", re.DOTALL)
"""A command inside a message, to its end."""
RAISED_BY = {
    "bench": ["bench run", "bench matrix", "bench regrade"],
    "dataset": ["dataset build", "dataset check", "dataset preview"],
    "report": ["report", "compare", "bench run"],
    "serve": ["serve"],
    "tasks": ["tasks generate", "bench matrix", "traces collect"],
    "traces": ["traces collect", "traces import", "traces check", "traces stats"],
}
"""The commands that show the messages of a folder. Every other file may speak of any command."""


def find(words: list[str]) -> click.Command | None:
    """The command of the first one or two of `words`."""
    if words[0] not in COMMANDS:
        return None
    context = click.Context(cli)
    command = cli.get_command(context, words[0])
    if not isinstance(command, click.Group) or not words[1:]:
        return command
    return command.get_command(context, words[1]) or (command if command.invoke_without_command else None)


def options_of(command: click.Command) -> set[str]:
    """All that can be typed behind it; behind a group, what its commands take."""
    within = [inner for _, inner in leaves(command) if inner is not command] if isinstance(command, click.Group) else []
    own = {text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts)}
    return own.union({"--help"}, *(options_of(inner) for inner in within))


def leaves(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    if command.invoke_without_command:
        yield path, command
    for name in command.list_commands(click.Context(command)):
        inner = command.get_command(click.Context(command), name)
        if inner is not None:
            yield from leaves(inner, f"{path} {name}".strip())


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


def wrong_commands(text: str) -> Iterator[str]:
    """What `text` names that is not there: commands, options behind them, modules."""
    for part in COMMAND.findall(text):
        words = re.findall(r"[a-z]+", re.split(r" [-A-Z{/.0-9<]", part)[0])[1:]
        command = find(words)
        if command is not None:
            yield from (f"{option}: {part}" for option in set(OPTION.findall(part)) - options_of(command))
        elif words[0] in COMMANDS:
            yield part
    for name in re.findall(r"python -m (keepstate[\w.]*\w)", text):
        spec = importlib.util.find_spec(name)
        if spec is None or (name != "keepstate" and "__main__" not in Path(spec.origin or "").read_text()):
            yield name


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
