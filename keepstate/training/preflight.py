"""What is checked before a training starts, in milliseconds: GPU, memory, disk, data, template, base model.

Each refusal is a `UserError` with the next command. Starts nothing and imports no torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstate import basemodel, machine
from keepstate.datasets.manifest import TEMPLATE, Manifest, read_manifest
from keepstate.errors import UserError
from keepstate.files import file_hash
from keepstate.places import find, home
from keepstate.training.config import absolute_model, needs_gpu
from keepstate.training.estimate import CPU_SPEED, cpu_memory_gib, memory_gib

DISK_GIB = {True: 12, False: 1}
"""Three checkpoints of 2 GiB, data and log; or the laptop's."""
HUB_GIB = 16
"""Qwen3-8B in bf16, fetched once."""
NO_GPU_HINT = "look further: keepstate doctor; without a GPU, train the small model: keepstate train RUNTIME --laptop"


SHORT_ROW = 650
"""Tokens of a persistent trace of `mini` tasks, the shortest rows there are."""


@dataclass(frozen=True, slots=True)
class ChosenGpu:
    """The GPU that will train."""

    name: str
    number: int | None
    """As nvidia-smi counts; None where CUDA_VISIBLE_DEVICES has chosen already."""


def check_machine(config: Mapping[str, Any], output: Path) -> ChosenGpu | None:
    """Refuse what cannot run here; choose the GPU with most free memory.

    Raises:
        UserError: No GPU for a config that needs one, too little memory in all or free, or no disk space.
    """
    gpu = check_gpu(config) if needs_gpu(config) else None
    least = cpu_memory_gib(SHORT_ROW)
    if gpu is None and machine.memory_gib() < least:
        raise UserError(
            f"this machine has {machine.memory_gib():.1f} GiB of memory, the training takes {least:.1f} GiB and more",
            smaller(config),
        )
    folder = next(parent for parent in (output, *output.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free / machine.GIB
    needed = DISK_GIB[gpu is not None]
    if free < needed:
        raise UserError(
            f"{free:.1f} GiB of disk are free for {output}, {needed} GiB are needed",
            "free some space, or name another folder: --out",
        )
    return gpu


def check_gpu(config: Mapping[str, Any]) -> ChosenGpu:
    """The GPU to train on.

    Raises:
        UserError: There is none, all are too small, or other programs hold too much of it.
    """
    found = machine.gpus()
    if not found:
        raise UserError("this config needs a CUDA GPU, and this machine has none", NO_GPU_HINT)
    free = machine.gpu_free_gib()
    if len(free) != len(found):
        free = tuple(gpu.memory_gib for gpu in found)
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        number = max(range(len(found)), key=lambda index: free[index])
    else:
        first = named.split(",")[0]
        number = int(first) if first.isdecimal() and int(first) < len(found) else 0
    needed, gpu = memory_gib(config), found[number]
    if gpu.memory_gib < needed:
        raise UserError(
            f"{gpu.name} has {gpu.memory_gib:.0f} GiB, this config needs about {needed:.0f} GiB", smaller(config)
        )
    if free[number] < needed:
        raise UserError(
            f"{free[number]:.0f} of the {gpu.memory_gib:.0f} GiB of {gpu.name} are free, this config needs about "
            f"{needed:.0f} GiB",
            f"end the programs that hold the rest (nvidia-smi names them), or {smaller(config)}",
        )
    return ChosenGpu(gpu.name, number if named is None else None)


def lacks_bf16() -> bool:
    """Whether the processor is known to have no bf16 instructions.

    SmolLM2-135M, 650 tokens a step, AVX2 alone, one busy machine: 11 s in float32, over 40 s in bf16 (then given up).
    """
    flags = machine.cpu_flags()
    return bool(flags) and flags.isdisjoint(CPU_SPEED)


def about_cpu_memory(config: Mapping[str, Any], longest: int) -> list[str]:
    """A remark where a row of `longest` tokens may not fit into main memory."""
    needed, there = cpu_memory_gib(min(longest, int(config["sequence_len"]))), machine.memory_gib()
    if needed <= there:
        return []
    return [f"its longest row takes about {needed:.0f} GiB of memory, this machine has {there:.0f}: {smaller(config)}"]


def smaller(config: Mapping[str, Any], *, ran: bool = False) -> str:
    """The flag that fits into less memory, the one that changes least first.

    Args:
        config: Axolotl's.
        ran: Whether memory ran out in a training, in which profile `speed` had spent what was free.
    """
    if ran and config.get("keepstate_profile") == "speed":
        return "recompute every layer: --profile memory"
    rows = int(config.get("micro_batch_size", 1))
    if rows > 1:
        steps = rows * int(config.get("gradient_accumulation_steps", 1))
        return f"one row at once, the same rows a step: --batch-size 1 --grad-accum {steps}"
    return f"a shorter context: --max-seq-length {int(config['sequence_len']) // 2}"


def check_data(dataset: Path, config: Mapping[str, Any]) -> tuple[Manifest, list[str]]:
    """The data set's manifest, and remarks.

    Raises:
        UserError: No data set, files changed since it was built or proven, or another chat template than the config's.
    """
    manifest = read_manifest(dataset)
    again = f"build it again: keepstate dataset build --runtime {manifest.runtime}"
    if changed := manifest.changed_files(dataset):
        raise UserError(f"{changed[0]} is not the file that the manifest names", again)
    from keepstate.datasets.templates import FOLDER, load_template  # noqa: PLC0415

    wanted = load_template(find(str(config["chat_template_jinja"])))
    held = load_template(dataset / TEMPLATE)
    if wanted.text != held.text:
        name = Path(wanted.name).stem if Path(wanted.name).parent == FOLDER else wanted.name
        raise UserError(
            f"{dataset} was built with the chat template {manifest.template.name}, the config names {name}",
            f"{again} --template {name}",
        )
    if manifest.certificate is None:
        return manifest, [f"the data is not certified; prove it: keepstate dataset check {dataset}"]
    if any(manifest.certificate.data_sha256.get(name) != split.sha256 for name, split in manifest.splits.items()):
        raise UserError(
            f"{dataset}: the certificate is for other data", f"prove it again: keepstate dataset check {dataset}"
        )
    return manifest, []


def find_model(name: str) -> Path | None:
    """The base model's folder; None where the name is a hub's.

    Raises:
        UserError: It is written as a folder that is not there, is no model's, or is the laptop's and half made.
    """
    found = absolute_model(name)
    if isinstance(found, Path):
        if not (found / "config.json").is_file():
            raise UserError(f"{found} is no model folder: config.json is missing", "name another: --base-model")
        if found == basemodel.folder() and not basemodel.is_ready():
            raise UserError(f"{found} is incomplete", f"make it again: {basemodel.COMMAND}")
        return found
    if name.startswith(("models/", ".", "/")):
        laptops = (home() / name).resolve() == basemodel.folder()
        hint = f"make it: {basemodel.COMMAND}" if laptops else "name another folder, or a hub name: --base-model"
        raise UserError(f"no such model folder: {name}", hint)
    return None


def about_model(name: str, manifest: Manifest, dataset: Path) -> list[str]:
    """Remarks on the base model that `find_model` found, and the data that is to train it."""
    folder = find_model(name)
    if folder is None:
        return [] if is_cached(name) else [f"{name} is fetched from the model hub first (Qwen3-8B: {HUB_GIB} GiB)"]
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file() or file_hash(tokenizer) == manifest.tokenizer.sha256:
        return []
    return [
        f"the data was counted and proven with {manifest.tokenizer.name}, which is not the base model's "
        f"tokenizer.json; to be sure: keepstate dataset check {dataset} --tokenizer {folder}"
    ]


def is_cached(name: str) -> bool:
    """Whether a hub model was fetched before."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any((hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json"))
