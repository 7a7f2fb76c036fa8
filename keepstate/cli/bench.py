"""`keepstate bench`: play tasks with every model in every runtime against a running server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keepstate import eventloop
from keepstate.bench.benchmark_config import (
    DEFAULT_BASE_URL,
    DEFAULT_CONTEXT,
    BenchmarkConfig,
    TaskSource,
    matrix_configs,
    picked,
)
from keepstate.bench.research_configs import read_configs
from keepstate.cli import Group
from keepstate.cli._engine import engine_of, engine_options
from keepstate.cli._options import (
    PATH,
    RUNTIME,
    CapType,
    Several,
    base_url_option,
    concurrency_option,
    family_option,
    fresh_option,
    json_option,
    limits_of,
    limits_options,
    max_tokens_option,
    sandbox_options,
    sweep_of,
    sweep_options,
)
from keepstate.cli._output import name_left_out, print_json
from keepstate.errors import EXIT_PARTIAL
from keepstate.live import LIVE_FILE
from keepstate.traces.view import printable
from keepstate.vocabulary import AUTO, RuntimeName

if TYPE_CHECKING:
    from keepstate.bench.sweep import Sweep
    from keepstate.play.tally import Tally
    from keepstate.tasks.base import Task

RUNS = Path("runs")


@click.group(cls=Group)
def command() -> None:
    """Play tasks with every model in every runtime, against a running server."""


@command.command("run")
@click.argument("configs", nargs=-1, required=True, type=PATH)
@click.option("--run", "run_name", default="bench", show_default=True, help="Results go to runs/NAME.")
@base_url_option(otherwise="; the config's where not given")
@family_option()
@click.option("--tasks", type=PATH, help="Folder of tasks, or a task-set JSON, in the place of the configs' own.")
@click.option("--runtime", "runtimes", type=Several(RUNTIME), default=(), help="To play in; the config's if not given.")
@sweep_options()
@concurrency_option()
@engine_options(writes=True)
@sandbox_options()
@fresh_option
@json_option
def run_command(
    configs: tuple[Path, ...], *, run_name: str, base_url: str | None, tasks: Path | None, **options: Any
) -> None:
    """Play the cells of CONFIGS (YAML), all at once. Repeating the command plays only what is missing.

    A benchmark file of the research code is a cell for each of its agents, and needs --tasks. Several values of
    --runtime, --seeds, --tool-calls or --temperature make cells of their own, named after those that are not the
    config's; what is not given is the config's.
    """
    given = None if tasks is None else TaskSource.model_validate({_kind_of(tasks): tasks})
    loaded = [config for path in configs for config in read_configs(path, given)]
    if base_url:
        loaded = [config.model_copy(update={"base_url": base_url}) for config in loaded]
    _play(loaded, RUNS / run_name, sweep_of(options), options)


@command.command("matrix")
@click.option("--tasks", "path", type=PATH, help="Folder of tasks, or a task-set JSON.")
@click.option("--difficulty", help="Or: sample tasks of this one.")
@family_option(exposed=True)
@click.option("--rules", help="Rule set of --difficulty; else the first of its family.")
@click.option(
    "--count", type=click.IntRange(1), help="At most so many; all of --tasks, 100 of --difficulty if not given."
)
@click.option("--seed-start", type=int, default=123_456_789, show_default=True, help="Of tasks that are sampled.")
@click.option(
    "--adapter", "adapters", multiple=True, help="Only this one, repeatable; else all that the server serves."
)
@click.option(
    "--cells",
    "patterns",
    multiple=True,
    metavar="ADAPTER:RUNTIME",
    help="Only these cells, repeatable; * stands for any: 'mixed:*'.",
)
@click.option("--run", "run_name", default="matrix", show_default=True, help="Results go to runs/NAME.")
@base_url_option(DEFAULT_BASE_URL)
@limits_options(least_tool_calls=None)
@max_tokens_option()
@sweep_options()
@click.option("--context", type=click.IntRange(256), default=DEFAULT_CONTEXT, show_default=True, help="Least tokens.")
@concurrency_option()
@engine_options(writes=True)
@sandbox_options()
@fresh_option
@json_option
def matrix_command(  # noqa: PLR0913 - one parameter an option
    *,
    path: Path | None,
    difficulty: str | None,
    family: str | None,
    rules: str | None,
    count: int | None,
    seed_start: int,
    adapters: tuple[str, ...],
    patterns: tuple[str, ...],
    run_name: str,
    base_url: str,
    context: int,
    max_tokens: int,
    **options: Any,
) -> None:
    """Play every model that the server serves in every runtime whose answers it can give, all on the same tasks.

    What an adapter was trained for stands in its card; one without a card is played in every runtime.
    """
    sweep = sweep_of(options)
    if (path is None) == (difficulty is None):
        raise click.UsageError("give either --tasks or --difficulty")
    if rules and difficulty is None:
        raise click.UsageError("--rules belongs to --difficulty: those of --tasks are in their files")
    where = {"difficulty": difficulty} if path is None else {_kind_of(path): path}
    chosen = {"family": family, "rules": rules, "count": count, "seed_start": seed_start}
    source = TaskSource.model_validate({**where, **chosen})
    from keepstate.bench.served import served_adapters
    from keepstate.models.base import Sampling

    label = source.load()[0].difficulty
    served = eventloop.run(served_adapters(base_url, adapters))
    if unknown := [name for name, trained_for in served.items() if trained_for is None]:
        click.echo(f"what it was trained for is not told, so every runtime is played: {', '.join(unknown)}", err=True)
    configs = matrix_configs(
        source,
        label,
        adapters=served,
        limits=limits_of(options),
        sampling=Sampling(max_tokens=max_tokens),
        context=context,
        base_url=base_url,
    )
    _play(picked(list(configs), patterns), RUNS / run_name, sweep, options)


tasks_option = click.option(
    "--tasks", "path", type=PATH, help="Folder of tasks, or a task-set JSON; where ids do not tell how to sample them."
)


@command.command("replay")
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN...")
@click.option("--runtime", "runtimes", type=Several(RUNTIME), default=(), help="To play in.")
@click.option("--tool-calls", "caps", type=Several(CapType()), default=(), help="Of an action; none: no cap.")
@tasks_option
@family_option()
@concurrency_option(8)
@engine_options()
@sandbox_options(AUTO)
@json_option
def replay_command(
    runs: tuple[Path, ...],
    *,
    runtimes: tuple[str, ...],
    caps: tuple[int, ...],
    path: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Execute every recorded answer below RUN... again, without a model, and compare: runs, cells, or any traces.

    Under the recorded contract all must be as recorded, byte for byte; exit 1 where it is not. With another --runtime
    or --tool-calls in its place: what would have happened to the very same answers. Several of them (forget,lifetime-3)
    are replayed one after another, each runtime with each cap, and compared in one table.
    """
    from keepstate.bench.replay import Contract, replay, table
    from keepstate.play.tally import TallyDisplay

    contracts = [
        Contract(RuntimeName(runtime) if runtime else None, cap)
        for runtime, cap in product(runtimes or (None,), caps or (None,))
    ]
    tasks, found = _tasks(path), []
    with engine_of(options) as engine:
        for contract in contracts:
            with TallyDisplay() as shown:
                again = replay(runs, contract, tasks=tasks, engine=engine, on_progress=shown, **options)
                found.append((contract, eventloop.run(again)))
    folders = [folder for _, of in found for folder in of]
    if as_json:
        told = [folder.figures() | {"contract": asdict(contract)} for contract, of in found for folder in of]
        print_json(told)
    else:
        for line in table(found) if len(found) > 1 else chain(*(folder.lines() for folder in folders)):
            click.echo(printable(line))
    name_left_out({f"{folder.folder}/{name}": why for folder in folders for name, why in folder.left_out})
    if not all(folder.good for folder in folders):
        sys.exit(EXIT_PARTIAL)


