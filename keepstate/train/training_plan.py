"""Everything that is decided and checked before a training starts.

    planned = plan_training(config_path(RuntimeName.REACT, laptop=True), dataset=Path("data/datasets/react"))

Starts nothing; does not import Axolotl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from keepstate.dataset.manifest import TEMPLATE, Manifest
from keepstate.dataset.templates import load_template
from keepstate.dataset.turns import TRAINING_KEY
from keepstate.files import content_hash, file_hash
from keepstate.machine import Gpu
from keepstate.train import estimate, preflight
from keepstate.train.axolotl_config import decisive, needs_gpu, read_axolotl_config, resolve
from keepstate.train.base_model import BaseModel, is_other, keys_for, output_folder, turn_ends
from keepstate.train.result import base_identity
from keepstate.train.trained_for import TrainedFor, training_of
from keepstate.vocabulary import RuntimeName


@dataclass(frozen=True)
class TrainingPlan:
    """One training, decided."""

    config: dict[str, Any]
    """As Axolotl gets it, less how to resume and where to track."""
    output: Path
    dataset: Path
    manifest: Manifest
    template_sha256: str
    offline: bool
    """Whether nothing is needed from the network."""
    gpu: Gpu | None
    """The one to use; None: the CPU."""
    assumed: estimate.TimeEstimate | None
    """How long it will take; None where this machine will not train it."""
    remarks: tuple[str, ...]
    """What a user should know."""

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """Everything that decides the adapter. Reads the base model's files (16 GiB: some ten seconds)."""
        return decisive(self.config) | {
            "base_model": base_identity(str(self.config["base_model"])),
            "runtime": str(self.manifest.runtime),
            "data": self._data,
            "chat_template": self.template_sha256,
        }

    @property
    def trained_for(self) -> TrainedFor:
        """What the adapter will be for."""
        seed = self.decisive.get("seed")
        return TrainedFor(runtimes=(self.manifest.runtime,), training=training_of(self.decisive), seed=seed)

    @property
    def name(self) -> str:
        """What the adapter will be called where it is served."""
        return str(self.manifest.runtime)

    @property
    def key(self) -> str:
        """SHA-256 of `decisive`."""
        return content_hash(self.decisive)

    @property
    def older_key(self) -> str:
        """As the first version wrote it: places and profile counted too."""
        return content_hash({"config": self.config, "data": self._data, "template": self.template_sha256})

    @property
    def _data(self) -> dict[str, str]:
        return {name: split.sha256 for name, split in self.manifest.splits.items()}


def plan_training(
    config: Path,
    *,
    dataset: Path,
    output: Path | None = None,
    base_model: str | Path | None = None,
    runtime: RuntimeName | None = None,
    overrides: Mapping[str, Any] | None = None,
    machine: bool = True,
) -> TrainingPlan:
    """Check everything that can be checked before Axolotl starts.

    Args:
        config: An Axolotl YAML file.
        dataset: Folder made by `keepstate dataset build`.
        output: The adapter's folder; by default the config's.
        base_model: A model folder or hub name instead of the config's.
        runtime: What the adapter is for; by default what the data set was built for.
        overrides: Keys of the config to replace; None means not given.
        machine: Also refuse what this machine cannot run, choose its GPU and estimate how long it takes.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    raw = read_axolotl_config(config)
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    asked = raw | given | ({"base_model": str(base_model)} if base_model else {})
    model, other = BaseModel.of(asked), is_other(raw, base_model)
    place = output_folder(raw, output, base_model, runtime)
    if place == Path(raw["output_dir"]) and output is None:
        preflight.check_place(config, raw, runtime)
    dataset, output = dataset.resolve(), place.resolve()
    preflight.find_model(str(asked["base_model"]))  # before it is looked into
    fitted, about_base = keys_for(model, asked) if other else ({}, [])
    given = fitted | given
    asked |= given
    gpu = preflight.check_machine(asked, output) if machine else None
    manifest, remarks = preflight.check_data(dataset, asked, runtime, model if other else None)
    remarks = [f"{words}; chat template {manifest.template.name}" for words in about_base] + remarks
    given |= turn_ends(model, load_template(dataset / TEMPLATE))
    longest = max(split.longest for split in manifest.splits.values())
    if longest > int(asked["sequence_len"]):
        remarks.append(f"rows longer than {asked['sequence_len']} tokens are dropped; the longest has {longest}")
    if machine and gpu is None:
        remarks += preflight.about_cpu_memory(asked, longest)
    if not needs_gpu(asked) and raw.get("bf16") is True and preflight.lacks_bf16():
        given = {"bf16": False} | given
        remarks.append("this processor has no bf16 instructions: training in float32, which is faster here")
    data = {name: split.sha256 for name, split in manifest.splits.items()}
    resolved = resolve(
        raw,
        dataset=dataset,
        output=output,
        base_model=base_model,
        data_hash=content_hash(data),
        training_key=TRAINING_KEY if manifest.trains_by_turn else None,
        has_validation=bool("val" in manifest.splits and manifest.splits["val"].rows),
        overrides=given,
    )
    if gpu is not None:
        remarks += preflight.about_gpu(gpu)
    offline = preflight.find_model(resolved["base_model"]) is not None
    remarks += preflight.about_model(resolved["base_model"], manifest, dataset)
    assumed = None
    if machine:
        tokens = manifest.splits["train"].tokens
        assumed = estimate.estimate(resolved, tokens, gpu.name if gpu else None, model.shape)
        remarks.append(assumed.words())
    template = file_hash(dataset / TEMPLATE)
    return TrainingPlan(
        config=resolved,
        output=output,
        dataset=dataset,
        manifest=manifest,
        template_sha256=template,
        offline=offline,
        gpu=gpu,
        assumed=assumed,
        remarks=tuple(remarks),
    )
