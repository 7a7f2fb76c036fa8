"""Axolotl plugins that put a candidate in the place of what profile `speed` does; after keepstate's own.

Without a GPU, where train_speed.py rehearses, they change nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from axolotl.integrations.base import BasePlugin


class Norms(BasePlugin):  # type: ignore[misc]
    """Norms that take the additions beside them along."""

    def post_model_load(self, cfg: Any, model: Any) -> None:
        """Into every layer."""
        if torch.cuda.is_available():
            from . import norms

            print(f"candidate: norms with their additions in {norms.install(model)} layers", flush=True)


class NormsLoss(Norms):
    """The same, and the loss in chunks four times as long: fewer and larger products with the vocabulary."""

    def pre_model_load(self, cfg: Any) -> None:
        """Before Liger's loss is called."""
        if torch.cuda.is_available():
            from . import chunks

            chunks.install()
            print(f"candidate: the loss in chunks {chunks.LONGER} times as long", flush=True)


class Cudnn(BasePlugin):  # type: ignore[misc]
    """Attention as it is without FlashAttention 4."""

    def pre_model_load(self, cfg: Any) -> None:
        """Before keepstate's plugin tries it."""
        from keepstate_axolotl import flash

        flash.trial = lambda *_: "left out"


class Fp8Backward(BasePlugin):  # type: ignore[misc]
    """Products with frozen weights in FP8 where gradients are pulled back through them."""

    forward = False

    def post_model_load(self, cfg: Any, model: Any) -> None:
        """In the place of the functions that keepstate's LoRA layers call."""
        if torch.cuda.is_available():
            from keepstate_axolotl import lora

            from . import fp8

            lora.pull_back = fp8.pull_back
            if self.forward:
                lora.project = fp8.project
            print(f"candidate: FP8 {'both ways' if self.forward else 'in the backward'}", flush=True)


class Fp8(Fp8Backward):
    """The same both ways."""

    forward = True