@command.command("regrade")
@click.argument("run", type=PATH)
@click.option("--owed-to", type=PATH, help="Move episodes that are owed there, and write the rest; else nothing is.")
@tasks_option
@family_option()
@json_option
def regrade_command(run: Path, *, owed_to: Path | None, path: Path | None, as_json: bool) -> None:
    """Grade every episode below RUN anew whose family's grading changed, without a model: kept, regraded, or owed."""
    from keepstate.bench.regrade import regrade

    folders = eventloop.run(regrade(run, tasks=_tasks(path), owed_to=owed_to))
    if as_json:
        print_json([folder.figures() for folder in folders])
    for line in chain(*(folder.lines() for folder in folders if not as_json)):
        click.echo(printable(line))
    name_left_out({f"{folder.folder}/{name}": why for folder in folders for name, why in folder.left_out.items()})
    if any(folder.owed or folder.unknown or folder.left_out for folder in folders):
        sys.exit(EXIT_PARTIAL)


def _tasks(path: Path | None) -> Sequence[Task]:
    if path is None:
        return ()
    return TaskSource.model_validate({_kind_of(path): path}).load()


def _kind_of(tasks: Path) -> str:
    """Which key of a `TaskSource` names them."""
    return "folder" if tasks.is_dir() else "config"


def _play(configs: Sequence[BenchmarkConfig], run: Path, sweep: Sweep, options: dict[str, Any]) -> None:
    """Play with a progress display, then say what came of it."""
    from keepstate.bench.run import bench  # client and sandbox: 0.6 s that --help need not wait for
    from keepstate.play.tally import TallyDisplay

    for source in dict.fromkeys(config.tasks for config in configs):
        if note := source.capped():
            click.echo(note, err=True)
    cells = [cell for config in configs for cell in sweep.of(config)]
    as_json = options.pop("as_json")
    with engine_of(options) as engine, TallyDisplay(page=run / LIVE_FILE) as shown:
        try:
            tallies = eventloop.run(bench(cells, run, engine=engine, on_progress=shown, **options))
        except KeyboardInterrupt:
            done = sum(tally.done for tally in shown.last) if shown.last else 0
            click.echo(f"stopped; {done} episodes are recorded in {run}: repeat the command to go on", err=True)
            raise
    _report(tallies, run, as_json)
    if any(tally.failures for tally in tallies):
        sys.exit(EXIT_PARTIAL)


def _report(tallies: Sequence[Tally], run: Path, as_json: bool) -> None:
    if as_json:
        print_json([tally.figures() for tally in tallies])
    for tally in tallies:
        origins = ", ".join(f"{origin} {count}" for origin, count in sorted(tally.failures.items()))
        line = f"{tally.folder}: solved {tally.solved} / graded {tally.graded} / not graded {tally.failures.total()}"
        if not as_json:
            click.echo(line + (f" ({origins}); first: {tally.first_failure}" if origins else ""))
        for remark in tally.remarks:
            click.echo(f"{tally.folder}: {remark}", err=True)
    click.echo(f"report: keepstate report {run}", err=True)
