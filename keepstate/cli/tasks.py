"""`keepstate tasks`: sample problems with hidden state, and look at them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from pydantic import ValidationError

from keepstate import eventloop
from keepstate.cli import Group
from keepstate.cli._options import PATH, family_option, json_option, sandbox_options
from keepstate.cli._output import name_left_out, print_json
from keepstate.closed import explain
from keepstate.display import CountDisplay
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.files import canonical_json, write_atomic
from keepstate.tasks import (
    Task,
    environment_for,
    load_tasks,
    read_task,
    read_tasks,
    reference_scores,
    use_family,
    write_tasks,
)
from keepstate.tasks.families import family_of
from keepstate.tasks.family import CEILING, FLOOR
from keepstate.tasks.task_set import TaskSetConfig, read_task_set
from keepstate.vocabulary import AUTO


@click.group(cls=Group)
def command() -> None:
    """Sample problems with hidden state."""


@command.command()
@click.option("--config", type=PATH, help="Task set as JSON; the options below override it.")
@family_option(exposed=True)
@click.option("--difficulty", help="Parameter set of the family.  [default: its first; mini]")
@click.option("--rules", help="Rule set of the family, if it has any.  [default: its first; strict]")
@click.option("--count", type=click.IntRange(1), help="How many tasks.  [default: 100]")
@click.option("--seed-start", type=int, help="Seed of the set.  [default: 0]")
@click.option("--split", help="Names the folder, <family>-<difficulty>-<split>; of a-z, 0-9, _, -.  [default: train]")
@click.option("--out", type=PATH, help="Folder.  [default: data/tasks/<...>]")
@click.option("--apart-from", type=PATH, multiple=True, help="Folder whose problems must not recur.")
def generate(config: Path | None, out: Path | None, apart_from: tuple[Path, ...], **options: str | int | None) -> None:
    """Sample tasks into a folder, one JSON file each. The same options give the same bytes everywhere.

    Families: knapsack (if none is named), navigation, rule_diagnosis, those of installed packages, or your own.
    """
    given = {key: value for key, value in options.items() if value is not None}
    base = read_task_set(config).model_dump() if config else {}
    try:
        wanted = TaskSetConfig.model_validate({**base, **given}).resolved()
    except ValidationError as error:
        raise UserError(explain(error, TaskSetConfig).message, "see: keepstate tasks generate --help") from error
    folder = out or Path("data/tasks") / wanted.folder_name
    tasks: Iterable[Task] = wanted.sampled(apart_from=[task for other in apart_from for task in load_tasks(other)])
    if apart_from or use_family(wanted.family).source or (folder.is_dir() and any(folder.glob("*.json"))):
        tasks = list(tasks)  # else they cannot run out or be refused, and are written while others are sampled
        _require_unmixed(folder, {f"{task.name}.json" for task in tasks})
    with CountDisplay(str(folder)) as shown:
        write_tasks(folder, shown.each(tasks, wanted.count))
    click.echo(folder)


@command.command()
@click.argument("path", type=PATH, metavar="FILE.py")
def new(path: Path) -> None:
    """Write a small family of your own, which works, to start from."""
    from keepstate.tasks import starter

    if path.suffix != ".py" or path.exists():
        what = "exists already" if path.exists() else "is no name of a Python file"
        raise UserError(f"{path} {what}", "choose another name, e.g. keepstate tasks new my_tasks.py")
    write_atomic(path, Path(starter.__file__).read_text(encoding="utf-8").replace("FILE.py", path.name))
    click.echo(path)
    click.echo(f"prove it: keepstate tasks check {path}", err=True)
    click.echo(f"use it: keepstate tasks generate --family {path}", err=True)


@command.command()
@click.argument("family", metavar="FAMILY")
@click.option("--count", type=click.IntRange(1), default=10, show_default=True, help="Tasks of every difficulty.")
@sandbox_options(AUTO)
def check(family: str, count: int, **sandbox: Any) -> None:
    """Prove FAMILY (a file, module or name): seeds, JSON, tools, its reference answer, its policies and its teacher.

    A teacher with a script of its own is played in the three runtimes; a plan is the same calls in each.
    """
    from keepstate.tasks.checking import check_family, has_script, sampled

    source = use_family(family)
    for line in check_family(source, count):
        click.echo(line)
    if has_script(source):
        from keepstate.play.rehearse import rehearse

        click.echo(eventloop.run(rehearse(source, sampled(source, count), **sandbox)))


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
@family_option()
@click.option("--hidden", is_flag=True, help="Also show what the agent must find out, and the reference answer.")
@json_option
def show(path: Path, hidden: bool, as_json: bool) -> None:
    """Show one task, or sum up a folder of them with the scores of the reference policies."""
    if path.is_dir():
        _show_folder(path, as_json)
    elif as_json:
        print_json(_told(read_task(path), hidden))
    else:
        _show_task(path, hidden)


def _told(task: Task, hidden: bool) -> dict[str, Any]:
    """One task for programs."""
    environment = environment_for(task)
    told: dict[str, Any] = {
        "name": task.name,
        "difficulty": task.difficulty,
        "content_hash": task.content_hash,
        "goal": environment.goal,
        "tools": [{"signature": tool.signature, "description": tool.description} for tool in environment.tools],
        "reference_scores": reference_scores(task),
    }
    return told | ({"private": task.private, "reference": task.reference} if hidden else {})


def _show_task(path: Path, hidden: bool) -> None:
    task = read_task(path)
    environment = environment_for(task)
    click.echo(f"{task.name}  {task.difficulty}  {task.schema_}  content {task.content_hash[:16]}\n")
    click.echo(environment.goal + "\n")
    for tool in environment.tools:
        click.echo(f"{tool.signature}\n    {tool.description}")
    scores = ", ".join(f"{name} {score:.3f}" for name, score in reference_scores(task).items())
    click.echo(f"\nreference policies: {scores or 'none'}")
    if hidden:
        for key, value in task.private.items():
            click.echo(f"{key}:" if isinstance(value, dict) else f"{key}: {canonical_json(value)}")
            for name, inner in value.items() if isinstance(value, dict) else ():
                click.echo(f"  {name}  {canonical_json(inner)}")
        click.echo(f"reference: {canonical_json(task.reference) if task.reference else 'none'}")


def _show_folder(folder: Path, as_json: bool) -> None:
    tasks, bad = read_tasks(folder)
    kinds = Counter((task.family, task.difficulty, _rules(task)) for task in tasks)
    by_family = {
        family: [task for task in tasks if task.family == family] for family in sorted({t.family for t in tasks})
    }
    if as_json:
        counted = [dict(zip(("family", "difficulty", "rules"), kind, strict=True)) for kind in sorted(kinds)]
        print_json(
            {
                "tasks": [each | {"count": kinds[kind]} for each, kind in zip(counted, sorted(kinds), strict=True)],
                "policies": {family: _policies(of) for family, of in by_family.items()},
                "left_out": {str(file.path): file.reason for file in bad},
            }
        )
    else:
        for (family, difficulty, rules), count in sorted(kinds.items()):
            click.echo(f"{count} tasks: {family}, {difficulty}{f', {rules} rules' if rules else ''}")
        for of in by_family.values():
            _show_policies(of)
    name_left_out({str(file.path): file.reason for file in bad})
    if bad:
        click.echo(f"{len(bad)} of {len(tasks) + len(bad)} files are no tasks", err=True)
        sys.exit(EXIT_PARTIAL)


def _rules(task: Task) -> str:
    """The rule set of a task; empty where its family has none. Research files are of the first that there was."""
    return str(task.public.get("rules", "paper" if "paper" in family_of(task).rules else ""))


def _policies(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """What each reference policy scores on the tasks of one family that it is known for."""
    family = family_of(tasks[0])
    scores = [reference_scores(task) for task in tasks]
    found = {}
    for policy in dict.fromkeys([*family.policies, *(name for each in scores for name in each)]):
        if values := [each[policy] for each in scores if policy in each]:
            solved = sum(value >= 1.0 for value in values)
            known = {"mean_score": fmean(values), "solved": solved, "of": len(values)}
            found[policy] = known | {"what": family.policies.get(policy, "no description")}
    return found


def _show_policies(tasks: Sequence[Task]) -> None:
    """What the reference policies score on tasks of one family, and what there is none of."""
    family, found = family_of(tasks[0]), _policies(tasks)
    for policy, of in found.items():
        solved = f"solved {of['solved']} of {of['of']} ({of['what']})"
        click.echo(f"{policy:>8}: mean score {of['mean_score']:.3f}, {solved}")
    if not all(task.reference for task in tasks):
        click.echo(f"{family.name} has no reference answer: a score is no share of an optimum")
    if lacking := [name for name in (FLOOR, CEILING) if found.get(name, {}).get("of") != len(tasks)]:
        click.echo(f"{family.name} has no {' and no '.join(lacking)} policy: scores are not corrected for chance")
