"""`keepstate train`: fine-tune one adapter with Axolotl."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keepstate.vocabulary import RuntimeName, Tracker

if TYPE_CHECKING:
    from keepstate.training import Progress

SECONDS_BETWEEN_LINES = 15.0
FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("runtime", type=click.Choice([str(name) for name in RuntimeName]))
@click.option("--laptop", is_flag=True, help="The small model on the CPU instead of Qwen3-8B on a GPU.")
@click.option("--config", type=FOLDER, help="Another Axolotl YAML; else train/configs/ for the runtime.")
@click.option("--dataset", type=FOLDER, help="Folder of the data set; else data/datasets/RUNTIME.")
@click.option("--out", type=FOLDER, help="Folder of the adapter; else the config's.")
@click.option("--base-model", help="Model folder or hub name; else the config's.")
@click.option("--profile", type=click.Choice(["speed", "memory"]), help="Spend free GPU memory, or fit 24 GB.")
@click.option("--max-seq-length", type=click.IntRange(1), help="Training context in tokens; else the config's.")
@click.option(
    "--track",
    type=click.Choice([str(name) for name in Tracker]),
    default=str(Tracker.TRACKIO),
    show_default=True,
    help="Who draws the curves: trackio on this machine, a service, or none.",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--dry-run", is_flag=True, help="Check all and print the resolved config; train nothing.")
def command(  # noqa: PLR0913, PLR0917 - one parameter an option
    runtime: str,
    laptop: bool,
    config: Path | None,
    dataset: Path | None,
    out: Path | None,
    base_model: str | None,
    profile: str | None,
    max_seq_length: int | None,
    track: str,
    resume: bool,
    dry_run: bool,
) -> None:
    """Train the adapter of RUNTIME. Without a GPU the default (Qwen3-8B) is refused at once."""
    import yaml  # noqa: PLC0415

    from keepstate.training.config import config_path  # noqa: PLC0415
    from keepstate.training.launch import train  # noqa: PLC0415
    from keepstate.training.planning import plan  # noqa: PLC0415

    config = config or config_path(RuntimeName(runtime), laptop=laptop)
    dataset = dataset or Path("data/datasets") / runtime
    overrides = {"keepstate_profile": profile, "sequence_len": max_seq_length}
    if dry_run:
        planned = plan(config, dataset=dataset, output=out, base_model=base_model, overrides=overrides, machine=False)
        for remark in planned.remarks:
            click.echo(remark, err=True)
        click.echo(yaml.safe_dump(planned.config, sort_keys=False), nl=False)
        return
    with progress_display(runtime) as show:
        adapter = train(
            config,
            dataset=dataset,
            output=out,
            base_model=base_model,
            resume=resume,
            overrides=overrides,
            tracker=Tracker(track),
            on_progress=show,
            on_remark=lambda text: click.echo(text, err=True),
        )
    loss = "" if adapter.final_loss is None else f", loss {adapter.final_loss:.3f}"
    click.echo(f"{adapter.runtime}: {adapter.steps} steps in {adapter.seconds:.0f} s{loss}", err=True)


@contextmanager
def progress_display(name: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then elsewhere; call what it yields with every state."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, SpinnerColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        shown = time.monotonic()

        def line(state: Progress) -> None:
            nonlocal shown
            if time.monotonic() - shown >= SECONDS_BETWEEN_LINES or state.step in (0, state.steps):
                shown = time.monotonic()
                click.echo(f"{name}: {state.words()}", err=True)

        yield line
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[words]}"))
    with Bars(*columns, console=console) as bars:
        row = bars.add_task(name, total=None, words="Axolotl starts")
        yield lambda state: bars.update(row, completed=state.step, total=state.steps, words=state.words())
