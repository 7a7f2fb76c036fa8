"""Convert `.trace.json` files to ShareGPT JSONL and train Qwen3-8B on them with Axolotl.

    python train/qwen3_8b_axolotl.py --trace-root data/traces/persistent --dry-run
    python train/qwen3_8b_axolotl.py --base-config train/configs/axolotl_qwen3_8b_forget_a100.yaml \
        --trace-root data/traces/forget

Options that are given replace the YAML's values; those that are not never do. `--seed` is also that of the split and of
`--trace-samples`. A training that was stopped goes on, a finished one is not repeated. Exit 1 if a trace could not be
read (the others are used). Builds and trains by the functions that `keepstate dataset build` and `keepstate train`
call; what is its own is the choice of tokenizer, template and sample.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from keepstate.cli import run
from keepstate.cli._options import PATH, choice
from keepstate.cli.train import config_keys, evaluation_of, training_options
from keepstate.dataset import BuildOptions
from keepstate.dataset.build import build_datasets
from keepstate.dataset.convert import UNREADABLE
from keepstate.dataset.manifest import LEFT_OUT, read_manifest
from keepstate.dataset.templates import FOLDER as TEMPLATES
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.model_files import model_folder
from keepstate.places import find
from keepstate.traces import BadTrace, Trace, iter_traces
from keepstate.train import TrainingDisplay, TrainingRequest, plan_training, read_done, train
from keepstate.train.axolotl_config import config_path, read_axolotl_config
from keepstate.train.base_model import is_other, output_folder
from keepstate.train.preflight import ON_THE_HUB, check_machine, find_model
from keepstate.vocabulary import RuntimeName, Tracker

AUTO = "auto"
NAMED = 20


@click.command()
@click.option("--trace-root", type=PATH, required=True, help="Folder of .trace.json files, searched to any depth.")
@click.option(
    "--trace-format",
    type=choice(RuntimeName, AUTO),
    default=AUTO,
    show_default=True,
    help="Runtime that the traces were recorded in; auto reads it from them.",
)
@click.option("--trace-samples", type=click.IntRange(1), help="Use only this many traces, drawn by the seed.")
@click.option("--base-config", type=PATH, help="Axolotl YAML; else train/configs/ for the runtime of the traces.")
@training_options
@click.option("--dry-run", is_flag=True, help="Convert and check, print what would run, train nothing.")
def command(
    trace_root: Path,
    trace_format: str,
    base_config: Path | None,
    trace_samples: int | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train Qwen3-8B, or the model that --base-model names, on a folder of traces."""
    runtime = None if trace_format == AUTO else RuntimeName(trace_format)
    path = base_config or config_path(runtime or RuntimeName.PERSISTENT, laptop=False)
    config = read_axolotl_config(path)
    overrides, evaluate = config_keys(options), evaluation_of(options)
    base_model = options["base_model"] or str(config["base_model"])
    place = output_folder(config, options["output"], options["base_model"], runtime)
    if not dry_run and read_done(place) is None:  # before data is made for nothing
        check_machine(config | overrides | {"base_model": base_model}, place, options["gpus"])
    found = find_traces(trace_root, runtime)
    if base_config is None:
        path = config_path(found.runtime, laptop=False)
        config = read_axolotl_config(path)
    dataset = Path("data/datasets") / (f"{found.runtime}.dry-run" if dry_run else found.runtime)
    if trace_samples is not None:
        seed = int((config | overrides).get("seed", 0))
        trace_root = link_samples(found, trace_samples, seed, dataset / "sampled-traces")
    counted_by, stands_in = tokenizer(base_model, dry_run=dry_run)
    if stands_in:
        overrides["chat_template_jinja"] = str(TEMPLATES / "chatml.jinja")
    template = None if is_other(config, options["base_model"]) else str((config | overrides)["chat_template_jinja"])
    bad = convert(trace_root, found.runtime, dataset, config | overrides, (template, counted_by))
    request = TrainingRequest(
        path,
        dataset=dataset,
        output=options["output"],
        base_model=options["base_model"],
        runtime=found.runtime,
        overrides=overrides,
        gpus=options["gpus"],
    )
    if dry_run:
        planned = plan_training(request, machine=False)
        about = evaluate(planned).remarks if evaluate else ()
        say(*planned.remarks, *about, f"look at a row: keepstate dataset preview {dataset}")
        click.echo(yaml.safe_dump(planned.config, sort_keys=False), nl=False)
    else:
        prove(dataset)
        tracker = Tracker(options["tracker"])
        with TrainingDisplay(str(found.runtime)) as show:
            train(request, fresh=options["fresh"], tracker=tracker, evaluate=evaluate, on_progress=show)
    if bad:
        raise click.exceptions.Exit(EXIT_PARTIAL)


@dataclass(frozen=True, slots=True)
class Found:
    """Trace files below a folder."""

    runtime: RuntimeName
    fitting: list[Path]
    """Of that runtime."""
    bad: list[Path]
    """Unreadable."""


