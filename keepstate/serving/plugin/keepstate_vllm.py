"""vLLM plugin for the CPU: LoRA as matrix products, and processes that sleep while they wait. Runs in .venv-serve.

vLLM 0.32's own CPU code copies an adapter's matrices once for every token of the batch, and gives the base model's rows
of a mixed batch the last adapter; here each adapter is applied once, to the rows that ask for it. Its processes spin
for a second before they sleep, which on two cores takes the other core from the episodes. `docs/serving.md` has the
figures. vLLM finds it through the entry point in the folder beside this file; on a GPU it does nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import torch
from vllm.distributed.device_communicators import shm_broadcast
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

Rows: TypeAlias = "slice | torch.Tensor"
SPIN_SECONDS = 0.002
"""Longer than the scheduler takes between two steps, shorter than a step (20 ms and more). vLLM's own: 1 s."""


def register() -> None:
    """Let vLLM use `GroupedLora` and short spins on the CPU."""
    if current_platform.is_cpu():
        path = f"{__name__}.{GroupedLora.__name__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda _: path)
        shm_broadcast.SpinCondition = partial(shm_broadcast.SpinCondition, busy_loop_s=SPIN_SECONDS)


def groups(slots: torch.Tensor) -> list[tuple[int, Rows]]:
    """The adapters of a batch, each with its rows.

    Args:
        slots: For every row the slot of its adapter, -1 for the base model.
    """
    found: list[tuple[int, Rows]] = []
    for slot in slots.unique().tolist():
        if slot < 0:
            continue
        rows = (slots == slot).nonzero().squeeze(1)
        first, last = int(rows[0]), int(rows[-1])
        together = last - first + 1 == len(rows)
        found.append((slot, slice(first, last + 1) if together else rows))
    return found


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """Applies each adapter of a batch once. Embeddings and logits, which our adapters leave alone, stay vLLM's."""

    def update_metadata(self, *arguments: Any, **options: Any) -> None:
        """Note which rows of the coming batch belong to which adapter."""
        super().update_metadata(*arguments, **options)
        self._groups = groups(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add `x A^T B^T * scale` to `y` in place, for every slice of columns (q, k, v; gate, up)."""
        for slot, rows in self._groups:
            part, left = x[rows], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                columns = y[:, left : left + width]
                low, up = part @ a[slot, 0].t(), b[slot, 0].t()
                if isinstance(rows, slice):
                    columns[rows].addmm_(low, up, alpha=scale)
                else:
                    columns.index_add_(0, rows, low @ up, alpha=scale)
                left += width
