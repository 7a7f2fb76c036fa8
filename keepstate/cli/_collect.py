"""`keepstate traces collect`: let a teacher play tasks in the real runtimes, and record it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keepstate.agents import EpisodeLimits
from keepstate.cli import FiniteRange
from keepstate.cli._progress import heartbeat, tell_replaced
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.models.base import Model, Sampling
from keepstate.models.server import RETRIES, ServerModel
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, Tally, collect
from keepstate.tasks import read_tasks
from keepstate.tasks.base import Task
from keepstate.traces.record import RuntimeLimits
from keepstate.vocabulary import RuntimeName

ALL = "all"


@click.command("collect")
@click.option("--tasks", "folder", type=click.Path(path_type=Path), required=True, help="Folder of task files.")
@click.option("--runtime", type=click.Choice([*map(str, RuntimeName), ALL]), default=ALL, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/traces"), show_default=True)
@click.option("--teacher", type=click.Choice(["scripted", "llm"]), default="scripted", show_default=True)
@click.option("--base-url", help="OpenAI-compatible endpoint of the llm teacher, ending in /v1.")
@click.option("--model", "model_name", help="Its model name. Its key: KEEPSTATE_API_KEY.")
@click.option("--temperature", type=FiniteRange(0), default=Sampling().temperature, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=Sampling().max_tokens, show_default=True)
@click.option("--retries", type=click.IntRange(0), default=RETRIES, show_default=True, help="Of a failed request.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed plays the same tasks differently.")
@click.option("--turns", type=click.IntRange(1), default=EpisodeLimits().turns, show_default=True)
@click.option("--tool-calls", type=click.IntRange(2), default=RuntimeLimits().tool_calls, show_default=True)
@click.option("--concurrency", type=click.IntRange(1), default=8, show_default=True, help="Episodes at once.")
@click.option(
    "--isolation",
    default="auto",
    show_default=True,
    help="Rung of the sandbox, RUNG+ for at least that one; see: keepstate doctor",
)
@click.option("--allow-unsafe", is_flag=True, help="Run the teacher's code without a sandbox if there is none.")
@click.option("--fresh", is_flag=True, help="Replace finished episodes of another model, seed, limits or sampling.")
def command(  # noqa: PLR0913 - one parameter an option
    *,
    folder: Path,
    runtime: str,
    out: Path,
    teacher: str,
    base_url: str | None,
    model_name: str | None,
    temperature: float,
    max_tokens: int,
    retries: int,
    seed: int,
    turns: int,
    tool_calls: int,
    concurrency: int,
    isolation: str,
    allow_unsafe: bool,
    fresh: bool,
) -> None:
    """Let a teacher play every task, and record it. Repeating the command plays only what is missing."""
    if (teacher == "llm") != bool(base_url and model_name) or (teacher == "scripted" and (base_url or model_name)):
        raise UserError(
            "--base-url and --model belong to --teacher llm, which needs both",
            "e.g. --teacher llm --base-url http://127.0.0.1:8000/v1 --model base",
        )
    tasks, bad = read_tasks(folder)
    for file in bad:
        click.echo(f"left out: {file.path}: {file.reason}", err=True)
    if not tasks:
        raise UserError(f"no valid task in {folder}", "make some with: keepstate tasks generate")
    runtimes = tuple(RuntimeName) if runtime == ALL else (RuntimeName(runtime),)

    def limits(name: RuntimeName) -> EpisodeLimits:
        return replace(EpisodeLimits.default(name), turns=turns, runtime=RuntimeLimits(tool_calls=tool_calls))

    def scripted(task: Task, name: RuntimeName) -> Model:
        return ScriptedTeacher(task, name, seed=seed, tool_calls=tool_calls)

    async def run(progress: Callable[[Tally], None]) -> Tally:
        plan = CollectPlan(tasks, runtimes, scripted, out, seed, concurrency, limits, keep_others=not fresh)
        if not (base_url and model_name):
            return await collect(plan, isolation=isolation, allow_unsafe=allow_unsafe, progress=progress)
        sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        async with ServerModel(base_url, model_name, sampling, concurrency=concurrency, retries=retries) as server:
            plan = replace(plan, teacher=lambda _task, _name: server)
            return await collect(plan, isolation=isolation, allow_unsafe=allow_unsafe, progress=progress)

    tally = with_progress(len(tasks) * len(runtimes), run)
    _report(tally, runtimes, out)
    if bad or tally.failures:
        sys.exit(EXIT_PARTIAL)


def with_progress(total: int, run: Callable[[Callable[[Tally], None]], Coroutine[Any, Any, Tally]]) -> Tally:
    """Run a collection and show how far it is.

    Args:
        total: Episodes in all.
        run: Makes the collection from what is to be called with every new state.
    """
    console = Console(stderr=True)
    shown = _Shown(total)
    if not console.is_terminal:
        with heartbeat(lambda: click.echo(shown.line(), err=True)):
            return asyncio.run(run(shown.update))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("episodes", total=total)

        def progress(tally: Tally) -> None:
            shown.update(tally)
            bar.update(row, completed=shown.done, description=f"episodes{shown.failed}")

        return asyncio.run(run(progress))


class _Shown:
    """How far a collection is, in words."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self.failed = ""
        self._total, self._kept = total, 0
        self._started = time.monotonic()

    def update(self, tally: Tally) -> None:
        """Take a new state; the first one names what is played again."""
        failures, self._kept = tally.failures.total(), tally.kept.total()
        if not self.done and not tally.recorded and not failures:
            tell_replaced(tally.replaced, lambda line: click.echo(line, err=True))
        self.done = tally.recorded.total() + self._kept + failures
        self.failed = f" ({failures} failed)" if failures else ""

    def line(self) -> str:
        """One line."""
        rate = 60 * (self.done - self._kept) / max(time.monotonic() - self._started, 1e-9)
        return f"{self.done}/{self._total} episodes{self.failed}; {rate:.0f} episodes/min"


def _report(tally: Tally, runtimes: tuple[RuntimeName, ...], out: Path) -> None:
    for name in runtimes:
        count = tally.graded(name)
        mean = f", mean score {tally.score[name] / count:.3f}, solved {tally.solved[name]}" if count else ""
        click.echo(f"{out / name}: {tally.recorded[name]} recorded, {tally.kept[name]} kept{mean}")
    if tally.trimmed:
        click.echo(f"blank lines before {tally.trimmed} answers are left out: training text cannot hold them", err=True)
    if tally.failures:
        causes = ", ".join(f"{origin} {count}" for origin, count in sorted(tally.failures.items()))
        click.echo(f"not recorded: {tally.failures.total()} ({causes}); first: {tally.first_failure}", err=True)
        click.echo("repeat the command to play these again", err=True)