def find_traces(root: Path, runtime: RuntimeName | None) -> Found:
    """The traces below `root`, and the runtime they are of if none was named.

    Raises:
        UserError: No traces, or traces of several runtimes where none was named.
    """
    good: list[tuple[Path, RuntimeName]] = []
    bad: list[Path] = []
    for path, trace in iter_traces(root):
        match trace:
            case Trace():
                good.append((path, trace.runtime))
            case BadTrace():
                bad.append(path)
    if not good:
        what = f"none of {len(bad)} files is readable" if bad else "no *.trace.json"
        raise UserError(f"nothing to train on below {root}: {what}", "make traces: keepstate traces collect")
    runtimes = sorted({found for _, found in good})
    if runtime is None and len(runtimes) > 1:
        raise UserError(
            f"{root} holds traces of several runtimes: {', '.join(runtimes)}", "name one: --trace-format RUNTIME"
        )
    runtime = runtime or runtimes[0]
    fitting = [path for path, found in good if found is runtime]
    if not fitting:
        raise UserError(
            f"{root} holds no traces of the runtime {runtime}, but of {', '.join(runtimes)}",
            f"name that one: --trace-format {runtimes[0]}",
        )
    return Found(runtime, fitting, bad)


def link_samples(found: Found, count: int, seed: int, folder: Path) -> Path:
    """Draw `count` traces, and return `folder` with a link to each (and to the unreadable, which are to be named)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drawn = random.Random(seed).sample(found.fitting, min(count, len(found.fitting)))
    for number, path in enumerate(sorted(drawn) + found.bad):
        (folder / f"{number:06}-{path.name}").symlink_to(path.resolve())
    return folder


def convert(
    traces: Path,
    runtime: RuntimeName,
    dataset: Path,
    config: dict[str, Any],
    rendered_by: tuple[str | None, Path],
) -> int:
    """Write the data set, say what is in it, and return how many files could not be used.

    `rendered_by` are chat template (None: what fits) and tokenizer.
    """
    template, tokenizer_path = rendered_by
    options = BuildOptions(max_tokens=int(config["sequence_len"]), seed=int(config.get("seed", 0)))
    manifest = build_datasets(
        {runtime: traces},
        {runtime: dataset},
        template=find(template) if template else None,
        tokenizer_path=tokenizer_path,
        options=options,
    )[runtime]
    say(*manifest.words(dataset))
    lines = (dataset / LEFT_OUT).read_text(encoding="utf-8").splitlines()
    bad = [item for item in map(json.loads, lines) if item["reason"] in UNREADABLE]
    say(*(f"skipped {Path(item['path']).resolve()}: {item['detail']}" for item in bad[:NAMED]))
    if bad:
        say(f"{len(bad)} of {manifest.read} files skipped")
    return len(bad)


def prove(dataset: Path) -> None:
    """Certify the data with Axolotl's own tokens, unless these very files are certified.

    Raises:
        UserError: A turn would be trained in another context than it is served in.
    """
    manifest = read_manifest(dataset)
    if manifest.certificate is not None:
        return
    from keepstate.dataset.check import CheckOptions, check_dataset

    report = check_dataset(CheckOptions(dataset))
    if report.bad:
        raise UserError(
            f"{len(report.bad)} of {report.rows} rows are not proven: they would train other tokens than are served",
            f"see the first difference: keepstate dataset check {dataset}",
        )
    say(f"  proven: {report.turns:,} turns as Axolotl tokenises them")


def tokenizer(model: str, *, dry_run: bool) -> tuple[Path, bool]:
    """The tokenizer to count and prove with, and whether it stands in for the model's.

    The model's own, else Qwen3's; for a dry run where that cannot be had, the laptop's, whose counts are not Qwen3's.

    Raises:
        UserError: The model is a folder that is not there, or no tokenizer can be had.
    """
    if (found := find_model(model) or model_folder(model)) is not None:
        return found, False
    if not ON_THE_HUB.match(model):
        raise UserError(f"the tokenizer of {model} is not here", "fetch the model, and name its folder: --model FOLDER")
    from keepstate.setup.qwen3 import ensure_qwen3_tokenizer

    try:
        return ensure_qwen3_tokenizer(), False
    except UserError as error:
        from keepstate.setup import basemodel

        if not dry_run or not basemodel.is_ready():
            raise UserError(error.message, "name a model folder with its tokenizer.json: --model FOLDER") from error
        say(
            f"Qwen3's tokenizer is missing ({error.message}): tokens are counted by {basemodel.NAME} with the chat "
            "template chatml, and are not those of a training"
        )
        return basemodel.folder(), True


def say(*lines: str) -> None:
    """Words for people, apart from what a program may read."""
    for line in lines:
        click.echo(line, err=True)


if __name__ == "__main__":
    sys.exit(run(command))
