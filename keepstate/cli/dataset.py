"""`keepstate dataset`: turn traces into training conversations, prove them, look at them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keepstate.cli import Group
from keepstate.cli._engine import engine_of, engine_options
from keepstate.cli._options import (
    PATH,
    RUNTIME,
    FiniteRange,
    choice,
    json_option,
    key_file_option,
    tokenizer_option,
)
from keepstate.cli._output import print_json
from keepstate.dataset.convert import UNREADABLE
from keepstate.dataset.manifest import LEFT_OUT, Balance, BuildOptions, Length, TrainTurns, read_manifest
from keepstate.dataset.sample import REMEDIES
from keepstate.dataset.templates import BUILT_IN, OWN
from keepstate.display import CountDisplay
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.vocabulary import BETWEEN_RUNTIMES, MIXED, RUNTIME_WORDS, RuntimeName

if TYPE_CHECKING:
    from keepstate.dataset.parity import RowReport

DEFAULTS = BuildOptions()
NAMED = 5
"""Bad files of one reason named on the screen; `left_out.jsonl` names all."""

NAMED_ROWS = 5
"""Rows named on the screen that a check found wrong."""


@click.group(cls=Group)
def command() -> None:
    """Turn traces into training conversations."""


@command.command(context_settings={"show_default": True})
@click.option("--traces", type=PATH, default="data/traces", help="Folder with a subfolder for each runtime.")
@click.option("--runtime", "runtimes", type=RUNTIME, multiple=True, help="Arm to build, repeatable; else all there.")
@click.option("--mix", help="One data set of several runtimes instead, as persistent,forget; its subfolder: mixed.")
@click.option(
    "--training-tasks",
    type=PATH,
    help="Folder of training tasks: a benchmark (--traces runs/NAME/CELL) is read only if all of its are among them.",
)
@click.option("--out", type=PATH, default="data/datasets", help="Folder; each arm gets a subfolder.")
@click.option(
    "--template",
    "--chat-template",
    "template",
    help=f"{', '.join(BUILT_IN)}, a Jinja file, or {OWN}: the model's; else what fits the tokenizer.",
)
@tokenizer_option("the laptop's base model")
@click.option("--max-tokens", type=click.IntRange(1), default=DEFAULTS.max_tokens, help="The training context.")
@click.option("--length", type=choice(Length), default="drop", help="For what is longer.")
@click.option("--solved", is_flag=True, help="Only solved tasks.")
@click.option("--min-score", type=FiniteRange(0, 1), default=0.0, help="Only scores of at least this.")
@click.option("--unfinished", is_flag=True, help="Also episodes that a limit ended.")
@click.option("--failed", is_flag=True, help="Also episodes that a failure of ours ended.")
@click.option("--strip-empty-think", is_flag=True, help="Take empty think blocks off: the template writes them again.")
@click.option(
    "--train-turns",
    type=choice(TrainTurns),
    default="all",
    help="Answers that are trained; clean: not those whose action ended in an error or a cap.",
)
@click.option("--paired", is_flag=True, help="Only tasks that every arm has.")
@click.option("--balance", type=choice(Balance), default="none", help="Equal tokens per arm.")
@click.option(
    "--val-fraction",
    type=FiniteRange(0, 1, max_open=True),
    default=DEFAULTS.val_fraction,
    help="Share of the tasks held out.",
)
@click.option("--seed", type=int, default=0, help="Of the split and the order of rows.")
@click.option("--jobs", type=click.IntRange(1), help="Processes; else one a core.")
@engine_options()
@json_option
def build(  # noqa: PLR0913 - one parameter an option
    *,
    traces: Path,
    runtimes: tuple[str, ...],
    mix: str | None,
    training_tasks: Path | None,
    out: Path,
    template: str | None,
    tokenizer: str | None,
    jobs: int | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Build ShareGPT JSONL, split by task, with a manifest that counts every trace.

    Exit 1 if a file could not be read as a trace or its conversation could not be proven.
    """
    from keepstate.dataset.build import build_datasets, build_mixed
    from keepstate.processes import sigterm_interrupts

    if jobs and chosen["engine"] != "local":
        raise click.UsageError("--jobs belongs to --engine local: Ray takes all processors of its nodes")
    engine = engine_of(chosen)
    options = _options(chosen)
    arms = _arms(traces, _mixed(mix, runtimes) if mix else runtimes)
    _refuse_held_out(arms.values(), training_tasks)
    with sigterm_interrupts(), engine as cluster, CountDisplay("reading traces") as shown:
        rest: dict[str, Any] = {"template": template, "tokenizer_path": tokenizer_folder(tokenizer)}
        rest |= {"options": options, "jobs": jobs, "cluster": cluster, "on_progress": shown}
        if mix:
            manifests = [build_mixed(arms, out / MIXED, **rest)]
        else:
            manifests = [*build_datasets(arms, {runtime: out / runtime for runtime in arms}, **rest).values()]
    if as_json:
        told = [manifest.model_dump(mode="json", by_alias=True) for manifest in manifests]
        print_json([{"folder": str(out / m.arm)} | each for m, each in zip(manifests, told, strict=True)])
    for manifest in () if as_json else manifests:
        for line in manifest.words(out / manifest.arm):
            click.echo(line)
    bad = [item for manifest in manifests for item in _unreadable(out / manifest.arm)]
    _name(bad)
    for root in arms.values():
        if rows := sum(1 for path in root.rglob("*") if path.name.lower().endswith((".jsonl", ".jsonl.gz"))):
            click.echo(
                f"{rows} *.jsonl below {root} were not read: keepstate traces import makes traces of them", err=True
            )
    if bad:
        raise click.exceptions.Exit(EXIT_PARTIAL)


