"""Everything that is decided and checked before a training starts.

    request = TrainingRequest(config_path(RuntimeName.REACT, laptop=True), dataset=Path("data/datasets/react"))
    planned = plan_training(request)

Starts nothing; does not import Axolotl.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from keepstate.dataset.manifest import TEMPLATE, Manifest
from keepstate.dataset.templates import load_template
from keepstate.files import content_hash, file_hash
from keepstate.machine import Gpu, lacks_bf16
from keepstate.setup import environments
from keepstate.train import estimate, preflight
from keepstate.train.axolotl_config import decisive, divided, needs_gpu, read_axolotl_config, resolve
from keepstate.train.base_model import BaseModel, is_other, keys_for, output_folder, turn_ends
from keepstate.train.result import base_identity
from keepstate.train.trained_for import TrainedFor, as_word, training_of
from keepstate.vocabulary import Engines


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """One training, as it is asked for."""

    config: Path
    """An Axolotl YAML file."""
    dataset: Path
    """Folder made by `keepstate dataset build`."""
    output: Path | None = None
    """The adapter's folder; by default the config's."""
    base_model: str | Path | None = None
    """A model folder or hub name instead of the config's."""
    runtime: str | None = None
    """What the adapter is for, a runtime or `mixed`; by default what the data set was built for. Other data is refused.
    """
    name: str | None = None
    """What the adapter will be called where it is served; by default what the data is called."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the config to replace; None means not given."""
    gpus: int = 1
    """How many train together, each with its share of a step's rows. On the CPU so many processes, to rehearse."""

    def folder(self) -> Path:
        """The adapter's folder.

        Raises:
            UserError: The config cannot be read.
        """
        return output_folder(read_axolotl_config(self.config), self.output, self.base_model, self.runtime)


@dataclass(frozen=True)
class TrainingPlan:
    """One training, decided."""

    config: dict[str, Any]
    """As Axolotl gets it with one process, less how to resume and where to track."""
    output: Path
    dataset: Path
    manifest: Manifest
    template_sha256: str
    offline: bool
    """Whether nothing is needed from the network."""
    gpus: tuple[Gpu, ...]
    """Those to use; none: the CPU."""
    processes: int
    """That train together, one a GPU."""
    assumed: estimate.TimeEstimate | None
    """How long it will take; None where this machine will not train it."""
    remarks: tuple[str, ...]
    """What a user should know."""
    name: str
    """What the adapter will be called where it is served."""

    @property
    def of_a_process(self) -> dict[str, Any]:
        """`config` as each process reads it."""
        return divided(self.config, self.processes)

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """Everything that decides the adapter. Reads the base model's files (16 GiB: some ten seconds)."""
        return decisive(self.config) | {
            "base_model": base_identity(str(self.config["base_model"])),
            "runtime": as_word(self.manifest.runtimes),
            "data": self.manifest.data_sha256,
            "chat_template": self.template_sha256,
            **_engine(),
        }

    @property
    def trained_for(self) -> TrainedFor:
        """What the adapter will be for."""
        seed = self.decisive.get("seed")
        return TrainedFor(runtimes=self.manifest.runtimes, training=training_of(self.decisive), seed=seed)

    @property
    def key(self) -> str:
        """SHA-256 of `decisive`."""
        return content_hash(self.decisive)

    @property
    def older_key(self) -> str:
        """As the first version wrote it: places and profile counted too."""
        return content_hash(
            {"config": self.config, "data": self.manifest.data_sha256, "template": self.template_sha256}
        )


def plan_training(request: TrainingRequest, *, machine: bool = True) -> TrainingPlan:
    """Check everything that can be checked before Axolotl starts.

    Args:
        request: What is to be trained.
        machine: Also refuse what this machine cannot run, choose its GPUs and estimate how long it takes.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    raw, base_model, runtime, gpus = (
        read_axolotl_config(request.config),
        request.base_model,
        request.runtime,
        request.gpus,
    )
    given = {name: value for name, value in request.overrides.items() if value is not None}
    given |= {"base_model": str(base_model)} if base_model else {}
    asked = raw | given
    model, other = BaseModel.of(asked), is_other(raw, base_model)
    place = output_folder(raw, request.output, base_model, runtime)
    if place == Path(raw["output_dir"]) and request.output is None:
        preflight.check_place(request.config, raw, runtime)
    dataset, output = request.dataset.resolve(), place.resolve()
    preflight.find_model(str(asked["base_model"]))  # before it is looked into
    fitted, about_base = keys_for(model, asked) if other else ({}, [])
    given = fitted | given
    asked |= given
    divided(asked, gpus)  # or it is refused
    chosen = preflight.check_machine(asked, output, gpus) if machine else ()
    manifest, remarks = preflight.check_data(dataset, asked, runtime, model if other else None)
    remarks = [f"{words}; chat template {manifest.template.name}" for words in about_base] + remarks
    given |= turn_ends(model, load_template(dataset / TEMPLATE))
    remarks += _about_rows(asked, manifest, on_cpu=machine and not chosen)
    if not needs_gpu(asked) and raw.get("bf16") is True and lacks_bf16():
        given = {"bf16": False} | given
        remarks.append("this processor has no bf16 instructions: training in float32, which is faster here")
    resolved = resolve(raw, dataset=dataset, output=output, manifest=manifest, overrides=given)
    offline = preflight.find_model(resolved["base_model"]) is not None
    remarks += preflight.about_gpus(chosen) + preflight.about_model(resolved["base_model"], manifest, dataset)
    assumed, names = None, [gpu.name for gpu in chosen]
    if machine:
        assumed = estimate.estimate(resolved, manifest.splits["train"].tokens, names, model.shape)
        remarks.append(assumed.words())
    return TrainingPlan(
        config=resolved,
        output=output,
        dataset=dataset,
        manifest=manifest,
        template_sha256=file_hash(dataset / TEMPLATE),
        offline=offline,
        gpus=chosen,
        processes=gpus,
        assumed=assumed,
        remarks=tuple(remarks),
        name=request.name or manifest.arm,
    )


def _about_rows(config: Mapping[str, Any], manifest: Manifest, *, on_cpu: bool) -> list[str]:
    """Remarks where the longest row does not fit into the context, or may not into main memory."""
    longest, context = max(split.longest for split in manifest.splits.values()), config["sequence_len"]
    remarks = preflight.about_cpu_memory(config, longest) if on_cpu else []
    if longest > int(context):
        return [f"rows longer than {context} tokens are dropped; the longest has {longest}", *remarks]
    return remarks


def _engine() -> dict[str, str]:
    """Axolotl's version, where it is not the one whose trainings were written down without it."""
    release = environments.spec("train").release
    measured = environments.spec("train", Engines.MEASURED).release
    return {} if release.version == measured.version else {release.package: release.version}
