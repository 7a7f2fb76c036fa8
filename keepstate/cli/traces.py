"""`keepstate traces`: collect, import, check, count and show the records of episodes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import click
from rich import box
from rich.table import Table

from keepstate.cli import LazyGroup
from keepstate.cli._options import PATH, json_option
from keepstate.cli._output import print_json, screen
from keepstate.display import CountDisplay
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.report.behaviour import BEHAVIOUR_COLUMNS
from keepstate.traces import BadTrace, Trace, iter_traces
from keepstate.traces.behaviour import BehaviourFigures, behaviour, behaviour_figures
from keepstate.traces.check import check_folders
from keepstate.traces.summary import EpisodeFigures, summarise
from keepstate.traces.view import printable

COMMANDS = {
    "collect": "Let a teacher act in a runtime and record it.",
    "import": "Read traces from elsewhere into keepstate's schema.",
    "check": "Check that traces are whole, append-only and paired.",
    "stats": "Count what is in folders of traces.",
    "view": "Show a trace in the terminal, or any number in a browser.",
}
ELSEWHERE = {name: f"keepstate.cli._{name}" for name in ("collect", "import", "view")}
"""Commands with a module of their own, imported when called."""


@click.group(cls=LazyGroup, summaries=COMMANDS, modules=ELSEWHERE)
def command() -> None:
    """Let a teacher act, and look at what was recorded."""


@command.command()
@click.argument("folders", nargs=-1, required=True, type=PATH)
@click.option("--paired", is_flag=True, help="Folders (or the subfolders of one) must hold the same tasks.")
@json_option
def check(folders: tuple[Path, ...], paired: bool, as_json: bool) -> None:
    """Check every trace below FOLDERS; name the broken ones and exit with 1 if there are any."""
    with CountDisplay("reading traces") as shown:
        report = check_folders(folders, paired=paired, on_progress=shown)
    if not report.checked:
        raise UserError(f"no *.trace.json below {' '.join(map(str, folders))}", "make some: keepstate traces collect")
    lines = [f"{path}: {reason}" for path, reasons in report.problems.items() for reason in reasons]
    lines += [f"{task}: not in {', '.join(lacking)}" for task, lacking in report.unpaired.items()]
    if as_json:
        problems = {str(path): reasons for path, reasons in report.problems.items()}
        print_json({"checked": report.checked, "problems": problems, "unpaired": report.unpaired})
    for line in () if as_json else lines:
        click.echo(printable(line))
    pairing = f", {len(report.unpaired)} tasks not in every folder" if paired else ""
    click.echo(f"{report.checked} traces checked, {len(report.problems)} broken{pairing}", err=True)
    if not report.good:
        raise click.exceptions.Exit(EXIT_PARTIAL)


@command.command()
@click.argument("folders", nargs=-1, required=True, type=PATH)
@json_option
def stats(folders: tuple[Path, ...], as_json: bool) -> None:
    """Count what is in FOLDERS: one row per runtime, task set and model. Exit 1 if a file could not be read."""
    groups, bad = _grouped(folders)
    rows = [(names, summarise(traces)) for names, traces in sorted(groups.items())]
    used = [_behaviour(traces) for _, traces in sorted(groups.items())]
    if not rows:
        named = " ".join(map(str, folders))
        see = f"see why: keepstate traces check {named}" if bad else "make some: keepstate traces collect"
        raise UserError(f"no readable trace below {named}" + (f": {bad} are broken" if bad else ""), see)
    if as_json:
        keys = ("runtime", "tasks", "model")
        found = [
            dict(zip(keys, names, strict=True)) | row | {"behaviour": asdict(behaves)}
            for (names, row), behaves in zip(rows, used, strict=True)
        ]
        print_json(found)
    else:
        _print_table(rows)
        _print_behaviour([names for names, _ in rows], used)
    if bad:
        click.echo(f"{bad} files are no traces: keepstate traces check names them", err=True)
        raise click.exceptions.Exit(EXIT_PARTIAL)


def _grouped(folders: tuple[Path, ...]) -> tuple[dict[tuple[str, str, str], list[Trace]], int]:
    """Traces by runtime, task set and model, and how many files are none."""
    groups: dict[tuple[str, str, str], list[Trace]] = defaultdict(list)
    bad = 0
    with CountDisplay("reading traces") as shown:
        for trace in (trace for folder in folders for _, trace in iter_traces(folder, on_progress=shown)):
            if isinstance(trace, BadTrace):
                bad += 1
            else:
                tasks = f"{trace.task.family} {trace.task.difficulty}"
                groups[str(trace.runtime), tasks, trace.model].append(trace)
    return groups, bad


def _print_table(rows: list[tuple[tuple[str, str, str], EpisodeFigures]]) -> None:
    table = Table(
        "runtime",
        "tasks",
        "model",
        "solved",
        "graded",
        "not graded",
        "score",
        "steps",
        "tokens",
        "missing variable",
        box=box.SIMPLE,
    )
    for names, row in rows:
        failed = ", ".join(f"{origin} {count}" for origin, count in row["num_not_graded"].items()) or "0"
        table.add_row(
            *map(printable, names),
            str(row["num_tasks_solved"]),
            str(row["num_graded"]),
            failed,
            _figure(row["average_score"], ".3f"),
            _figure(row["average_steps"], ".1f"),
            _figure(row["average_total_tokens"], ",.0f"),
            _figure(row["missing_variable_share"], ".0%"),
        )
    screen().print(table)


def _behaviour(traces: list[Trace]) -> BehaviourFigures:
    """Of all episodes that no failure of ours ended, graded or not."""
    return behaviour_figures([[behaviour(trace)] for trace in traces if trace.failure is None])


def _print_behaviour(groups: list[tuple[str, str, str]], used: list[BehaviourFigures]) -> None:
    table = Table("behaviour", *(printable("\n".join(names)) for names in groups), box=box.SIMPLE)
    for column in BEHAVIOUR_COLUMNS:
        table.add_row(column.title, *(printable(column.text(figures)) for figures in used))
    screen().print(table)


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
