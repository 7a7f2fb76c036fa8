"""Axolotl's configuration as keepstate reads, checks and resolves it. Starts nothing; does not import Axolotl.

Axolotl drops unknown keys without a word, so they are refused here, against its own schema (`axolotl_keys.txt`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from keepstate.closed import explain
from keepstate.dataset.manifest import Manifest
from keepstate.dataset.turns import TRAINING_KEY
from keepstate.errors import UserError
from keepstate.files import content_hash, parse_yaml
from keepstate.model_files import absolute_model
from keepstate.places import SHIPPED
from keepstate.setup import environments
from keepstate.vocabulary import MIXED, Engines, RuntimeName

CONFIGS = SHIPPED / "train" / "configs"
PLUGIN_FOLDER = Path(__file__).resolve().parent / "plugin"
KEYS = Path(__file__).resolve().parent / "axolotl_keys.txt"


_WITHOUT_EFFECT = """
output_dir dataset_prepared_path chat_template_jinja base_model axolotl_config_path
keepstate_profile gradient_checkpointing gradient_checkpointing_kwargs selective_checkpointing
activation_offloading layer_offloading micro_batch_size gradient_accumulation_steps batch_size eval_batch_size
dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataset_num_proc dataset_processes
dataset_keep_in_memory gc_steps gc_collect_steps torch_empty_cache_steps low_cpu_mem_usage gpu_memory_limit
max_memory device device_map save_steps saves_per_epoch save_strategy save_total_limit save_first_step
save_safetensors logging_steps include_tkps include_tokens_per_second profiler_steps profiler_steps_start
resume_from_checkpoint auto_resume_from_checkpoints strict hf_mlflow_log_artifacts
use_wandb use_mlflow use_comet use_trackio use_tensorboard use_otel_metrics
"""
WITHOUT_EFFECT = frozenset(_WITHOUT_EFFECT.split())
"""Keys that decide where and how a training runs and what it leaves, not what it computes. Model, template and rows a
step are in `decisive` by what they are."""
SERVICES = ("wandb_", "mlflow_", "comet_", "trackio_", "otel_")
"""Beginnings of the keys of trackers, which compute nothing either."""


class KeysRead(BaseModel, extra="ignore", allow_inf_nan=False):
    """The keys of Axolotl's config that keepstate reads, in their order there.

    Where a key has no default here, or null, Axolotl's own holds. Numbers may be written as YAML takes for a text
    (`1e-3`).
    """

    base_model: str = Field(min_length=1)
    """A folder, or a name on the model hub; `--base-model` replaces it."""
    chat_template_jinja: str = Field(min_length=1)
    """The chat template's file: it must be the data set's own, whose path replaces it."""
    datasets: list[dict[str, Any]] = Field(min_length=1)
    """How rows are read; `path` in each is replaced by the `train.jsonl` of the data set."""
    test_datasets: list[dict[str, Any]] | None = Field(default=None, min_length=1)
    """The same for `val.jsonl`; left out, with `evals_per_epoch` and `eval_steps`, where that has no rows."""
    dataset_prepared_path: str | None = None
    """Replaced by a folder of the adapter's, named after the data."""
    output_dir: str = Field(min_length=1)
    """The adapter's folder; `--out` replaces it. May name one runtime only: that which is trained."""
    sequence_len: float = Field(gt=0)
    """Tokens of a row, at most: longer ones are dropped; `--max-seq-length` replaces it."""
    adapter: str = Field(min_length=1)
    """`lora`, or `qlora` for 4 bits, which needs a GPU."""
    lora_r: float | None = Field(default=None, gt=0)
    """Rank of the adapter."""
    lora_alpha: float | None = Field(default=None, gt=0)
    """Its scale, times the rank."""
    micro_batch_size: float | None = Field(default=None, gt=0)
    """Rows at once; `--batch-size` replaces it."""
    gradient_accumulation_steps: float | None = Field(default=None, gt=0)
    """Such batches in one step; `--grad-accum` replaces it."""
    batch_size: float | None = Field(default=None, gt=0)
    """Rows of one step, instead of `gradient_accumulation_steps`."""
    num_epochs: float | None = Field(default=None, gt=0)
    """Passes over the data; `--epochs` replaces it."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Of the optimiser; `--lr` replaces it."""
    seed: int | None = None
    """Decides the order of rows and the adapter's first weights; `--seed` replaces it."""
    bf16: Any = None
    """True, false or `auto`; where it is true and the processor that trains has no such instructions, float32 is used.
    """
    lora_mlp_kernel: bool | None = None
    """Axolotl's kernel, which needs a GPU."""
    lora_qkv_kernel: bool | None = None
    """The same."""
    lora_o_kernel: bool | None = None
    """The same."""
    fused_attn_kernel: bool | None = None
    """The same."""
    liger_rms_norm: bool | None = None
    """Liger's kernel, which needs a GPU."""
    keepstate_profile: Literal["speed", "memory"] | None = None
    """On a GPU: `speed` spends free memory, `memory` fits 12 GB; `--profile` replaces it. Axolotl's own parts train
    where it is null."""


NUMBERS = tuple(name for name, field in KeysRead.model_fields.items() if field.annotation in (float, float | None))


def config_path(runtime: str, *, laptop: bool) -> Path:
    """The project's own config of one runtime, or of mixed data; of a runtime between the others that of `forget`."""
    runtime = runtime if runtime in (*RuntimeName, MIXED) else RuntimeName.FORGET
    name = f"smollm2_135m_{runtime}_laptop" if laptop else f"qwen3_8b_{runtime}_a100"
    return CONFIGS / f"axolotl_{name}.yaml"


