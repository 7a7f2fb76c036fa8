"""Everything that is decided and checked before a training starts. Starts nothing; does not import Axolotl.

planned = plan(Path("train/configs/axolotl_smollm2_135m_react_laptop.yaml"), dataset=Path("data/datasets/react"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstate.datasets.manifest import TEMPLATE, Manifest
from keepstate.files import content_hash, file_hash
from keepstate.training import estimate, preflight
from keepstate.training.config import read_config, resolve


@dataclass(frozen=True, slots=True)
class Plan:
    """One training, decided."""

    config: dict[str, Any]
    """As Axolotl gets it, less how to resume and where to track."""
    output: Path
    dataset: Path
    manifest: Manifest
    template_sha256: str
    key: str
    """Hash of config, data and template: the same key need not be trained again."""
    offline: bool
    """Whether nothing is needed from the network."""
    gpu: int | None
    """Number of the GPU to use, as nvidia-smi counts; None: the CPU, or what CUDA_VISIBLE_DEVICES says."""
    remarks: tuple[str, ...]
    """What a user should know."""


def plan(
    config: Path,
    *,
    dataset: Path,
    output: Path | None = None,
    base_model: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    machine: bool = True,
) -> Plan:
    """Check everything that can be checked before Axolotl starts.

    Args:
        config: An Axolotl YAML file.
        dataset: Folder made by `keepstate dataset build`.
        output: The adapter's folder; by default the config's.
        base_model: Instead of the config's.
        overrides: Keys of the config to replace; None means not given.
        machine: Also refuse what this machine cannot run.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    raw = read_config(config)
    dataset, output = dataset.resolve(), (output or Path(raw["output_dir"])).resolve()
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    gpu = preflight.check_machine(raw | given, output) if machine else None
    manifest, remarks = preflight.check_data(dataset, raw | given)
    longest = max(split.longest for split in manifest.splits.values())
    if longest > int((raw | given)["sequence_len"]):
        remarks.append(
            f"rows longer than {(raw | given)['sequence_len']} tokens are dropped; the longest has {longest}"
        )
    if machine and gpu is None:
        remarks += preflight.about_cpu_memory(raw | given, longest)
        if raw.get("bf16") is True and preflight.lacks_bf16():
            given = {"bf16": False} | given
            remarks.append("this processor has no bf16 instructions: training in float32, which is faster here")
    data = {name: split.sha256 for name, split in manifest.splits.items()}
    resolved = resolve(
        raw,
        dataset=dataset,
        output=output,
        base_model=base_model,
        data_hash=content_hash(data),
        has_validation=bool("val" in manifest.splits and manifest.splits["val"].rows),
        overrides=given,
    )
    offline = preflight.find_model(resolved["base_model"]) is not None
    remarks += preflight.about_model(resolved["base_model"], manifest, dataset)
    if machine:
        tokens = manifest.splits["train"].tokens
        remarks.append(estimate.time_words(resolved, tokens, gpu.name if gpu else None))
    template = file_hash(dataset / TEMPLATE)
    return Plan(
        config=resolved,
        output=output,
        dataset=dataset,
        manifest=manifest,
        template_sha256=template,
        key=content_hash({"config": resolved, "data": data, "template": template}),
        offline=offline,
        gpu=gpu.number if gpu else None,
        remarks=tuple(remarks),
    )
