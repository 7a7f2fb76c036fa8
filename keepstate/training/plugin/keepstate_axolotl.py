"""What Axolotl's YAML has no key for, as a plugin: training on the CPU in bf16, and progress as JSON lines.

    plugins: [keepstate_axolotl.KeepstatePlugin]      # with this folder on PYTHONPATH

Runs inside the training environment and imports nothing of keepstate. What it switches on lies in the modules beside
it. Does not touch data or optimiser.
"""

from __future__ import annotations

from typing import Any, Literal

import keepstate_callbacks
import keepstate_logits
import keepstate_order
import torch
from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel
from transformers import TrainerCallback, set_seed


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

    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        """Let the seed cover the adapter's first weights, which Axolotl draws before it seeds, and the packing."""
        if cfg.seed is not None:
            set_seed(cfg.seed)
            keepstate_order.install(cfg.seed)

    def post_lora_load(self, cfg: Any, model: Any) -> None:
        """Without a GPU, compute logits only where they count."""
        if not torch.cuda.is_available():
            keepstate_logits.install(model)

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[TrainerCallback]:
        """Progress, saving and tracking as the launcher asked for; `speed` spends free memory."""
        callbacks: list[TrainerCallback] = keepstate_callbacks.from_environment()
        if cfg.keepstate_profile == "speed":
            callbacks.append(FewerCheckpoints(cfg.sequence_len))
        return callbacks
