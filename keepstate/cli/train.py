"""`keepstate train`: fine-tune one adapter with Axolotl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from keepstate.cli._options import PATH, FiniteRange, RuntimeType, choice, fresh_option, laptop_option, together
from keepstate.vocabulary import MIXED, Tracker

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--max-seq-length": ("sequence_len", {"type": click.IntRange(1), "help": "Training context in tokens."}),
    "--batch-size": ("micro_batch_size", {"type": click.IntRange(1), "help": "Rows at once on the GPU."}),
    "--grad-accum": ("gradient_accumulation_steps", {"type": click.IntRange(1), "help": "Batches of one step."}),
    "--lr": ("learning_rate", {"type": FiniteRange(0, min_open=True), "help": "Learning rate."}),
    "--epochs": ("num_epochs", {"type": FiniteRange(0, min_open=True), "help": "Passes over the data."}),
    "--seed": ("seed", {"type": click.IntRange(0, 2**32 - 1), "multiple": True, "help": "Of the training."}),
    "--profile": (
        "keepstate_profile",
        {"type": click.Choice(["speed", "memory"]), "help": "Spend free GPU memory, or fit 12 GB."},
    ),
}
"""What replaces a value of the config where it is given: the option, its key in the YAML, what click is told."""


training_options = together(
    click.option("--out", "--output-dir", "output", type=PATH, help="Folder of the adapter; else the config's."),
    click.option("--base-model", "--model", "base_model", help="Model folder or hub name; else the config's."),
    *(click.option(name, key, **settings) for name, (key, settings) in OPTIONS.items()),
    click.option(
        "--gpus",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Train on so many at once, with the same rows a step.",
    ),
    click.option(
        "--track",
        "tracker",
        type=choice(Tracker),
        default=str(Tracker.TRACKIO),
        show_default=True,
        help="Who draws the curves: trackio on this machine, a service, or none.",
    ),
    fresh_option,
)
"""The options of whatever trains; `config_keys` takes those of `OPTIONS` from what click hands over."""


def config_keys(options: dict[str, Any]) -> dict[str, Any]:
    """Take the keys of the config that were given out of `options`."""
    given = {key: options.pop(key) for key, _ in OPTIONS.values()}
    if len(seeds := given["seed"]) > 1:
        raise click.UsageError("several --seed are several trainings: keepstate train RUNTIME --seed 1 --seed 2")
    given["seed"] = seeds[0] if seeds else None
    return {key: value for key, value in given.items() if value is not None}


@click.command()
@click.argument("runtime", type=RuntimeType(MIXED))
@laptop_option
@click.option("--config", type=PATH, help="Another Axolotl YAML; else train/configs/ for the runtime.")
@click.option("--dataset", type=PATH, help="Folder of the data set; else data/datasets/RUNTIME.")
@training_options
@click.option("--dry-run", is_flag=True, help="Check all and print the resolved config; train nothing.")
def command(
    runtime: str, laptop: bool, config: Path | None, dataset: Path | None, dry_run: bool, **options: Any
) -> None:
    """Train the adapter of RUNTIME, or of mixed data, from where it was stopped.

    Without a GPU the default (Qwen3-8B) is refused at once. Several --seed are trainings one after the other, each in a
    folder and under a name of its own (out/...-seed1, persistent-seed1); a report shows how far they lie apart.
    What is given replaces the config's values. Another training in the same folder is refused, naming what differs.
    """
    import yaml

    from keepstate.train.axolotl_config import config_path
    from keepstate.train.launch import train
    from keepstate.train.progress import TrainingDisplay
    from keepstate.train.training_plan import plan_training

    config = config or config_path(runtime, laptop=laptop)
    seeds = tuple(dict.fromkeys(options["seed"]))
    if len(seeds) > 1:
        options["seed"] = ()
    overrides = config_keys(options)
    places: dict[str, Any] = {
        "dataset": dataset or Path("data/datasets") / runtime,
        "output": options["output"],
        "base_model": options["base_model"],
        "runtime": runtime,
        "gpus": options["gpus"],
    }
    trainings = _trainings(config, overrides, places, seeds) if len(seeds) > 1 else [(runtime, overrides, places)]
    for name, keys, where in trainings:
        if dry_run:
            planned = plan_training(config, overrides=keys, machine=False, **where)
            for remark in planned.remarks:
                click.echo(remark, err=True)
            click.echo(
                yaml.safe_dump(planned.of_a_process, sort_keys=False, explicit_start=len(trainings) > 1), nl=False
            )
            continue
        with TrainingDisplay(name, _folder(config, where)) as show:
            adapter = train(
                config,
                overrides=keys,
                name=name,
                fresh=options["fresh"],
                tracker=Tracker(options["tracker"]),
                on_progress=show,
                on_remark=lambda text: click.echo(text, err=True),
                **where,
            )
        loss = "" if adapter.final_loss is None else f", loss {adapter.final_loss:.3f}"
        click.echo(f"{adapter.name}: {adapter.steps} steps in {adapter.seconds:.0f} s{loss}", err=True)


def _folder(config: Path, places: dict[str, Any]) -> Path:
    """Where the adapter will lie."""
    from keepstate.train.axolotl_config import read_axolotl_config
    from keepstate.train.base_model import output_folder

    return output_folder(read_axolotl_config(config), places["output"], places["base_model"], places["runtime"])


def _trainings(
    config: Path, overrides: dict[str, Any], places: dict[str, Any], seeds: Sequence[int]
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, keys and places of the training of each seed."""
    runtime, base = places["runtime"], _folder(config, places)
    return [
        (
            f"{runtime}-seed{seed}",
            overrides | {"seed": seed},
            places | {"output": base.with_name(f"{base.name}-seed{seed}")},
        )
        for seed in seeds
    ]
