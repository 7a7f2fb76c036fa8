"""`keepstate serve`: the base model and any number of adapters on one vLLM server; `serve check` asks a running one."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from keepstate.cli import Group
from keepstate.cli._engine import engine_options
from keepstate.cli._options import PATH, json_option, key_file_option, laptop_option, port_option
from keepstate.cli._output import print_json
from keepstate.errors import EXIT_PARTIAL

if TYPE_CHECKING:
    from keepstate.serve import ServingPlan
    from keepstate.serve.check import ServerRow

COLOURS = {"ok": "green", "wrong": "red", "unknown": "yellow"}


@click.group(cls=Group, invoke_without_command=True, subcommand_metavar="[check ...]")
@click.option("--lora", "adapters", multiple=True, metavar="[NAME=]FOLDER", help="An adapter; repeat it for several.")
@click.option("--base-model", help="Model folder or hub name; else what the adapters were trained on, else Qwen3-8B.")
@laptop_option
@click.option(
    "--base",
    "weights",
    type=click.Choice(["as-published", "nf4-dequantised"]),
    default="as-published",
    show_default=True,
    help="Its weights; nf4-dequantised: as training with load_in_4bit saw them.",
)
@port_option(0)
@click.option(
    "--replicas",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Servers alike, a GPU each, on this port and the next ones; a benchmark asks all of them.",
)
@engine_options(local="vLLM here", ray="replicas over a Ray cluster's nodes, by Ray Serve LLM")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; another one needs a key.")
@click.option("--context", type=click.IntRange(1), help="Tokens; else 40,960 on a GPU, 8,192 on the CPU.")
@click.option(
    "--template",
    "--chat-template",
    "template",
    help="Chat template (name or file); else the adapters', else the one that fits the base.",
)
@click.option("--nothink/--no-nothink", default=None, help="Thinking off; else as NOTHINK says, else off.")
@key_file_option("each request must bring", expose=True)
@click.option("--max-num-seqs", type=click.IntRange(1), help="Answers at once; else 256 on a GPU, others wait.")
@click.option("--gpu-memory", type=float, metavar="SHARE", help="Of the GPU's memory that it takes; else 0.9.")
@click.option(
    "--kv-cache",
    type=click.Choice(["as-model", "fp8"]),
    default="as-model",
    show_default=True,
    help="Numbers of the key-value cache; fp8: room for twice the tokens, and other answers.",
)
@click.option(
    "--speculate",
    type=click.Choice(["off", "ngram"]),
    default="off",
    show_default=True,
    help="Draft answers from what the conversation had before; for one to a few episodes at once.",
)
@click.option(
    "--vllm-arg",
    "vllm_args",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="Another option for vLLM; repeat it for more.",
)
@click.option("--dry-run", is_flag=True, help="Check all and print the server's command; start nothing.")
def command(
    laptop: bool,
    weights: str,
    port: int,
    host: str,
    dry_run: bool,
    api_key_file: Path | None,
    vllm_args: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Serve until Ctrl-C or SIGTERM. Adapters answer under their names, the base model as `base`."""
    if (called := click.get_current_context()).invoked_subcommand:
        _refuse_options(called)
        return
    from keepstate.play.cluster_address import check_address
    from keepstate.processes import sigterm_interrupts
    from keepstate.serve import StartDisplay, plan_serving
    from keepstate.serve.launch import serve_all
    from keepstate.serve.nf4 import NF4_DEQUANTISED, as_published, on_nf4
    from keepstate.serve.ports import check_port
    from keepstate.serve.replicas import wait_for_all
    from keepstate.serve.serving_plan import with_access
    from keepstate.serve.vllm_arguments import asked_for
    from keepstate.setup import basemodel

    if laptop and chosen["base_model"]:
        raise click.UsageError("give either --laptop or --base-model")
    if port and not dry_run:
        check_port(port, host)  # before anything that takes minutes
    if chosen["engine"] == "ray" and not dry_run:
        check_address(chosen["address"])
    if laptop:
        chosen["base_model"] = str(basemodel.folder() if dry_run else basemodel.ensure_base_model())
    where = {key: chosen.pop(key) for key in ("engine", "address", "replicas")}
    log = Path(os.devnull) if dry_run else None  # else a folder for it could be made
    args = asked_for(**{key: chosen.pop(key) for key in ("max_num_seqs", "gpu_memory", "kv_cache", "speculate")})
    planned = plan_serving(port=port, log=log, vllm_args=[*args, *vllm_args], **chosen)
    planned = with_access(planned, host, wants_key=api_key_file is not None)
    planned = on_nf4(planned, make=not dry_run) if weights == NF4_DEQUANTISED else as_published(planned)
    plans = _spread(planned, any_port=port == 0, **where)
    for remark in plans[0].remarks:
        click.echo(remark, err=True)
    if dry_run:
        for each in plans:
            click.echo(shell_line(each))
        return
    with sigterm_interrupts(), ExitStack() as stack:
        with StartDisplay() as show:
            servers = stack.enter_context(serve_all(plans, on_progress=show))
        for server in servers:
            click.echo(f"{server.base_url} serves {', '.join(server.names)} (up in {server.seconds:.0f} s)", err=True)
            for words, seconds in server.stages:
                click.echo(f"{seconds:7.1f} s  {words}", err=True)
            click.echo(f"Ctrl-C ends it; its log: {server.log}", err=True)
        if len(servers) > 1:
            click.echo(f"--base-url {servers[0].base_url} stands for all {len(servers)} on this machine", err=True)
        wait_for_all(servers, lambda words: click.echo(words, err=True))


