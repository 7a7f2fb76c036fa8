"""`keepstate train`: fine-tune one adapter with Axolotl."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keepstate.cli._options import PATH, FiniteRange, RuntimeType, choice, fresh_option, laptop_option, together
from keepstate.vocabulary import MIXED, Tracker

if TYPE_CHECKING:
    from keepstate.train.evaluation import Evaluation
    from keepstate.train.training_plan import TrainingPlan, TrainingRequest

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
    click.option(
        "--eval-cell",
        metavar="TASKS[:N]",
        help="Play N held-out tasks on checkpoints: of a folder, a task set, a benchmark config or a difficulty.",
    ),
    click.option("--eval-steps", type=click.IntRange(1), help="A checkpoint every so many steps; else five in all."),
    click.option(
        "--eval-share",
        type=FiniteRange(0),
        default=20,
        show_default=True,
        metavar="PERCENT",
        help="Of the training's time, at most, that it stands still for that; the rest is played after it.",
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


def evaluation_of(options: dict[str, Any]) -> Callable[[TrainingPlan], Evaluation] | None:
    """What plans the evaluations that were asked for; None where none were."""
    if options["eval_cell"] is None:
        if options["eval_steps"] is not None:
            raise click.UsageError("--eval-steps belongs to --eval-cell")
        return None
    from keepstate.bench.checkpoints import plan_evaluation

    share = options["eval_share"] / 100
    return partial(plan_evaluation, cell=options["eval_cell"], steps=options["eval_steps"], share=share)


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

    --eval-cell shows scores against steps while it trains, beside the losses: its own server plays held-out tasks on
    checkpoints, and no failure of that ends the training.
    """
    import yaml

    from keepstate.train.axolotl_config import config_path
    from keepstate.train.launch import train
    from keepstate.train.progress import TrainingDisplay
    from keepstate.train.training_plan import TrainingRequest, plan_training

    seeds = tuple(dict.fromkeys(options["seed"]))
    if len(seeds) > 1:
        options["seed"] = ()
    asked = TrainingRequest(
        config or config_path(runtime, laptop=laptop),
        dataset=dataset or Path("data/datasets") / runtime,
        output=options["output"],
        base_model=options["base_model"],
        runtime=runtime,
        name=runtime,
        overrides=config_keys(options),
        gpus=options["gpus"],
    )
    evaluate = evaluation_of(options)
    requests = [_with_seed(asked, seed) for seed in seeds] if len(seeds) > 1 else [asked]
    for request in requests:
        if dry_run:
            planned = plan_training(request, machine=False)
            for remark in (*planned.remarks, *(evaluate(planned).remarks if evaluate else ())):
                click.echo(remark, err=True)
            several = len(requests) > 1
            click.echo(yaml.safe_dump(planned.of_a_process, sort_keys=False, explicit_start=several), nl=False)
            continue
        with TrainingDisplay(str(request.name), request.folder()) as show:
            adapter = train(
                request,
                fresh=options["fresh"],
                tracker=Tracker(options["tracker"]),
                evaluate=evaluate,
                on_progress=show,
                on_remark=lambda text: click.echo(text, err=True),
            )
        loss = "" if adapter.final_loss is None else f", loss {adapter.final_loss:.3f}"
        click.echo(f"{adapter.name}: {adapter.steps} steps in {adapter.seconds:.0f} s{loss}", err=True)


def _with_seed(asked: TrainingRequest, seed: int) -> TrainingRequest:
    """The training of one of several seeds: in a folder and under a name of its own."""
    folder = asked.folder()
    return replace(
        asked,
        name=f"{asked.name}-seed{seed}",
        overrides={**asked.overrides, "seed": seed},
        output=folder.with_name(f"{folder.name}-seed{seed}"),
    )
