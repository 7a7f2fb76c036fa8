"""Convert `.trace.json` files to ShareGPT JSONL and train Qwen3-8B on them with Axolotl.

    python train/qwen3_8b_axolotl.py --trace-root data/traces/persistent --dry-run
    python train/qwen3_8b_axolotl.py --base-config train/configs/axolotl_qwen3_8b_forget_a100.yaml \
        --trace-root data/traces/forget

Options that are given replace the YAML's values; those that are not never do. Exit 1 if a trace could not be read (the
others are used). A thin front for `keepstate dataset build` and `keepstate train`.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from keepstate.cli.train import progress_display
from keepstate.datasets import BuildOptions, Manifest
from keepstate.datasets.build import build_datasets
from keepstate.datasets.convert import UNREADABLE
from keepstate.datasets.manifest import LEFT_OUT
from keepstate.errors import EXIT_INTERRUPTED, EXIT_PARTIAL, EXIT_USER_ERROR, UserError
from keepstate.traces import BadTrace, Trace, iter_traces
from keepstate.training import plan, train
from keepstate.training.config import ROOT, absolute_model, config_path, read_config
from keepstate.training.preflight import check_machine
from keepstate.vocabulary import RuntimeName

FOLDER = click.Path(path_type=Path)
AUTO = "auto"
NAMED = 20
KEYS = {
    "max_seq_length": "sequence_len",
    "batch_size": "micro_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "lr": "learning_rate",
    "epochs": "num_epochs",
    "seed": "seed",
}
"""Option to key of the YAML."""


@click.command()
@click.option("--trace-root", type=FOLDER, required=True, help="Folder of .trace.json files, searched to any depth.")
@click.option(
    "--trace-format",
    type=click.Choice([AUTO, *map(str, RuntimeName)]),
    default=AUTO,
    show_default=True,
    help="Runtime that the traces were recorded in; auto reads it from them.",
)
@click.option("--output-dir", type=FOLDER, help="Folder of the adapter; else the YAML's.")
@click.option("--model", help="Model folder or hub name; else the YAML's.")
@click.option("--max-seq-length", type=click.IntRange(1), help="Training context in tokens; else the YAML's.")
@click.option("--batch-size", type=click.IntRange(1), help="Rows per GPU and step; else the YAML's.")
@click.option("--grad-accum", type=click.IntRange(1), help="Steps per optimiser step; else the YAML's.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate; else the YAML's.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the data; else the YAML's.")
@click.option("--seed", type=int, help="Of the training, the split and the choice of samples; else the YAML's.")
@click.option("--trace-samples", type=click.IntRange(1), help="Use only this many traces, drawn by the seed.")
@click.option("--base-config", type=FOLDER, help="Axolotl YAML; else train/configs/ for the runtime of the traces.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--dry-run", is_flag=True, help="Convert and check, print what would run, train nothing.")
def command(
    trace_root: Path,
    trace_format: str,
    base_config: Path | None,
    trace_samples: int | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train Qwen3-8B on a folder of traces."""
    runtime = None if trace_format == AUTO else RuntimeName(trace_format)
    path = base_config or config_path(runtime or RuntimeName.PERSISTENT, laptop=False)
    config = read_config(path)
    overrides = {key: options[name] for name, key in KEYS.items() if options[name] is not None}
    if not dry_run:
        check_machine(config | overrides, options["output_dir"] or Path(config["output_dir"]))
    with chosen_traces(trace_root, runtime, trace_samples, overrides.get("seed", config.get("seed", 0))) as found:
        folder, runtime = found
        if base_config is None:
            path = config_path(runtime, laptop=False)
            config = read_config(path)
        with data_folder(runtime, dry_run=dry_run) as dataset:
            bad = convert(folder, runtime, dataset, config | overrides, options["model"], dry_run=dry_run)
            run = {"dataset": dataset, "output": options["output_dir"], "base_model": options["model"]}
            if dry_run:
                show_plan(plan(path, overrides=overrides, machine=False, **run).config)
            else:
                with progress_display(str(runtime)) as show:
                    train(path, overrides=overrides, resume=options["resume"], on_progress=show, **run)
    if bad:
        raise click.exceptions.Exit(EXIT_PARTIAL)


