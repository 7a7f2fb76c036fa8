"""`keepstate train`: fine-tune one adapter with Axolotl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from keepstate.cli._options import PATH, FiniteRange, choice, fresh_option, laptop_option, together
from keepstate.vocabulary import MIXED, RuntimeName, Tracker

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--max-seq-length": ("sequence_len", {"type": click.IntRange(1), "help": "Training context in tokens."}),
    "--batch-size": ("micro_batch_size", {"type": click.IntRange(1), "help": "Rows at once on the GPU."}),
    "--grad-accum": ("gradient_accumulation_steps", {"type": click.IntRange(1), "help": "Batches of one step."}),
    "--lr": ("learning_rate", {"type": FiniteRange(0, min_open=True), "help": "Learning rate."}),
    "--epochs": ("num_epochs", {"type": FiniteRange(0, min_open=True), "help": "Passes over the data."}),
    "--seed": ("seed", {"type": click.IntRange(0, 2**32 - 1), "help": "Of the training."}),
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
    return {key: value for key, value in given.items() if value is not None}


@click.command()
@click.argument("runtime", type=choice(RuntimeName, MIXED))
@laptop_option
@click.option("--config", type=PATH, help="Another Axolotl YAML; else train/configs/ for the runtime.")
@click.option("--dataset", type=PATH, help="Folder of the data set; else data/datasets/RUNTIME.")
@training_options
@click.option("--dry-run", is_flag=True, help="Check all and print the resolved config; train nothing.")
def command(
    runtime: str, laptop: bool, config: Path | None, dataset: Path | None, dry_run: bool, **options: Any
) -> None:
    """Train the adapter of RUNTIME, or of mixed data, from where it was stopped.

    Without a GPU the default (Qwen3-8B) is refused at once.
    What is given replaces the config's values. Another training in the same folder is refused, naming what differs.
    """
    import yaml

    from keepstate.train.axolotl_config import config_path
    from keepstate.train.launch import train
    from keepstate.train.progress import TrainingDisplay
    from keepstate.train.training_plan import plan_training

    config = config or config_path(runtime, laptop=laptop)
    dataset = dataset or Path("data/datasets") / runtime
    overrides = config_keys(options)
    places: dict[str, Any] = {
        "dataset": dataset,
        "output": options["output"],
        "base_model": options["base_model"],
        "runtime": runtime,
    }
    if dry_run:
        planned = plan_training(config, overrides=overrides, machine=False, **places)
        for remark in planned.remarks:
            click.echo(remark, err=True)
        click.echo(yaml.safe_dump(planned.config, sort_keys=False), nl=False)
        return
    with TrainingDisplay(runtime) as show:
        adapter = train(
            config,
            overrides=overrides,
            fresh=options["fresh"],
            tracker=Tracker(options["tracker"]),
            on_progress=show,
            on_remark=lambda text: click.echo(text, err=True),
            **places,
        )
    loss = "" if adapter.final_loss is None else f", loss {adapter.final_loss:.3f}"
    click.echo(f"{adapter.name}: {adapter.steps} steps in {adapter.seconds:.0f} s{loss}", err=True)
