"""The options `--engine`, `--address` and `--writer`: which machines do it, and who writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import click

from keepstate.cli._options import Option, together

if TYPE_CHECKING:
    from keepstate.play.cluster import Cluster


def engine_options(
    local: str = "this machine", ray: str = "all nodes of a Ray cluster", *, writes: bool = False
) -> Option[Any]:
    """Which machines do it; `engine_of` takes it from what click hands over.

    Args:
        local: What `local` is.
        ray: What `ray` is.
        writes: Episodes are recorded, which nodes can do themselves.
    """
    writer = click.option(
        "--writer",
        type=click.Choice(["driver", "nodes"]),
        default="driver",
        show_default=True,
        help="Of traces with --engine ray: this machine, or each node, into folders that all share.",
    )
    return together(
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help=f"{local[0].upper()}{local[1:]}, or {ray}.",
        ),
        click.option("--address", help="Of that cluster: auto, or HOST:PORT; else one of this machine is started."),
        *([writer] if writes else []),
    )


def engine_of(options: dict[str, Any]) -> AbstractContextManager[Cluster | None]:
    """Take the options of `engine_options` out of `options`; the engine is had as long as the context lasts."""
    return _engine(options.pop("engine"), options.pop("address"), options.pop("writer", "driver"))


@contextmanager
def _engine(name: str, address: str | None, writer: str) -> Iterator[Cluster | None]:
    if name == "local":
        if address is not None or writer == "nodes":
            raise click.UsageError(f"{'--address' if address else '--writer nodes'} belongs to --engine ray")
        yield None
        return
    from keepstate.play.cluster import cluster

    if address is None:
        click.echo("starting Ray on this machine", err=True)
    with cluster(address, nodes_write=writer == "nodes") as engine:
        yield engine