@contextmanager
def chosen_traces(
    root: Path, runtime: RuntimeName | None, samples: int | None, seed: int
) -> Iterator[tuple[Path, RuntimeName]]:
    """The folder to convert and the runtime of its traces; with `samples` a folder of links to the traces drawn.

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
    if samples is None:
        yield root, runtime
        return
    fitting = [path for path, found in good if found is runtime]
    drawn = random.Random(seed).sample(fitting, min(samples, len(fitting)))
    with tempfile.TemporaryDirectory(prefix="keepstate-traces.") as name:
        for number, path in enumerate(sorted(drawn) + bad):
            (Path(name) / f"{number:06}-{path.name}").symlink_to(path.resolve())
        yield Path(name), runtime


@contextmanager
def data_folder(runtime: RuntimeName, *, dry_run: bool) -> Iterator[Path]:
    """Where the JSONL goes: `data/datasets/<runtime>`, or a folder that vanishes after a dry run."""
    if not dry_run:
        yield Path("data/datasets") / runtime
        return
    with tempfile.TemporaryDirectory(prefix="keepstate-data.") as name:
        yield Path(name)


def convert(
    traces: Path, runtime: RuntimeName, dataset: Path, config: dict[str, Any], model: str | None, *, dry_run: bool
) -> int:
    """Write the data set, say what is in it, and return how many files could not be used."""
    options = BuildOptions(max_tokens=int(config["sequence_len"]), seed=int(config.get("seed", 0)))
    template = Path(config["chat_template_jinja"])
    manifest = build_datasets(
        {runtime: traces},
        {runtime: dataset},
        template=template if template.is_file() else ROOT / template,
        tokenizer_path=tokenizer(model, dry_run=dry_run),
        options=options,
    )[runtime]
    describe(runtime, manifest)
    lines = (dataset / LEFT_OUT).read_text(encoding="utf-8").splitlines()
    bad = [item for item in map(json.loads, lines) if item["reason"] in UNREADABLE]
    for item in bad[:NAMED]:
        click.echo(f"skipped {Path(item['path']).resolve()}: {item['detail']}", err=True)
    if bad:
        click.echo(f"{len(bad)} of {manifest.read} files skipped", err=True)
    return len(bad)


def tokenizer(model: str | None, *, dry_run: bool) -> Path:
    """The tokenizer to count and prove with: the model's, else Qwen3's, else (dry run) the laptop's, and says so.

    Raises:
        UserError: None can be had.
    """
    if model is not None and isinstance(found := absolute_model(model), Path):
        return found
    from keepstate.datasets.qwen3 import ensure_qwen3_tokenizer  # noqa: PLC0415

    try:
        return ensure_qwen3_tokenizer()
    except UserError as error:
        from keepstate import basemodel  # noqa: PLC0415

        if not dry_run or not basemodel.is_ready():
            raise UserError(error.message, "name a model folder with its tokenizer.json: --model FOLDER") from error
        click.echo(f"Qwen3's tokenizer is missing ({error.message}): tokens are counted by {basemodel.NAME}", err=True)
        return basemodel.folder()


def describe(runtime: RuntimeName, manifest: Manifest) -> None:
    """Say what was converted."""
    click.echo(f"{runtime}: {manifest.rows} rows of {manifest.read} traces", err=True)
    for name, split in manifest.splits.items():
        click.echo(
            f"  {name}: {split.rows} rows, {split.tokens:,} tokens ({split.trained_tokens:,} trained), "
            f"longest {split.longest:,}",
            err=True,
        )
    for reason, count in manifest.left_out.items():
        click.echo(f"  left out: {reason}: {count}", err=True)


def show_plan(config: dict[str, Any]) -> None:
    """Print the configuration that would run."""
    import yaml  # noqa: PLC0415

    click.echo(yaml.safe_dump(config, sort_keys=False), nl=False)


def main() -> int:
    """Run, and return the exit code."""
    try:
        code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except UserError as error:
        click.echo(f"error: {error.message}\nhint:  {error.hint}", err=True)
        return EXIT_USER_ERROR
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
