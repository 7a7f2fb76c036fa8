"""What can be typed: the commands that there are, their options, and what a text names that is not there."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import click

from keepstate.cli import COMMANDS, cli

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"\bkeepstate [a-z].*?(?=[;,)`]|\. | or | to |: |$|\bkeepstate )", re.DOTALL)
"""A command inside a message, to its end."""


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


def wrong_commands(text: str) -> Iterator[str]:
    """What `text` names that is not there: commands, options behind them, modules."""
    for whole in COMMAND.findall(text):
        part, launches, launched = whole.partition(" -- ")
        if launches:
            yield from wrong_commands(f"keepstate {launched}")
        words = re.findall(r"[a-z][a-z0-9]*", re.split(r" [-A-Z{/.0-9<]", part)[0])[1:]
        command = find(words)
        if command is not None:
            yield from (f"{option}: {part}" for option in set(OPTION.findall(part)) - options_of(command))
        elif words[0] in COMMANDS:
            yield part
    for name in re.findall(r"python -m (keepstate[\w.]*\w)", text):
        spec = importlib.util.find_spec(name)
        if spec is None or (name != "keepstate" and "__main__" not in Path(spec.origin or "").read_text()):
            yield name