@command.command()
@click.argument("folders", type=PATH, nargs=-1, required=True)
@click.option("--server", help="URL of a running vLLM: its own prompt tokens are compared.")
@click.option("--model", help="Model or adapter on that server; else its first.")
@key_file_option()
@tokenizer_option("the data set's")
@click.option("--training-template", help="Another to train with: a Jinja file, qwen3-stock, or axolotl:NAME.")
@click.option("--serving-template", help="Another to serve with: a Jinja file, or qwen3-stock.")
@json_option
def check(folders: tuple[Path, ...], tokenizer: str | None, as_json: bool, **chosen: str | None) -> None:
    """Prove the data sets in FOLDERS: every turn's prompt and answer, as served, against Axolotl's own tokens.

    Exit 1 if a turn differs; the first difference is shown decoded. If none does, the manifest gets a certificate.
    """
    from keepstate.dataset.check import CheckOptions, check_datasets

    path = tokenizer_folder(tokenizer) if tokenizer else None
    reports = [*check_datasets([CheckOptions(folder, tokenizer_path=path, **chosen) for folder in folders])]
    if as_json:
        print_json([{"folder": str(each)} | of.figures() for each, of in zip(folders, reports, strict=True)])
    for folder, report in zip(() if as_json else folders, () if as_json else reports, strict=True):
        found = f"{report.rows} rows, {report.turns:,} turns, {report.tokens:,} tokens, {report.trained:,} trained"
        server = chosen["server"]
        against = f"; prompts as {server} makes them" if server else ""
        click.echo(f"{folder}: {'NOT proven' if report.bad else 'proven'}: {found}{against}")
        for runtime, of in report.by_runtime.items():
            click.echo(f"  of {runtime}: {of.rows} rows, {of.turns:,} turns, {len(of.bad)} rows differ")
        if report.unrecorded:
            click.echo(f"  {report.unrecorded} rows are of imported traces, which hold no record of what was sent")
        if report.bad:
            _show_wrong(report.bad, path or Path(read_manifest(folder).tokenizer.name))
    if any(report.bad for report in reports):
        raise click.exceptions.Exit(EXIT_PARTIAL)


def _show_wrong(bad: Sequence[tuple[str, RowReport]], tokenizer_path: Path) -> None:
    """What a check found wrong, and its first difference."""
    from keepstate.dataset.parity import show, total
    from keepstate.dataset.tokenizer import TextTokenizer
    from keepstate.traces.view import printable

    wrong = total(report for _, report in bad)
    click.echo(
        f"  {len(bad)} rows differ: {wrong.context_wrong:,} turns are trained out of context, "
        f"{wrong.mask_wrong:,} have wrong labels; {wrong.trained_wrong:,} trained tokens are in such turns"
    )
    for name, report in bad[:NAMED_ROWS]:
        click.echo(printable(f"  {name}{': ' + report.problem if report.problem else ''}"))
    if len(bad) > NAMED_ROWS:
        click.echo(f"  and {len(bad) - NAMED_ROWS} more")
    if wrong.first:
        click.echo("\n".join(show(wrong.first, TextTokenizer(tokenizer_path))))


@command.command(context_settings={"show_default": True})
@click.argument("folder", type=PATH)
@click.option("--split", default="train", help="train or val.")
@click.option("--row", type=int, default=0, help="Counted from 0.")
@tokenizer_option("the data set's")
@click.option("--html", "page", type=PATH, help="Write a page to this file instead.")
def preview(folder: Path, split: str, row: int, tokenizer: str | None, page: Path | None) -> None:
    """Show a row of the data set in FOLDER: trained text coloured, masked text grey, tokens per turn."""
    from rich.console import Console

    from keepstate.dataset import preview as looking
    from keepstate.files import write_atomic

    shown = looking.preview(folder, split, row, tokenizer_folder(tokenizer) if tokenizer else None)
    if page:
        write_atomic(page, looking.as_html(shown))
        click.echo(page)
    else:
        Console(highlight=False).print(looking.as_text(shown), soft_wrap=True)


