"""What is checked before a training starts, in milliseconds: GPU, memory, disk, data, template, base model.

Each refusal is a `UserError` with the next command. Starts nothing and imports no torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepstate import machine
from keepstate.datasets.manifest import TEMPLATE, Manifest, read_manifest
from keepstate.errors import UserError
from keepstate.files import file_hash
from keepstate.training.config import absolute_model, needs_gpu

FIXED_GIB = 9.2
PER_1K_TOKENS_GIB = 0.43
"""Qwen3-8B, r=64, every layer recomputed: NF4 weights, LoRA with its optimiser, activations. The two lines give the
16.1 GiB that were reserved at 16,384 tokens (H100)."""
DISK_GIB = {True: 12, False: 1}
"""Three checkpoints of 2 GiB, data and log; or the laptop's."""
NO_GPU_HINT = "look further: keepstate doctor; without a GPU, train the small model: keepstate train RUNTIME --laptop"


def check_machine(config: Mapping[str, Any], output: Path) -> None:
    """Refuse what cannot run here.

    Raises:
        UserError: No GPU for a config that needs one, a GPU too small, or no disk space.
    """
    gpu = needs_gpu(config)
    if gpu:
        found = machine.gpus()
        if not found:
            raise UserError("this config needs a CUDA GPU, and this machine has none", NO_GPU_HINT)
        needed = estimate_gib(config)
        if found[0].memory_gib < needed:
            raise UserError(
                f"{found[0].name} has {found[0].memory_gib:.0f} GiB, this config needs about {needed:.0f} GiB",
                smaller(config),
            )
    folder = next(parent for parent in (output, *output.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free / machine.GIB
    if free < DISK_GIB[gpu]:
        raise UserError(
            f"{free:.1f} GiB of disk are free for {output}, {DISK_GIB[gpu]} GiB are needed",
            "free some space, or name another folder: --out",
        )


def estimate_gib(config: Mapping[str, Any]) -> float:
    """GPU memory that Qwen3-8B takes with every layer recomputed. Not a figure for other models."""
    tokens = int(config["sequence_len"]) * int(config.get("micro_batch_size", 1))
    return FIXED_GIB + PER_1K_TOKENS_GIB * tokens / 1024


def smaller(config: Mapping[str, Any]) -> str:
    """The one flag that would fit into less memory."""
    if config.get("keepstate_profile") == "speed":
        return "recompute every layer: --profile memory"
    if int(config.get("micro_batch_size", 1)) > 1:
        return "fewer rows at once: micro_batch_size 1 and more gradient_accumulation_steps in the config"
    return f"a shorter context: --max-seq-length {int(config['sequence_len']) // 2}"


def check_data(dataset: Path, config: Mapping[str, Any]) -> tuple[Manifest, list[str]]:
    """The data set's manifest, and remarks.

    Raises:
        UserError: No data set, files changed since it was built or proven, or another chat template than the config's.
    """
    manifest = read_manifest(dataset)
    again = f"build it again: keepstate dataset build --runtime {manifest.runtime}"
    for name, split in manifest.splits.items():
        path = dataset / f"{name}.jsonl"
        if not path.is_file() or file_hash(path) != split.sha256:
            raise UserError(f"{path} is not the file that the manifest names", again)
    from keepstate.datasets.templates import FOLDER, load_template  # noqa: PLC0415

    wanted = load_template(_template_file(str(config["chat_template_jinja"])))
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


def check_model(name: str) -> bool:
    """Whether the base model is a folder here (then nothing needs the network).

    Raises:
        UserError: It is written as a folder that is not there.
    """
    found = absolute_model(name)
    if isinstance(found, Path):
        if not (found / "config.json").is_file():
            raise UserError(f"{found} is no model folder: config.json is missing", "name another: --base-model")
        return True
    if name.startswith(("models/", ".", "/")):
        raise UserError(f"no such model folder: {name}", "make it: python -m keepstate.basemodel")
    return False


def _template_file(name: str) -> Path:
    from keepstate.training.config import ROOT  # noqa: PLC0415

    path = Path(name)
    return path if path.is_file() else ROOT / name
