"""Liger's fused loss in longer chunks: so many more rows of logits at once, so many fewer launches.

    chunks.install()

Liger takes so many rows that their logits are as large as the hidden states: 256 or 512 of Qwen3-8B's 16,384. It finds
the number by `triton.next_power_of_2`, which also bounds the kernels' blocks, where it is cut off below in any case.
"""

from __future__ import annotations

from typing import Any

import triton

LONGER = 4


class Triton:
    """Triton, but for one function, in the eyes of Liger's loss."""

    def __getattr__(self, name: str) -> Any:
        """Everything else."""
        return getattr(triton, name)

    @staticmethod
    def next_power_of_2(number: int) -> int:
        """Two more."""
        return int(LONGER * triton.next_power_of_2(number))


def install() -> None:
    """For all losses from now on."""
    from liger_kernel.ops import fused_linear_cross_entropy

    fused_linear_cross_entropy.triton = Triton()
