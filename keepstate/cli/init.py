"""`keepstate init`: a folder to work in, with a family of tasks, task sets, configs, and the commands in order."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

import click

from keepstate.cli._options import PATH, laptop_option
from keepstate.errors import UserError
from keepstate.many_files import write_many
from keepstate.places import PACKAGE

PROJECT = PACKAGE / "setup" / "project"
"""What is written as it is, but for the names of adapters."""
ADAPTER = "LORA"
"""Stands there for the beginning of an adapter's folder."""
FAMILY = "my_tasks.py"


@click.command()
@click.argument("folder", type=PATH)
@click.option("--makefile", is_flag=True, help="Also a Makefile with a target a stage.")
@laptop_option
def command(folder: Path, *, makefile: bool, laptop: bool) -> None:
    """Write a project to start from into FOLDER: keepstate init my-agent --laptop

    A family of tasks that works, sets of tasks for training and measuring, a training config a runtime, a benchmark
    config, and a README with the commands in their order. Files that are there are never replaced.
    """
    files = project_files(laptop=laptop, makefile=makefile)
    if there := [name for name in files if os.path.lexists(folder / name)]:
        raise UserError(f"{folder} holds {', '.join(there)} already", "name another folder, or move these away")
    write_many((folder / name, text) for name, text in files.items())
    for name in files:
        click.echo(folder / name)
    go_on = f"cd {quote(str(folder))} && keepstate tasks check {FAMILY}"
    click.echo(f"go on: {go_on}; then as README.md there says", err=True)


def project_files(*, laptop: bool, makefile: bool) -> dict[str, str]:
    """What a project begins with: text by path."""
    from keepstate.tasks import starter
    from keepstate.train.axolotl_config import config_path
    from keepstate.vocabulary import RuntimeName

    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(PROJECT.iterdir())}
    texts[".gitignore"] = texts.pop("gitignore")  # in a repository of its own it would hide files of that
    if not makefile:
        del texts["Makefile"]
    configs = {name: config_path(name, laptop=laptop) for name in RuntimeName}
    adapters = "smollm2-135m-{}-laptop" if laptop else "qwen3-8b-{}-a100"
    for name in RuntimeName:
        texts["README.md"] = texts["README.md"].replace(f"{ADAPTER}-{name}", adapters.format(name))
    if makefile:
        texts["Makefile"] = texts["Makefile"].replace(f"{ADAPTER}-%", adapters.format("%"))
    if laptop:  # whose tokenizer is the one that is taken unasked
        texts = {name: text.replace(" --tokenizer qwen3", "") for name, text in texts.items()}
    family = Path(starter.__file__).read_text(encoding="utf-8").replace("FILE.py", FAMILY)
    written = {f"configs/{name}.yaml": path.read_text(encoding="utf-8") for name, path in configs.items()}
    return {FAMILY: family} | texts | written
