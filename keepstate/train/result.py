"""What a training leaves in the adapter's folder: the mark that it is finished, and the model card.

`keepstate-adapter.json` is written last; a folder without it holds no finished adapter. Starts nothing.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from keepstate import __version__
from keepstate.closed import Closed
from keepstate.dataset.manifest import Manifest
from keepstate.files import content_hash, file_hash, write_atomic, write_json
from keepstate.train.scores import Scores, read_scores, told
from keepstate.train.trained_for import TrainedFor, as_word, by_name, told_by_record
from keepstate.vocabulary import ADAPTER_NAME

DONE = "keepstate-adapter.json"
WEIGHTS = "adapter_model.safetensors"
NF4_MARK = "keepstate-nf4.json"
"""In a folder of a base model whose layers went to NF4 and back: see `keepstate.serve.nf4`."""


class TrainedAdapter(Closed):
    """A finished adapter."""

    key: str
    """SHA-256 of all that decides it, which `keepstate-run.json` holds: the same key need not be trained again."""
    name: str = Field(pattern=ADAPTER_NAME)
    """What it is called where it is served, unless another name is given there."""
    trained_for: TrainedFor
    """The runtimes of the traces that it was trained on, and which training of several it is."""
    base_model: str
    """Hub name or folder, as Axolotl got it."""
    base_revision: str | None = None
    """Commit on its hub, or SHA-256 of a folder's weights; None where neither could be had."""
    data_sha256: str
    """Of `train.jsonl`."""
    template_sha256: str
    """Of the chat template: a server that prompts by another one is refused."""
    steps: int
    """Optimiser steps."""
    first_loss: float | None
    """Of the first logged step; None where none was a number."""
    final_loss: float | None
    """Mean of the last ten logged steps; None where a loss was no number."""
    eval_loss: float | None = None
    """Last, on the validation split; None where there is none."""
    seconds: float
    """Of all runs that it took, without their start-up."""
    tokens: int
    """Trained on, context and padding included."""
    peak_gib: float
    """GPU memory of the first process; 0 on the CPU."""
    processes: int = 1
    """That trained together in its last run, one a GPU."""
    versions: dict[str, str] = Field(default={})
    """Of the packages that trained it."""
    evaluation_seconds: float = 0.0
    """That the training stood still while its checkpoints were played (`--eval-cell`); not in `seconds`."""
    keepstate: str = __version__
    """Version that trained it."""

    @model_validator(mode="before")
    @classmethod
    def _as_older_versions_wrote(cls, raw: Any) -> Any:
        """They had a runtime, which was the name too."""
        if not isinstance(raw, dict) or "runtime" not in raw:
            return raw
        kept = {key: value for key, value in raw.items() if key != "runtime"}
        return {"name": str(raw["runtime"]), "trained_for": by_name(str(raw["runtime"])), **kept}


def read_done(output: Path) -> TrainedAdapter | None:
    """The finished adapter in `output`, or None."""
    try:
        done = TrainedAdapter.model_validate_json((output / DONE).read_bytes())
    except (OSError, ValidationError):
        return None
    return done if (output / WEIGHTS).is_file() else None


def told_by_folder(folder: Path) -> TrainedFor | None:
    """What the adapter in `folder` was trained for, by its card; of a checkpoint, by the record of its training.

    None where neither is there.
    """
    done = read_done(folder)
    return done.trained_for if done else told_by_record(folder)


def base_revision(base_model: str, commit: str | None) -> str | None:
    """What pins the base: its commit on the hub, else the hash of its weight files, in the order of their names."""
    if commit is not None:
        return commit
    weights = sorted(Path(base_model).glob("*.safetensors"))
    if not weights:
        return None
    return content_hash([file_hash(path) for path in weights]) if len(weights) > 1 else file_hash(weights[0])