def _spread(
    planned: ServingPlan, *, any_port: bool, engine: str, address: str | None, replicas: int
) -> list[ServingPlan]:
    """The servers that are started: one over a cluster's nodes, or a replica each here."""
    from keepstate.serve.over_nodes import over_nodes
    from keepstate.serve.replicas import plan_replicas

    if engine == "ray":
        return [over_nodes(planned, replicas=replicas, address=address)]
    if address is not None:
        raise click.UsageError("--address belongs to --engine ray")
    return plan_replicas(planned, replicas, any_port=any_port)


@command.command()
@click.argument("url")
@click.option(
    "--dataset", type=PATH, help="A built data set: its template and tokenizer must make the server's prompts."
)
@key_file_option()
@json_option
def check(url: str, dataset: Path | None, as_json: bool) -> None:
    """Ask the server at URL what it really does: models, context, thinking, adapters, prefix cache.

    Exit 1 if something is wrong; what a server does not tell is unknown, which is not wrong.
    """
    from keepstate.serve.check import Standing, check_server
    from keepstate.serve.loaded import servers_at

    base_url = url.rstrip("/") if url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1"
    urls = servers_at(base_url)
    rows = [row.on(url) if len(urls) > 1 else row for url in urls for row in check_server(url, dataset=dataset)]
    if as_json:
        print_json([{"topic": row.topic, "standing": row.standing, "text": row.text} for row in rows])
    else:
        _print(rows)
    if any(row.standing is Standing.WRONG for row in rows):
        sys.exit(EXIT_PARTIAL)


def _print(rows: list[ServerRow]) -> None:
    width = max(len(row.topic) for row in rows)
    for row in rows:
        click.echo(f"{click.style(f'{row.standing:<7}', fg=COLOURS[row.standing])}  {row.topic:<{width}}  {row.text}")


def _refuse_options(called: click.Context) -> None:
    """What is given for a new server says nothing of a running one."""
    given = [name for name in called.params if called.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"options of a new server stand before {called.invoked_subcommand}, which starts none")


def shell_line(planned: ServingPlan) -> str:
    """What would be run, as one line for a shell."""
    from keepstate.serve.command import command as server_command
    from keepstate.serve.command import own_environment
    from keepstate.setup import environments

    words = ["env", *(f"{name}={value}" for name, value in own_environment(planned).items())]
    return shlex.join([*words, *server_command(planned, environments.spec("serve").python)])
