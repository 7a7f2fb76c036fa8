"""`keepstate traces collect`: let a teacher play tasks in the real runtimes, and record it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from keepstate import eventloop
from keepstate.bench.served import Watch, ask_who_answers, contents_of, pools_of
from keepstate.cli._engine import engine_of, engine_options
from keepstate.cli._options import (
    PATH,
    FiniteRange,
    RuntimeType,
    base_url_option,
    concurrency_option,
    family_option,
    fresh_option,
    json_option,
    limits_of,
    limits_options,
    sampling_of,
    sampling_options,
    sandbox_options,
    seed_option,
)
from keepstate.cli._output import name_left_out, print_json
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.models.base import Model
from keepstate.models.budget import Budget
from keepstate.models.server import RETRIES
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, collect
from keepstate.play.served_teacher import ServedTeacher
from keepstate.play.tally import Tally, TallyDisplay
from keepstate.serve.loaded import servers_at
from keepstate.tasks import read_tasks
from keepstate.tasks.base import Task
from keepstate.vocabulary import AUTO, Origin, RuntimeName

ALL = "all"


@click.command("collect")
@click.option("--tasks", "folder", type=PATH, help="Folder of task files. Needed.")
@family_option()
@click.option("--runtime", type=RuntimeType(ALL), default=ALL, show_default=True, help="To play in.")
@click.option("--out", type=PATH, default=Path("data/traces"), show_default=True, help="Each runtime gets a subfolder.")
@click.option("--teacher", type=click.Choice(["scripted", "llm"]), default="scripted", show_default=True)
@base_url_option(otherwise="; for --teacher llm")
@click.option("--model", "model_name", help="Its model name. Its key: KEEPSTATE_API_KEY.")
@sampling_options()
@click.option("--retries", type=click.IntRange(0), default=RETRIES, show_default=True, help="Of a failed request.")
@click.option("--cache", type=PATH, help="SQLite file of its answers: none is paid for twice.")
@click.option("--max-tokens-total", type=click.IntRange(1), help="Stop when all answers together took so many.")
@click.option("--max-cost", type=FiniteRange(0, min_open=True), help="Stop when they cost so much, by the prices.")
@click.option("--price-in", type=FiniteRange(0), default=0.0, help="Of a million prompt tokens.")
@click.option("--price-out", type=FiniteRange(0), default=0.0, help="Of a million completion tokens.")
@seed_option
@limits_options(least_tool_calls=2)
@concurrency_option(8)
@engine_options(writes=True)
@sandbox_options(AUTO)
@fresh_option
@json_option
def command(  # noqa: PLR0913 - one parameter an option
    *,
    folder: Path | None,
    runtime: str,
    out: Path,
    teacher: str,
    base_url: str | None,
    model_name: str | None,
    retries: int,
    cache: Path | None,
    max_tokens_total: int | None,
    max_cost: float | None,
    price_in: float,
    price_out: float,
    seed: int,
    concurrency: int,
    fresh: bool,
    isolation: str,
    allow_unsafe: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Let a teacher play every task, and record it. Repeating the command plays only what is missing."""
    if (teacher == "llm") != bool(base_url and model_name) or (teacher == "scripted" and (base_url or model_name)):
        raise UserError(
            "--base-url and --model belong to --teacher llm, which needs both",
            "e.g. --teacher llm --base-url http://127.0.0.1:8000/v1 --model base",
        )
    if folder is None:
        raise UserError("--tasks is missing: a folder of task files", "make some: keepstate tasks generate")
    limits, sampling = limits_of(options), sampling_of(options)
    budget = _budget(max_tokens_total, max_cost, price_in, price_out)
    servers = servers_at(base_url) if base_url else ()
    served = ServedTeacher(servers, model_name, sampling, retries, cache, budget) if servers and model_name else None
    if not served and (budget or cache):
        raise UserError("--cache, --max-tokens-total and --max-cost belong to --teacher llm", "leave them out")
    tasks, bad = read_tasks(folder)
    name_left_out({str(file.path): file.reason for file in bad})
    if not tasks:
        raise UserError(f"no valid task in {folder}", "make some with: keepstate tasks generate")
    runtimes = tuple(RuntimeName) if runtime == ALL else (RuntimeName(runtime),)

    def scripted(task: Task, name: RuntimeName) -> Model:
        return ScriptedTeacher(task, name, seed=seed, tool_calls=limits.most_calls)

    asked = eventloop.run(ask_who_answers(servers)) if servers else []
    told = contents_of(asked, model_name) if servers and model_name else {}
    plan = CollectPlan(tasks, runtimes, scripted, out, seed, concurrency, limits, fresh=fresh, served=told)
    if served and model_name:
        served.pools = pools_of(asked, model_name)
        served.watch = partial(Watch, told, name=model_name)
    play = served.collect if served else collect
    within: dict[str, Any] = {"isolation": isolation, "allow_unsafe": allow_unsafe}
    with engine_of(options) as engine, TallyDisplay() as shown:
        eventloop.run(play(plan, engine=engine, on_progress=shown, **within))
    tallies = shown.last or ()
    _report(tallies, as_json)
    for line in served.words(sum(tally.total - tally.done for tally in tallies)) if served else ():
        click.echo(line, err=True)
    if bad or any(tally.failures for tally in tallies) or (served and served.stopped):
        sys.exit(EXIT_PARTIAL)


def _budget(tokens: int | None, cost: float | None, price_in: float, price_out: float) -> Budget | None:
    if bool(cost) != bool(price_in or price_out):
        raise UserError(
            "--max-cost needs prices, and prices need it",
            "e.g. --max-cost 5 --price-in 0.5 --price-out 1.5, each of a million tokens",
        )
    return Budget(tokens, cost, price_in, price_out) if tokens or cost else None


def _report(tallies: Sequence[Tally], as_json: bool) -> None:
    if as_json:
        print_json([tally.figures() for tally in tallies])
    for tally in () if as_json else tallies:
        mean = f", mean score {tally.score / tally.graded:.3f}, solved {tally.solved}" if tally.graded else ""
        click.echo(f"{tally.folder}: {tally.played} recorded, {tally.kept} kept{mean}")
    if trimmed := sum(tally.trimmed for tally in tallies):
        click.echo(f"blank lines before {trimmed} answers are left out: training text cannot hold them", err=True)
    failures = sum((tally.failures for tally in tallies), Counter[Origin]())
    if failures:
        causes = ", ".join(f"{origin} {count}" for origin, count in sorted(failures.items()))
        first = next(tally.first_failure for tally in tallies if tally.failures)
        click.echo(f"not recorded: {failures.total()} ({causes}); first: {first}", err=True)
        click.echo("repeat the command to play these again", err=True)
