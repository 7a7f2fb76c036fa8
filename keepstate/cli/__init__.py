"""The command line: one thin module per command, imported only when it is called.

Run `keepstate --help`. Words go to stderr, data to stdout. `UserError` ends with exit 2 and a hint, Ctrl-C with 130.
"""

from __future__ import annotations

import difflib
import importlib
import io
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from keepstate import __version__
from keepstate.cli._output import folded
from keepstate.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from keepstate.files import refused
from keepstate.stages import STAGES

COMMANDS: dict[str, str] = {stage.name: f"{stage.summary[0].upper()}{stage.summary[1:]}." for stage in STAGES} | {
    "clean": "List what is of no more use, and remove it where asked to.",
    "compare": "Compare two benchmark results, task by task.",
    "completion": "Print the line that makes a shell complete commands.",
    "demo": "Run the whole loop on this machine.",
    "doctor": "Show what this machine can do and what is missing.",
    "init": "Write a project to start from: tasks, configs, commands.",
    "launch": "Print what makes a cluster run a command: SLURM, Kubernetes.",
    "ls": "List what there is, how far it is, and which episodes failed.",
    "setup": "Make the environments and models that are missing.",
}
"""Commands in the order of the pipeline, with their one-line help: listing them imports nothing."""


class Group(click.Group):
    """A group that tells the nearest of its commands, and of its groups' commands, where one does not exist."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called."""
        wanted = args[0]
        if wanted.startswith("-") or self.get_command(ctx, wanted) is not None:
            return super().resolve_command(ctx, args)
        known = [(name, name) for name in self.list_commands(ctx)]
        for name, _ in list(known):
            group = self.get_command(ctx, name)
            if isinstance(group, click.Group):
                known += [(inner, f"{name} {inner}") for inner in group.list_commands(ctx)]
        near = difflib.get_close_matches(wanted.lower(), [name for name, _ in known])
        guesses = [
            f"{ctx.command_path} {whole}" for found in dict.fromkeys(near) for name, whole in known if name == found
        ]
        return ctx.fail(f"No such command {wanted!r}." + (f" Did you mean: {', or '.join(guesses)}" if guesses else ""))


class LazyGroup(Group):
    """A group that lists its commands without importing any.

    Args:
        summaries: One-line help of every command, in their order.
        modules: Where a command lives that has a module of its own, under the attribute `command`.
        settings: Of a `click.Group`.
    """

    def __init__(self, *, summaries: Mapping[str, str], modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._summaries, self._modules = summaries, modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in order."""
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command that has one."""
        if cmd_name in self._modules:
            command: click.Command = importlib.import_module(self._modules[cmd_name]).command
            return command
        return super().get_command(ctx, cmd_name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names by their summaries, so that a key press imports no command (3 s of them)."""
        found = [
            CompletionItem(name, help=said) for name, said in self._summaries.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List commands by their summaries, so that `--help` imports none."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))


@click.group(
    cls=LazyGroup,
    summaries=COMMANDS,
    modules={name: f"keepstate.cli.{name}" for name in COMMANDS},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="keepstate")
def cli() -> None:
    """Fine-tune an open-weight model into an agent that behaves in production as it did in training."""


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our arrows shows them as \u2192
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(cli))


def run(command: click.Command, arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default with this program's arguments, say what a user can mend, and return the exit code."""
    try:
        code = command.main(arguments, standalone_mode=False)
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (UserError, OSError, ExceptionGroup) as error:
        mendable = _mendable(error)
        if mendable is None:
            raise
        from keepstate.traces.view import printable  # a file's name, or what it holds, may move the cursor

        message, hint = printable(mendable.message), printable(mendable.hint)
        click.echo(f"{folded('error: ', message)}\n{folded('hint:  ', hint)}", err=True)
        if where := keepstate_elsewhere(mendable.hint):
            click.echo(f"       {where}", err=True)
        return EXIT_USER_ERROR
    return code if isinstance(code, int) else 0


def keepstate_elsewhere(hint: str) -> str:
    """How the commands in `hint` can be typed where the shell does not find `keepstate`; empty where it does."""
    if "keepstate " not in hint or shutil.which("keepstate"):
        return ""
    return f"(first, so that your shell finds keepstate: export PATH={sysconfig.get_path('scripts')}:$PATH)"


def _mendable(error: Exception) -> UserError | None:
    """What a user can mend about `error`; None for a defect of ours, which keeps its traceback."""
    if isinstance(error, ExceptionGroup):
        found = [_mendable(each) for each in error.exceptions]
        return found[0] if all(found) else None
    if isinstance(error, OSError):
        return refused(error)
    return error if isinstance(error, UserError) else None
