"""Spending free GPU memory: as many layers as fit keep their activations instead of computing them twice.

    FewerCheckpoints(reserve_gib=3.0)  # a callback of the trainer

Measures rather than guesses: one row with every layer recomputed, one with a few layers kept, and from the difference
how many fit. Rows have one length (`pad_to_sequence_len`), so the first rows are as large as any. Same mathematics.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

GIB = 2**30
PROBE = 4
"""Layers kept in the probing row: one would drown in the allocator's rounding."""
ADAM_BYTES = 8
"""Optimiser state of one trained parameter, allocated by the first step only."""


def layers_that_fit(layers: int, *, budget: int, base: int, probed: int, probe: int = PROBE) -> int:
    """How many of `layers` can keep their activations.

    Args:
        layers: All of them.
        budget: Bytes that may be allocated in all.
        base: Peak bytes with every layer recomputed.
        probed: Peak bytes with `probe` layers kept.
        probe: How many were.
    """
    cost = (probed - base) / max(1, probe)
    if cost <= 0:
        return layers if probed <= budget else 0
    return min(layers, max(0, int((budget - base) / cost)))


class FewerCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Profile `speed`: the first three rows show how many layers need not be recomputed."""

    def __init__(self, reserve_gib: float = 3.0) -> None:
        """Leave `reserve_gib` of what this process can get to fragments and work space (seen: under 1)."""
        self._reserve = int(reserve_gib * GIB)
        self._rows = 0
        self._base = 0
        self._layers: list[Any] = []

    def on_substep_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """One more row, inside a step."""
        self._row_done(model, kwargs.get("optimizer"))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """One more row, the last of a step."""
        self._row_done(model, kwargs.get("optimizer"))

    def _row_done(self, model: Any, optimizer: Any) -> None:
        self._rows += 1
        if self._rows > 3 or model is None or not torch.cuda.is_available():
            return
        peak = torch.cuda.max_memory_allocated()
        layers = self._layers
        if self._rows == 1:
            self._layers = [module for module in model.modules() if is_recomputed(module)]
            if not self._layers:
                self._rows = 3
                print("keepstate: no layer is recomputed, so profile speed has nothing to keep", flush=True)
        elif self._rows == 2:
            self._base = peak
            keep(layers, PROBE)
        elif self._rows == 3:
            budget = self._budget(model, optimizer)
            probe = min(PROBE, len(layers))
            count = layers_that_fit(len(layers), budget=budget, base=self._base, probed=peak, probe=probe)
            keep(layers, count)
            torch.cuda.empty_cache()
            print(
                f"keepstate: {count} of {len(layers)} layers are not recomputed "
                f"({self._base / GIB:.1f} GiB with none, {(peak - self._base) / probe / GIB:.2f} a layer, "
                f"{budget / GIB:.1f} to spend)",
                flush=True,
            )
        torch.cuda.reset_peak_memory_stats()

    def _budget(self, model: Any, optimizer: Any) -> int:
        """Bytes that may be allocated: what the GPU has left, what is held already, less what is still to come."""
        free, _ = torch.cuda.mem_get_info()
        budget: int = free + torch.cuda.memory_reserved() - self._reserve
        inner = getattr(optimizer, "optimizer", optimizer)
        if inner is not None and not getattr(inner, "state", None):
            budget -= ADAM_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
        return budget


def is_recomputed(module: Any) -> bool:
    """Whether it is a layer that computes its activations twice."""
    return hasattr(module, "self_attn") and bool(getattr(module, "gradient_checkpointing", False))


def keep(layers: list[Any], count: int) -> None:
    """Let the first `count` layers keep their activations, the others recompute them."""
    for number, layer in enumerate(layers):
        layer.gradient_checkpointing = number >= count
