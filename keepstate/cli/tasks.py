"""`keepstate tasks`: sample problems with hidden state, and look at them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

import click
from pydantic import ValidationError

from keepstate.cli import Group
from keepstate.cli._options import PATH, choice
from keepstate.closed import explain
from keepstate.display import CountDisplay
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.files import canonical_json
from keepstate.tasks import environment_for, load_tasks, make_tasks, read_task, read_tasks, write_tasks
from keepstate.tasks.policies import POLICIES, reference_scores
from keepstate.tasks.task_set import TaskSetConfig, read_task_set
from keepstate.vocabulary import Difficulty, RuleSet


@click.group(cls=Group)
def command() -> None:
    """Sample problems with hidden state."""


@command.command()
@click.option("--config", type=PATH, help="Task set as JSON; the options below override it.")
@click.option("--family", help="Task family.  [default: knapsack]")
@click.option("--difficulty", type=choice(Difficulty), help="Parameter set.  [default: mini]")
@click.option(
    "--rules",
    type=choice(RuleSet),
    help="How much the environment tells.  [default: strict]",
)
@click.option("--count", type=click.IntRange(1), help="How many tasks.  [default: 100]")
@click.option("--seed-start", type=int, help="Seed of the set.  [default: 0]")
@click.option("--split", help="Names the folder, <family>-<difficulty>-<split>.  [default: train]")
@click.option("--out", type=PATH, help="Folder.  [default: data/tasks/<...>]")
@click.option("--apart-from", type=PATH, multiple=True, help="Folder whose problems must not recur.")
def generate(config: Path | None, out: Path | None, apart_from: tuple[Path, ...], **options: str | int | None) -> None:
    """Sample tasks into a folder, one JSON file each. The same options give the same bytes everywhere."""
    given = {key: value for key, value in options.items() if value is not None}
    base = read_task_set(config).model_dump() if config else {}
    try:
        wanted = TaskSetConfig.model_validate({**base, **given})
    except ValidationError as error:
        raise UserError(explain(error, TaskSetConfig).message, "see: keepstate tasks generate --help") from error
    folder = out or Path("data/tasks") / wanted.folder_name
    avoid = [task for other in apart_from for task in load_tasks(other)]
    tasks = list(
        make_tasks(
            wanted.family, wanted.difficulty, wanted.count, wanted.seed_start, rules=wanted.rules, apart_from=avoid
        )
    )
    _require_unmixed(folder, {f"{task.name}.json" for task in tasks})
    with CountDisplay(str(folder)) as shown:
        write_tasks(folder, shown.each(tasks))
    click.echo(folder)


def _require_unmixed(folder: Path, names: set[str]) -> None:
    """Refuse to add a set to a folder that holds another: their mixture would be nobody's set."""
    others = sorted(path.name for path in folder.glob("*.json") if path.name not in names) if folder.is_dir() else []
    if others:
        raise UserError(
            f"{folder} holds {len(others)} tasks of another set, e.g. {others[0]}",
            "choose another --out or --split, or remove that folder",
        )


@command.command()
@click.argument("path", type=PATH)
@click.option("--hidden", is_flag=True, help="Also show what the agent must find out, and the reference answer.")
def show(path: Path, hidden: bool) -> None:
    """Show one task, or sum up a folder of them with the scores of the reference policies."""
    if path.is_dir():
        _show_folder(path)
    else:
        _show_task(path, hidden)


def _show_task(path: Path, hidden: bool) -> None:

    task = read_task(path)
    environment = environment_for(task)
    click.echo(f"{task.name}  {task.difficulty}  {task.schema_}  content {task.content_hash[:16]}\n")
    click.echo(environment.goal + "\n")
    for tool in environment.tools:
        click.echo(f"{tool.signature}\n    {tool.description}")
    scores = ", ".join(f"{name} {score:.3f}" for name, score in reference_scores(task).items())
    click.echo(f"\nreference policies: {scores}")
    if hidden:
        for item, properties in task.private.get("items", {}).items():
            mark = "*" if item in task.reference.get("optimal_item_ids", ()) else " "
            click.echo(f"{mark} {item}  {canonical_json(properties)}")
        click.echo(f"reference: {canonical_json(task.reference)}")


def _show_folder(folder: Path) -> None:

    tasks, bad = read_tasks(folder)
    kinds = Counter((task.family, task.difficulty, str(task.public.get("rules", "paper"))) for task in tasks)
    for (family, difficulty, rules), count in sorted(kinds.items()):
        click.echo(f"{count} tasks: {family}, {difficulty}, {rules} rules")
    if tasks:
        scores = [reference_scores(task) for task in tasks]
        for policy, words in POLICIES.items():
            if values := [score[policy] for score in scores if policy in score]:
                solved = sum(value >= 1.0 for value in values)
                click.echo(f"{policy:>8}: mean score {fmean(values):.3f}, solved {solved} of {len(values)} ({words})")
    for file in bad:
        click.echo(f"left out: {file.path}: {file.reason}", err=True)
    if bad:
        click.echo(f"{len(bad)} of {len(tasks) + len(bad)} files are no tasks", err=True)
        sys.exit(EXIT_PARTIAL)
