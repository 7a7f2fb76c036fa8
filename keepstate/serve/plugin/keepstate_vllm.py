"""vLLM plugin: the model's class is looked at in place; LoRA as matrix products; on the CPU also short spins.

vLLM starts a process that imports all of it again, only to look at the model's class without touching the GPU, which
looking at it does not. On a GPU layers take up their adapters (`keepstate_fold`). On the CPU:

Its engine, and the engine's worker, are new interpreters there, which import all of it again, one after the other; here
each begins as a copy of the process that has imported it, as on a GPU.

vLLM 0.32's own CPU code copies an adapter's matrices once for every token of the batch, and gives the base model's rows
of a mixed batch the last adapter; here each adapter is applied once, to the rows that ask for it, and those of a small
batch all at once. Its processes spin for a second before they sleep, which on two cores takes the other core from the
episodes. `docs/serving.md` has the figures. vLLM finds it through the entry point in the folder beside this file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from vllm.distributed.device_communicators import shm_broadcast
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.model_executor.models import registry
from vllm.platforms import current_platform

Rows: TypeAlias = "slice | torch.Tensor"
JOINED_SIZE = 256 * 48
"""Tokens times columns of all adapters up to which products cost by their number more than by their size."""
SPIN_SECONDS = 0.002
"""Longer than the scheduler takes between two steps, shorter than a step (20 ms and more). vLLM's own: 1 s."""


def register() -> None:
    """Let vLLM look at a model's class in place, fold LoRA on a GPU, and on the CPU use `GroupedLora` and spin shortly.

    Where `KEEPSTATE_ROOM` is set, its worker there is `keepstate_worker`'s, whose threads follow the machine's load.
    """
    registry._run_in_subprocess = lambda look: look()
    if current_platform.is_cuda():
        from keepstate_fold import fold_layers  # Triton, which the CPU has not

        fold_layers()
        # cuBLAS by itself takes 15.2 us where 4,096 rows of a weight become 4,288, and 11.8 before; 12.4 in this way. A
        # weight of 4,096 x 12,288 takes it 30.6 us, and 27.6 in this way (64 inputs on an H200).
        torch.backends.cuda.preferred_blas_library("cublaslt")
    if current_platform.is_cpu():
        path = f"{__name__}.{GroupedLora.__name__}"
        platform = type(current_platform)
        platform.get_punica_wrapper = classmethod(lambda _: path)
        decide = platform.check_and_update_config

        def forked(config: Any) -> None:
            decide(config)  # which asks for new interpreters
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
            if "KEEPSTATE_ROOM" in os.environ:
                config.parallel_config.worker_cls = "keepstate_worker.RoomyWorker"

        platform.check_and_update_config = staticmethod(forked)
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


def own_columns(slots: torch.Tensor, count: int, rank: int) -> torch.Tensor:
    """True where a column belongs to a row's own adapter; (rows, 1, `count` slots of `rank` columns)."""
    return (slots[:, None] == torch.arange(count)).repeat_interleave(rank, dim=1)[:, None]


class Joined:
    """The matrices of all slots of one layer side by side, copied anew when vLLM has written to one of them."""

    def __init__(self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> None:
        self.versions = versions(a, b)
        self.down = torch.cat([matrix.flatten(0, 2) for matrix in a]).t().contiguous()
        self.up = [matrix[:, 0].transpose(1, 2).flatten(0, 1).contiguous() for matrix in b]


def versions(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> list[int]:
    """Changes with every write to one of the tensors."""
    return [matrix._version for matrix in (*a, *b)]


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """Applies each adapter of a batch once. Embeddings and logits, which our adapters leave alone, stay vLLM's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._joined: dict[tuple[torch.Tensor, ...], Joined] = {}

    def update_metadata(self, *arguments: Any, **options: Any) -> None:
        """Note which rows of the coming batch belong to which adapter."""
        super().update_metadata(*arguments, **options)
        self._slots = self.token_lora_indices
        self._groups = groups(self._slots)
        self._mixed = bool(self._groups) and (len(self._groups) > 1 or not isinstance(self._groups[0][1], slice))
        self._mask: torch.Tensor | None = None

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
        slots, _, rank, _ = lora_a_stacked[0].shape
        if self._mixed and len(x) == len(self._slots) <= JOINED_SIZE // (slots * rank):
            self._add_joined(y, x, lora_a_stacked, lora_b_stacked, scale)
            return
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

    def _add_joined(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        a: tuple[torch.Tensor, ...],
        b: tuple[torch.Tensor, ...],
        scale: float,
    ) -> None:
        """Every row through every adapter, and out of the others' by a mask: few large products, not many small."""
        joined = self._joined.get(a)
        if joined is None or joined.versions != versions(a, b):
            joined = self._joined[a] = Joined(a, b)
        if self._mask is None:  # of all layers: vLLM gives each the same number of slots and the same rank
            self._mask = own_columns(self._slots, a[0].shape[0], a[0].shape[2]).to(x.dtype)
        low = (x @ joined.down).view(len(x), len(a), -1).mul_(self._mask)
        left = 0
        for number, up in enumerate(joined.up):
            y[:, left : left + up.shape[1]].addmm_(low[:, number], up, alpha=scale)
            left += up.shape[1]
