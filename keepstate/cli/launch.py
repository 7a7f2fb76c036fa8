"""`keepstate launch`: print what makes a cluster run a command; submit nothing."""

from __future__ import annotations

import re

import click

from keepstate.cli import Group, cli
from keepstate.cli._options import together
from keepstate.errors import UserError

SPREAD = ("bench run", "bench matrix", "bench replay", "traces collect", "dataset build")
"""Commands that take `--engine`."""
LAUNCHED = ("train", "serve", *SPREAD)
OF_RAY = {"--engine", "--address"}
OF_SERVER = {"--host", "--port", "--api-key-file"}
"""Options that are written here."""
TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")
machine_options = together(
    click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Machines; several by Ray."),
    click.option("--cpus", type=click.IntRange(1, 4_096), default=8, show_default=True, help="Processors of each."),
    click.option("--memory", "memory_gib", type=click.IntRange(1, 65_536), default=32, show_default=True, help="GiB."),
    click.option("--gpus", type=click.IntRange(0, 64), default=0, show_default=True, help="Of each."),
)
words_argument = click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")


@click.group(cls=Group)
def command() -> None:
    """Print what makes a cluster train, serve, play or build: a SLURM script, or Kubernetes manifests."""


@command.command()
@words_argument
@machine_options
@click.option("--time", default="24:00:00", show_default=True, help="The longest it may take: [DAYS-]HH:MM:SS.")
@click.option("--partition", help="Of the cluster; else its default.")
@click.option("--account", help="Who pays; else as SLURM has it.")
def slurm(words: tuple[str, ...], *, time: str, partition: str | None, account: str | None, **sizes: int) -> None:
    """Print a script for sbatch that runs COMMAND: keepstate launch slurm --nodes 4 -- bench run cell.yaml"""
    from keepstate.setup.manifests import Launch, slurm_script

    if not TIME.fullmatch(time):
        raise click.UsageError(f"--time {time!r} is none of SLURM's: [DAYS-]HH:MM:SS")
    for option, value in (("--partition", partition), ("--account", account)):
        if value is not None and not re.fullmatch(r"[\w.,@-]+", value):
            raise click.UsageError(f"{option} {value!r} is no name")
    launch = Launch(_checked(words, sizes["nodes"]), **sizes)
    click.echo(slurm_script(launch, time=time, partition=partition, account=account), nl=False)


@command.command()
@words_argument
@machine_options
@click.option("--image", required=True, help="Of every container: keepstate, on several machines with ray[default].")
@click.option("--claim", default="keepstate", show_default=True, help="Volume claim, which lies at /work.")
def k8s(words: tuple[str, ...], *, image: str, claim: str, **sizes: int) -> None:
    """Print manifests for kubectl that run COMMAND: a Job, on several machines a RayJob; of serve a Deployment."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    from keepstate.setup.manifests import Launch, kubernetes_manifests

    if not re.fullmatch(r"[\w.:/@-]+", image):
        raise click.UsageError(f"--image {image!r} is no image")
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", claim):
        raise click.UsageError(f"--claim {claim!r} is no name of Kubernetes: a-z, 0-9, - and .")
    launch = Launch(_checked(words, sizes["nodes"]), **sizes)
    found = kubernetes_manifests(launch, image=image, claim=claim)
    click.echo(yaml.dump_all(found, Dumper=Plain, sort_keys=False, explicit_start=True), nl=False)


def _checked(words: tuple[str, ...], nodes: int) -> tuple[str, ...]:
    """The words of a command that a cluster runs, on so many machines, with arguments and options that it has.

    Raises:
        UserError: It is none, or names what is written here.
        click.UsageError: What its own parser says.
    """
    words = words[1:] if words[0] == "keepstate" else words
    name = next((name for name in LAUNCHED if " ".join(words[: len(name.split())]) == name), None)
    if name is None:
        raise UserError(f"{' '.join(words[:2])!r} is nothing that a cluster runs", f"one of: {', '.join(LAUNCHED)}")
    if nodes > 1 and name not in SPREAD:
        raise UserError(f"{name} runs on one machine, not on {nodes}", f"spread over several: {', '.join(SPREAD)}")
    found = _find(name)
    context = click.Context(found, info_name=f"keepstate {name}")
    given, more, _ = found.make_parser(context).parse_args([*words[len(name.split()) :]])
    if more:
        raise click.UsageError(f"more than it takes: {' '.join(more)}", context)
    for parameter in found.params:
        value = given.get(parameter.name)
        if isinstance(parameter, click.Argument) and not (isinstance(value, str | tuple) and value):
            raise click.MissingParameter(ctx=context, param=parameter)
        ours = {*parameter.opts} & (OF_SERVER if name == "serve" else OF_RAY)
        if ours and parameter.name in given:
            raise UserError(f"{ours.pop()} is written by keepstate launch", "leave it out")
    return words


def _find(name: str) -> click.Command:
    context, found = click.Context(cli), None
    group: click.Command | None = cli
    for word in name.split():
        assert isinstance(group, click.Group)
        found = group = group.get_command(context, word)
    assert found is not None
    return found
