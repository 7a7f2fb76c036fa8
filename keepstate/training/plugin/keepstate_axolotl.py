"""What Axolotl's YAML has no key for, as a plugin: training on the CPU in bf16, and progress as JSON lines.

    plugins: [keepstate_axolotl.KeepstatePlugin]      # with this folder on PYTHONPATH

Runs inside the training environment and imports nothing of keepstate. `KEEPSTATE_PROGRESS` names the file that gets one
line per log entry. Does not touch data, loss or optimiser.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

import torch
from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel
from transformers import TrainerCallback


class ProgressWriter(TrainerCallback):  # type: ignore[misc]
    """Appends one JSON line per log entry: step, steps, loss, lr, seconds since the first step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock; a resumed run begins above step 0."""
        self._start = time.monotonic()
        self._write({"event": "begin", "step": state.global_step, "steps": state.max_steps})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Pass on what the trainer logs."""
        self._write({"event": "log", "step": state.global_step, "steps": state.max_steps, **(logs or {})})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that all steps are done, and what they took at most."""
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        self._write({"event": "end", "step": state.global_step, "steps": state.max_steps, "peak_bytes": peak})

    def _write(self, entry: dict[str, Any]) -> None:
        entry["seconds"] = round(time.monotonic() - self._start, 3)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, default=float) + "\n")


class Stopper(TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint and ends the training after the step in which its file appears."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look for the file."""
        if self._path.exists():
            control.should_save = control.should_training_stop = True


class KeepstateArgs(BaseModel):
    """The keys that this plugin adds to Axolotl's configuration."""

    keepstate_profile: Literal["speed", "memory"] | None = None


class FewerCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Profile `speed`: after the first step, layers that fit into free memory are no longer recomputed.

    The first optimiser step runs with every layer checkpointed. What is then left of the GPU, less a reserve, over
    what one layer's activations take, is the number of layers that stop recomputing. Same mathematics.
    """

    GIB_PER_LAYER_16K = 2.2
    """Most that one un-checkpointed layer of Qwen3-8B took at 16,384 tokens (1.5-2.2, H100); with width it scales."""
    WIDTH = 4096
    RESERVE_GIB = 4.0

    def __init__(self, sequence_len: int) -> None:
        self._tokens = sequence_len
        self._done = False

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Decide once, when optimiser state and the largest buffers exist."""
        if self._done or model is None or not torch.cuda.is_available():
            return
        self._done = True
        layers = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
        layers = [layer for layer in layers if hasattr(layer, "self_attn")]
        width = getattr(getattr(model, "config", None), "hidden_size", self.WIDTH)
        cost = self.GIB_PER_LAYER_16K * self._tokens / 16_384 * width / self.WIDTH
        total = torch.cuda.get_device_properties(0).total_memory
        free = (total - torch.cuda.max_memory_reserved()) / 2**30 - self.RESERVE_GIB
        count = min(len(layers), max(0, int(free / cost)))
        for layer in layers[:count]:
            layer.gradient_checkpointing = False
        print(f"keepstate: {count} of {len(layers)} layers are not recomputed ({free:.1f} GiB free)", flush=True)


class KeepstatePlugin(BasePlugin):  # type: ignore[misc]
    """CPU bf16 where there is no GPU, and progress."""

    def get_input_args(self) -> str:
        """Add our keys to Axolotl's schema."""
        return "keepstate_axolotl.KeepstateArgs"

    def get_training_args(self, cfg: Any) -> dict[str, Any] | None:
        """`use_cpu` lets the trainer accept `bf16: true` without a GPU."""
        return None if torch.cuda.is_available() else {"use_cpu": True}

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[TrainerCallback]:
        """Write progress where the launcher asked for it; `speed` spends free memory."""
        callbacks: list[TrainerCallback] = []
        if path := os.environ.get("KEEPSTATE_PROGRESS"):
            callbacks.append(ProgressWriter(Path(path)))
        if path := os.environ.get("KEEPSTATE_STOP"):
            callbacks.append(Stopper(Path(path)))
        if cfg.keepstate_profile == "speed":
            callbacks.append(FewerCheckpoints(cfg.sequence_len))
        return callbacks