def tokenizer_folder(name: str | None) -> Path:
    """The folder of the tokenizer the user named: a path, `qwen3`, or by default the laptop's base model.

    Raises:
        UserError: It could not be made.
    """
    if name == "qwen3":
        from keepstate.setup.qwen3 import ensure_qwen3_tokenizer

        return ensure_qwen3_tokenizer()
    if name is not None:
        return Path(name)
    from keepstate.setup.basemodel import ensure_base_model

    return ensure_base_model()


def _options(chosen: dict[str, Any]) -> BuildOptions:
    chosen["finished"] = not chosen.pop("unfinished")
    return BuildOptions.model_validate(chosen)


def _refuse_held_out(roots: Iterable[Path], training_tasks: Path | None) -> None:
    """Refuse episodes of a benchmark on tasks that are no training tasks: what is measured must not be trained on.

    Raises:
        UserError: Names them, and how episodes of an adapter are collected on training tasks.
    """
    cells = sorted(path for root in roots for path in root.rglob("cell.json"))
    if not cells and training_tasks is None:
        return
    from keepstate.bench.cells import read_cell_file
    from keepstate.tasks import load_tasks

    known = {task.content_hash for task in load_tasks(training_tasks)} if training_tasks else set()
    for cell in cells:
        foreign = [name for name, task in read_cell_file(cell).tasks.items() if task.hash not in known]
        if foreign:
            more = f" and {len(foreign) - NAMED} more" if len(foreign) > NAMED else ""
            raise UserError(
                f"{cell.parent} is a benchmark, and its tasks are not known as training tasks:"
                f" {', '.join(foreign[:NAMED])}{more}",
                "name the folder of the training tasks where it played on these: --training-tasks FOLDER; else let the"
                " adapter play those: keepstate traces collect --tasks FOLDER --teacher llm --base-url URL"
                " --model ADAPTER",
            )


def _mixed(mix: str, runtimes: tuple[str, ...]) -> tuple[str, ...]:
    """The runtimes that `--mix` names.

    Raises:
        UsageError: One is none or named twice, or others are named beside them.
    """
    names = tuple(mix.split(","))
    if runtimes:
        raise click.UsageError("--mix names the runtimes of its data set: give either --mix or --runtime")
    try:
        named = {RuntimeName(name) for name in names}
    except ValueError:
        named = set()
    if len(named) < max(2, len(names)):
        raise click.BadParameter(f"{mix!r}: two or more of {RUNTIME_WORDS}", param_hint="--mix")
    return names


def _arms(traces: Path, runtimes: tuple[str, ...]) -> dict[RuntimeName, Path]:
    """The trace folder of each arm."""
    if runtimes:
        names = [RuntimeName(name) for name in runtimes]
        alone = len(names) == 1 and not (traces / names[0]).is_dir()
        return {name: traces if alone else traces / name for name in names}
    between = sorted(path.name for path in traces.glob("*") if BETWEEN_RUNTIMES.fullmatch(path.name))
    arms = {RuntimeName(name): traces / name for name in (*RuntimeName, *between) if (traces / name).is_dir()}
    if not arms:
        raise UserError(
            f"{traces} has no subfolder {', '.join(RuntimeName)}",
            "record traces: keepstate traces collect, or name --runtime",
        )
    return arms


def _unreadable(folder: Path) -> list[dict[str, str]]:
    """Traces that are broken or refused, not merely unwanted."""
    items = map(json.loads, (folder / LEFT_OUT).read_text().splitlines())
    return [item for item in items if item["reason"] in UNREADABLE]


def _name(bad: Sequence[dict[str, str]]) -> None:
    """Name bad files, a few of each reason."""
    from keepstate.traces.view import printable

    by_reason: dict[str, list[dict[str, str]]] = {}
    for item in bad:
        by_reason.setdefault(item["reason"], []).append(item)
    for reason, items in by_reason.items():
        for item in items[:NAMED]:
            source = f" (from {item['source']})" if item["source"] else ""
            click.echo(printable(f"{item['path']}{source}: {reason}: {item['detail']}"), err=True)
        if len(items) > NAMED:
            click.echo(f"and {len(items) - NAMED} more: {reason}; {LEFT_OUT} in each folder names all", err=True)
        if reason in REMEDIES:
            click.echo(f"hint:  {reason}: {REMEDIES[reason]}", err=True)
