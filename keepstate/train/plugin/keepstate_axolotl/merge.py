"""A weight in NF4, unpacked to bf16 with an adapter's B A in it.

A product with a frozen weight unpacks it in any case (QLoRA, Dettmers et al. 2023, section 3). The kernel here adds
B A to the exact levels, before the one rounding to bf16. A young B A is far smaller than that rounding, but levels
times scales lie on no grid, so on average nothing of it is rounded away; of weights that lie on bf16's grid already
most of it would vanish. Forward and backward then need no low-rank part that reads and writes every token's outputs
once more: 2 % of a step of Qwen3-8B. How far it parts from plain QLoRA: benchmarks/gpu/results/README.md.
"""
# ruff: noqa: PLR0913, PLR0917
# mypy: disable-error-code="no-untyped-def, misc"
# (a GPU kernel takes every pointer by itself, and Triton's pointers have no Python type)

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

NF4_BLOCK = 64
"""Weights that share a scale; bitsandbytes' usual number, and the only one here."""
ROWS, MOST, WARPS, STAGES = 64, 4, 4, 1
"""A program takes 64 rows, and as many blocks of them as divide a row, up to 4: .35 ms for all weights of a layer of
Qwen3-8B (H200; writing them alone takes .1). With 32 rows .52, 128 .38, three stages .44."""
NARROWEST = 16
"""Least inner dimension of a product in Triton."""


@triton.jit  # type: ignore[untyped-decorator]
def _merge(
    packed_ptr,
    absmax_ptr,
    level_ptr,
    absmax_level_ptr,
    absmax_scale_ptr,
    offset_ptr,
    a_ptr,
    b_ptr,
    out_ptr,
    scaling,
    outputs,
    INPUTS: tl.constexpr,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    SCALED: tl.constexpr,
    ROWS: tl.constexpr,
    STRETCH: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < outputs
    rank = tl.arange(0, WIDTH)
    ranked = rank < RANK
    pairs = tl.arange(0, BLOCK // 2)
    kind = out_ptr.dtype.element_ty
    b = tl.load(b_ptr + row[:, None] * RANK + rank[None, :], mask=inside[:, None] & ranked[None, :], other=0.0)
    b = (b * scaling).to(kind)
    offset = tl.load(offset_ptr)
    for number in range(STRETCH):
        block = tl.program_id(1) * STRETCH + number
        at = row * (INPUTS // BLOCK) + block
        absmax = tl.load(absmax_ptr + at, mask=inside, other=0).to(tl.int32)
        scale = tl.load(absmax_level_ptr + absmax) * tl.load(absmax_scale_ptr + at // SCALED, mask=inside, other=0.0)
        packed = tl.load(packed_ptr + at[:, None] * (BLOCK // 2) + pairs[None, :], mask=inside[:, None], other=0)
        level = tl.load(level_ptr + tl.interleave(packed >> 4, packed & 15).to(tl.int32))
        column = block * BLOCK + tl.arange(0, BLOCK)
        a = tl.load(a_ptr + rank[:, None] * INPUTS + column[None, :], mask=ranked[:, None], other=0.0).to(kind)
        merged = level * (scale + offset)[:, None] + tl.dot(b, a, input_precision="ieee")
        place = out_ptr + row[:, None] * INPUTS + column[None, :]
        tl.store(place, merged.to(kind), mask=inside[:, None])


def fits(state: Any) -> bool:
    """Whether a weight's `quant_state` is what the kernel reads: NF4 whose scales are quantised, too."""
    return (
        getattr(state, "quant_type", None) == "nf4"
        and state.nested
        and state.blocksize == NF4_BLOCK
        and state.shape[1] % NF4_BLOCK == 0
    )


def merged(
    weight: torch.Tensor, state: Any, a: torch.Tensor, b: torch.Tensor, scaling: float, dtype: torch.dtype
) -> torch.Tensor:
    """The weight plus `scaling` times B A.

    Args:
        weight: As bitsandbytes packs it, two numbers a byte.
        state: Its `quant_state`, which `fits`.
        a: (rank, inputs), contiguous.
        b: (outputs, rank), contiguous.
        scaling: The adapter's.
        dtype: Of the result, and of what is multiplied.

    Returns:
        (outputs, inputs).
    """
    outputs, inputs = state.shape
    out = torch.empty(outputs, inputs, dtype=dtype, device=a.device)
    blocks = inputs // NF4_BLOCK
    stretch = math.gcd(blocks, MOST)
    _merge[triton.cdiv(outputs, ROWS), blocks // stretch](
        weight.view(torch.uint8),
        state.absmax,
        state.code,
        state.state2.code,
        state.state2.absmax,
        state.offset,
        a,
        b,
        out,
        scaling,
        outputs,
        INPUTS=inputs,
        RANK=len(a),
        WIDTH=max(NARROWEST, triton.next_power_of_2(len(a))),
        BLOCK=NF4_BLOCK,
        SCALED=state.state2.blocksize,
        ROWS=ROWS,
        STRETCH=stretch,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return out
