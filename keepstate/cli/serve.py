"""`keepstate serve`: the base model and any number of adapters on one vLLM server."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keepstate.cli._options import laptop_option, port_option

if TYPE_CHECKING:
    from keepstate.serve import ServingPlan


@click.command()
@click.option("--lora", "loras", multiple=True, metavar="[NAME=]FOLDER", help="An adapter; repeat it for several.")
@click.option("--base-model", help="Model folder or hub name; else what the adapters were trained on, else Qwen3-8B.")
@laptop_option
@port_option(0)
@click.option("--context", type=click.IntRange(1), help="Tokens; else 40,960 on a GPU, 8,192 on the CPU.")
@click.option(
    "--template",
    "--chat-template",
    "template",
    help="Chat template (name or file); else the adapters', else the one that fits the base.",
)
@click.option("--nothink/--no-nothink", default=None, help="Thinking off; else as NOTHINK says, else off.")
@click.option("--dry-run", is_flag=True, help="Check all and print the server's command; start nothing.")
def command(
    loras: tuple[str, ...],
    base_model: str | None,
    laptop: bool,
    port: int,
    context: int | None,
    template: str | None,
    nothink: bool | None,
    dry_run: bool,
) -> None:
    """Serve on 127.0.0.1 until Ctrl-C. Adapters answer under their names, the base model as `base`."""
    from keepstate.serve import StartDisplay, plan_serving, serve
    from keepstate.serve.ports import check_port
    from keepstate.setup import basemodel

    if laptop and base_model:
        raise click.UsageError("give either --laptop or --base-model")
    if port and not dry_run:
        check_port(port)  # before anything that takes minutes
    if laptop:
        base_model = str(basemodel.folder() if dry_run else basemodel.ensure_base_model())
    planned = plan_serving(
        base_model=base_model,
        adapters=loras,
        template=template,
        port=port,
        context=context,
        nothink=nothink,
        log=Path(os.devnull) if dry_run else None,  # else a folder for it could be made
    )
    for remark in planned.remarks:
        click.echo(remark, err=True)
    if dry_run:
        click.echo(shell_line(planned))
        return
    with ExitStack() as stack:
        with StartDisplay() as show:
            server = stack.enter_context(serve(planned, on_progress=show))
        click.echo(f"{server.base_url} serves {', '.join(server.names)} (up in {server.seconds:.0f} s)", err=True)
        click.echo(f"Ctrl-C ends it; its log: {server.log}", err=True)
        server.wait()


def shell_line(planned: ServingPlan) -> str:
    """What would be run, as one line for a shell."""
    from keepstate.serve.command import command as server_command
    from keepstate.serve.command import own_environment
    from keepstate.setup import environments

    words = ["env", *(f"{name}={value}" for name, value in own_environment(planned).items())]
    return shlex.join([*words, *server_command(planned, environments.spec("serve").python)])
