"""What a training leaves in the adapter's folder: the mark that it is finished, and the model card.

`keepstate-adapter.json` is written last; a folder without it holds no finished adapter. Starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from keepstate import __version__
from keepstate.datasets.manifest import Manifest
from keepstate.files import write_atomic, write_json
from keepstate.vocabulary import RuntimeName

DONE = "keepstate-adapter.json"
WEIGHTS = "adapter_model.safetensors"


class TrainedAdapter(BaseModel):
    """A finished adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    """Hash of the resolved config and the data: the same key need not be trained again."""
    runtime: RuntimeName
    base_model: str
    data_sha256: str
    template_sha256: str
    steps: int
    first_loss: float | None
    final_loss: float | None
    """Mean of the last ten logged steps."""
    seconds: float
    """Of the last run, without start-up; a resumed training took longer in all."""
    tokens: int
    """Tokens of the last run."""
    peak_gib: float
    """GPU memory; 0 on the CPU."""
    keepstate: str = __version__


def read_done(output: Path) -> TrainedAdapter | None:
    """The finished adapter in `output`, or None."""
    try:
        done = TrainedAdapter.model_validate_json((output / DONE).read_bytes())
    except (OSError, ValidationError):
        return None
    return done if (output / WEIGHTS).is_file() else None


def write_result(output: Path, adapter: TrainedAdapter, config: Mapping[str, Any], manifest: Manifest) -> None:
    """Write the model card, then the mark."""
    write_atomic(output / "README.md", model_card(adapter, config, manifest))
    write_json(output / DONE, adapter.model_dump(mode="json"))


def model_card(adapter: TrainedAdapter, config: Mapping[str, Any], manifest: Manifest) -> str:
    """The adapter's README: what it is, from what, and how it was proven."""
    train = manifest.splits["train"]
    proof = manifest.certificate
    certified = (
        f"yes, {proof.checked_at}: {proof.turns:,} turns against Axolotl {proof.axolotl or '(not compared)'}"
        if proof
        else "no"
    )
    loss = "-" if adapter.final_loss is None else f"{adapter.final_loss:.4f}"
    rows = {
        "base model": f"`{adapter.base_model}`",
        "runtime of its traces": f"`{adapter.runtime}`",
        "training data": f"{train.rows:,} traces of {train.tasks:,} tasks, {train.tokens:,} tokens "
        f"({train.trained_tokens:,} trained), SHA-256 `{adapter.data_sha256}`",
        "data certificate": certified,
        "chat template": f"`chat_template.jinja`, SHA-256 `{adapter.template_sha256}`",
        "method": f"`{config['adapter']}`, r={config.get('lora_r')}, alpha={config.get('lora_alpha')}, "
        f"learning rate {config.get('learning_rate')}, {config.get('num_epochs')} epochs",
        "steps": f"{adapter.steps:,} in {adapter.seconds / 60:.1f} min (last run)",
        "final loss": loss,
        "trained with": f"keepstate {adapter.keepstate}, Axolotl (the versions are in `train.log`)",
        "key": f"`{adapter.key}`",
    }
    front = json.dumps(adapter.base_model)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\nbase_model: {front}\nlibrary_name: peft\ntags: [keepstate, lora]\n---\n\n"
        f"# {adapter.runtime} adapter\n\n| | |\n|---|---|\n{table}\n\n"
        "Serve it with its own chat template: `keepstate serve`. The whole configuration is in `axolotl.yaml`.\n"
    )
