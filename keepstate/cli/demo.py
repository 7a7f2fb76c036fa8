"""`keepstate demo`: the whole loop on this machine, from a seed to a report, without GPU, account or model hub."""

from __future__ import annotations

from pathlib import Path

import click

from keepstate.cli._options import PATH, port_option, sandbox_options
from keepstate.vocabulary import AUTO


@click.command(context_settings={"show_default": True})
@click.option("--out", type=PATH, default=Path("runs/demo"), help="Folder of everything that it makes.")
@click.option("--train-tasks", type=click.IntRange(2), default=60, help="Each is played in all three runtimes.")
@click.option("--eval-tasks", type=click.IntRange(1), default=10, help="Held out, played by every cell.")
@click.option("--mixed", is_flag=True, help="Also one adapter for both code runtimes, trained on the data of both.")
@port_option(1)
@sandbox_options(AUTO)
def command(
    *, out: Path, train_tasks: int, eval_tasks: int, mixed: bool, port: int, isolation: str, allow_unsafe: bool
) -> None:
    """Run the whole loop on this machine: tasks, traces, data, three adapters, server, benchmark, report.

    Repeating the command does only what is missing. Of two with one folder, the second waits for the first.
    """
    from keepstate.demo import Demo, DemoFolder
    from keepstate.processes import only_one

    folder = DemoFolder(out.resolve())
    demo = Demo(folder, train_tasks, eval_tasks, port, isolation, allow_unsafe, mixed)
    with only_one(folder.lock, f"the demo in {folder.root}"):
        demo.run()