def known_keys(version: str) -> frozenset[str]:
    """Every key that Axolotl of that version reads, with the plugins we use."""
    lines = (line.split() for line in KEYS.read_text().splitlines() if not line.startswith("#"))
    return frozenset(key for key, *only in lines if not only or version in only)


def read_axolotl_config(path: Path) -> dict[str, Any]:
    """Read an Axolotl YAML file.

    Raises:
        UserError: It cannot be read, is no mapping, has an unknown key or value or lacks a needed one.
    """
    try:
        config = parse_yaml(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot read the config {path}: {error.strerror}", f"the project's own are in {CONFIGS}"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: {error}", "repair the file") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no keys", f"the project's own configs are in {CONFIGS}")
    return checked(config, str(path))


def checked(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`config` with numbers as numbers (YAML takes 1e-3 for a text).

    Raises:
        UserError: A key that Axolotl would drop in silence, with the nearest known one; a needed one that is missing; a
            value that is none.
    """
    _check_keys(config, where)
    given = {key: value for key, value in config.items() if value is not None}
    try:
        read = KeysRead.model_validate(given)
    except ValidationError as error:
        fault = explain(error, KeysRead)
        raise UserError(f"{where}: {fault.message}", f"see the project's own configs in {CONFIGS}") from error
    numbers = {
        key: given[key] if isinstance(given[key], int) else getattr(read, key) for key in NUMBERS if key in given
    }
    return dict(config) | numbers


def _check_keys(config: Mapping[str, Any], where: str) -> None:
    axolotl = environments.spec("train").release
    known = known_keys(axolotl.version)
    unknown = [str(key) for key in config if key not in known]
    if not unknown:
        return
    near = [match for key in unknown for match in difflib.get_close_matches(key, known, n=1)]
    hint = f"did you mean: {', '.join(near)}" if near else f"the keys that it knows: less {KEYS}"
    for other in (environments.spec("train", engines) for engines in Engines):
        if known_keys(other.release.version).issuperset(unknown):
            hint = f"{other.release.words()} knows them: {other.choice}"
    raise UserError(f"{where}: unknown keys: {', '.join(unknown)} ({axolotl.words()} would ignore them)", hint)


def resolve(
    config: Mapping[str, Any],
    *,
    dataset: Path,
    output: Path,
    manifest: Manifest,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """The config that Axolotl is given: absolute paths, this data, this output, and what the user named.

    Args:
        config: As read.
        dataset: Folder with `train.jsonl`, `val.jsonl`, `chat_template.jinja`.
        output: The adapter's folder.
        manifest: Of `dataset`. The hash of its data keys the prepared data, which Axolotl would otherwise reuse for
            other data at the same place.
        overrides: Keys to replace; None takes one away.
    """
    gone = {key for key, value in overrides.items() if value is None}
    merged = {key: value for key, value in (dict(config) | dict(overrides)).items() if key not in gone}
    resolved = checked(merged, "options")
    resolved["base_model"] = str(absolute_model(str(resolved["base_model"])))
    masking = {"message_field_training": TRAINING_KEY} if manifest.trains_by_turn else {}
    train_file, val_file = ({"path": str(dataset / f"{name}.jsonl")} | masking for name in ("train", "val"))
    resolved["datasets"] = [entry | train_file for entry in config["datasets"]]
    resolved["chat_template_jinja"] = str(dataset / "chat_template.jinja")
    resolved["output_dir"] = str(output)
    resolved["dataset_prepared_path"] = str(output / "prepared" / content_hash(manifest.data_sha256)[:16])
    val = manifest.splits.get("val")
    if val and val.rows and config.get("test_datasets"):
        resolved["test_datasets"] = [entry | val_file for entry in config["test_datasets"]]
    else:
        for key in ("test_datasets", "evals_per_epoch", "eval_steps"):
            resolved.pop(key, None)
    return resolved


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved config decides the adapter: two runs that agree in it are one training.

    Places, trackers, what is recomputed and how the rows of a step are divided are not in it.
    """
    kept: dict[str, Any] = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in config.items()
        if value is not None and key not in WITHOUT_EFFECT and not key.startswith(SERVICES)
    }
    for name in ("datasets", "test_datasets"):
        if name in kept:
            kept[name] = [{key: value for key, value in entry.items() if key != "path"} for entry in kept[name]]
    return kept | {"rows_a_step": rows_a_step(config)}


def rows_a_step(config: Mapping[str, Any]) -> int:
    """Rows of one optimiser step, however they are divided."""
    steps = config.get("gradient_accumulation_steps")
    if steps is None and config.get("batch_size") is not None:
        return int(config["batch_size"])
    return int(config.get("micro_batch_size") or 1) * int(steps or 1)


def divided(config: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """The config as each of several processes reads it, so that one step of all has the rows that it had.

    Raises:
        UserError: The batches of a step do not divide; names the numbers that do.
    """
    if processes == 1:
        return dict(config)
    together = int(config.get("micro_batch_size") or 1)
    batches = rows_a_step(config) // together
    if batches % processes:
        allowed = ", ".join(str(number) for number in range(1, batches + 1) if batches % number == 0)
        raise UserError(
            f"--gpus {processes}: a step has {batches} batches of {together}, which do not divide among {processes}",
            f"--gpus with one of: {allowed}",
        )
    kept = {key: value for key, value in config.items() if key != "batch_size"}
    return kept | {"gradient_accumulation_steps": batches // processes}


def needs_gpu(config: Mapping[str, Any]) -> bool:
    """Whether it trains on 4 bits or with Triton kernels."""
    kernels = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "fused_attn_kernel", "liger_rms_norm")
    return bool(config["adapter"] == "qlora" or any(config.get(key) for key in kernels))
