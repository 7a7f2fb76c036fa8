"""`keepstate completion`: the line that makes a shell complete commands, options and paths."""

from __future__ import annotations

import click

LINES = {
    "bash": ('eval "$(_KEEPSTATE_COMPLETE=bash_source keepstate)"', "~/.bashrc"),
    "zsh": ('eval "$(_KEEPSTATE_COMPLETE=zsh_source keepstate)"', "~/.zshrc"),
    "fish": ("_KEEPSTATE_COMPLETE=fish_source keepstate | source", "~/.config/fish/completions/keepstate.fish"),
}
"""The line, and the file that it belongs in."""


@click.command()
@click.argument("shell", type=click.Choice(list(LINES)))
def command(shell: str) -> None:
    """Print the line that makes SHELL complete commands, options and paths: keepstate completion bash >> ~/.bashrc"""
    line, file = LINES[shell]
    click.echo(line)
    click.echo(f"belongs in {file}: keepstate completion {shell} >> {file}", err=True)