def base_identity(base_model: str) -> dict[str, str | None]:
    """What tells one base model from another wherever it lies: a folder's contents, or the name on the hub; and whether
    its weights went to NF4 and back."""
    folder = Path(base_model)
    if not folder.is_dir():
        return {"name": base_model}
    parts = {"config": folder / "config.json", "tokenizer": folder / "tokenizer.json"}
    hashes = {name: file_hash(path) if path.is_file() else None for name, path in parts.items()}
    made = {"made": "nf4-dequantised"} if (folder / NF4_MARK).is_file() else {}
    return hashes | {"weights": base_revision(base_model, None)} | made


def write_result(output: Path, adapter: TrainedAdapter, config: Mapping[str, Any], manifest: Manifest) -> None:
    """Write the model card, then the mark. The weights, written for their owner alone, may be read by whom it may."""
    card = output / "README.md"
    write_atomic(card, model_card(adapter, config, manifest, read_scores(output)))
    (output / WEIGHTS).chmod(stat.S_IMODE(card.stat().st_mode))
    write_json(output / DONE, adapter.model_dump(mode="json"))


def model_card(
    adapter: TrainedAdapter, config: Mapping[str, Any], manifest: Manifest, scores: Scores | None = None
) -> str:
    """The adapter's README: what it is, from what, and how it was proven."""
    train = manifest.splits["train"]
    proof = manifest.certificate
    certified = (
        f"yes, {proof.checked_at}: {proof.turns:,} turns against Axolotl {proof.axolotl or '(not compared)'}"
        if proof
        else "no"
    )
    rows = {
        "base model": f"`{adapter.base_model}`, revision `{adapter.base_revision or 'unknown'}`",
        "runtime of its traces": f"`{as_word(adapter.trained_for.runtimes)}`",
        "training data": f"{train.rows:,} traces of {train.tasks:,} tasks, {train.tokens:,} tokens "
        f"({train.trained_tokens:,} trained), SHA-256 `{adapter.data_sha256}`",
        "data certificate": certified,
        "chat template": f"`chat_template.jinja`, SHA-256 `{adapter.template_sha256}`",
        "method": f"`{config['adapter']}`, r={config.get('lora_r')}, alpha={config.get('lora_alpha')}, "
        f"learning rate {config.get('learning_rate')}, {config.get('num_epochs')} epochs",
        "steps": f"{adapter.steps:,} in {adapter.seconds / 60:.1f} min{_together(adapter)}, {_speed(adapter)}",
        "loss": f"first {_figure(adapter.first_loss)}, last ten steps {_figure(adapter.final_loss)}, "
        f"validation {_figure(adapter.eval_loss)}",
        **_evaluated(adapter, scores),
        "trained with": ", ".join(
            f"{name} {v}" for name, v in ({"keepstate": adapter.keepstate} | adapter.versions).items()
        ),
        "key": f"`{adapter.key}`",
    }
    front = json.dumps(adapter.base_model)
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return (
        f"---\nbase_model: {front}\nlibrary_name: peft\ntags: [keepstate, lora]\n---\n\n"
        f"# {adapter.name} adapter\n\n| | |\n|---|---|\n{table}\n\n"
        "Serve it with its own chat template: `keepstate serve`.\n\n"
        f"## Configuration\n\nAs Axolotl got it:\n\n```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```\n"
    )


def _evaluated(adapter: TrainedAdapter, scores: Scores | None) -> dict[str, str]:
    """What is known of its checkpoints' scores."""
    if scores is None:
        return {}
    share = adapter.evaluation_seconds / adapter.seconds if adapter.seconds else 0.0
    stood = f"stood still for {adapter.evaluation_seconds:.0f} s, {100 * share:.0f} % of the training's time"
    return {f"held-out scores, {scores.cell}": "; ".join(told(scores, ())), "evaluation": stood}


def _figure(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _together(adapter: TrainedAdapter) -> str:
    if adapter.processes == 1:
        return ""
    return f" on {adapter.processes} GPUs" if adapter.peak_gib else f" in {adapter.processes} processes"


def _speed(adapter: TrainedAdapter) -> str:
    speed = f"{adapter.tokens / adapter.seconds:,.0f} tokens/s" if adapter.seconds else "-"
    return f"{speed}, {adapter.peak_gib:.1f} GiB of memory a GPU" if adapter.peak_gib else speed
