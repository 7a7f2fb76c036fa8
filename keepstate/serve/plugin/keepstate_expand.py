"""The second half of LoRA on a GPU: what the adapters' A made of a layer's inputs, through their B, in one kernel.

`keepstate_fold` puts the A of all adapters below a layer's weight, so one product gives the layer's own outputs and, in
further columns, what the A of every adapter makes of every row. `expand` takes each row's own of these through its
adapter's B and adds them to the row's outputs. Needs torch and Triton alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

FEW = 256
"""Rows up to which a tile takes the B of all adapters, asked for before the product has ended. Beyond it, where rows of
one prompt follow one another, and with one row, it looks which adapters its rows ask for."""
DEPTH = 256
"""Of all adapters' ranks, at most, of which a tile holds B: more do not fit a processor's registers."""
LEAST = 16
"""Of a tile's rows, columns and ranks: what the tensor cores multiply."""
COLUMNS, WARPS = 64, 4
"""Of a tile: 4.1 us a layer of Qwen3-8B on an H200 with 64 rows; 5.3 with 8 warps and one product of all ranks."""


@triton.jit  # type: ignore[untyped-decorator]
def _expand(  # type: ignore[no-untyped-def] # noqa: PLR0913, PLR0917
    wide,
    slots,
    b,
    outputs,
    rows,
    stride,
    width,
    second,
    third,
    ADAPTERS: tl.constexpr,
    RANK: tl.constexpr,
    ALL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One tile of outputs. It lies in one slice; the second and third begin at these columns.

    ALL: it takes the B of all adapters. EARLY: it starts before the product has ended, and loads what does not come
    from there.
    """
    first = tl.program_id(0) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    slice_ = (first >= second).to(tl.int32) + (first >= third).to(tl.int32)
    begin = wide + row.to(tl.int64)[:, None] * stride
    depth = tl.arange(0, RANK)
    lows = begin + width + slice_ * ADAPTERS * RANK + depth[None, :]
    places = b + column.to(tl.int64)[None, :] * RANK + depth[:, None]
    slot = tl.load(slots + row, mask=there, other=-1)
    ups = ()
    if ALL:
        for adapter in tl.static_range(ADAPTERS):
            # Triton knows neither += nor a star here
            ups = ups + (tl.load(places + adapter * width * RANK),)  # type: ignore[assignment] # noqa: RUF005
    if EARLY:
        tl.extra.cuda.gdc_wait()
    own = tl.load(begin + column[None, :], mask=there[:, None], other=0.0)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    if ALL:
        for adapter in tl.static_range(ADAPTERS):
            low = tl.load(lows + adapter * RANK, mask=(slot == adapter)[:, None], other=0.0)
            total = tl.dot(low, ups[adapter], total)
    else:
        for adapter in range(ADAPTERS):
            asks = slot == adapter
            if tl.sum(asks.to(tl.int32)) > 0:
                low = tl.load(lows + adapter * RANK, mask=asks[:, None], other=0.0)
                total = tl.dot(low, tl.load(places + adapter * width * RANK), total)
    place = outputs + row.to(tl.int64)[:, None] * width + column[None, :]
    tl.store(place, (total + own).to(outputs.dtype.element_ty), mask=there[:, None])


def expand(wide: torch.Tensor, slots: torch.Tensor, b: torch.Tensor, slices: list[int]) -> torch.Tensor:
    """Each row's outputs with its adapter's added, (rows, width).

    Args:
        wide: (rows, width + slices x adapters x rank): a layer's outputs, then what the A of every slice and adapter
            made of the row.
        slots: int32, at least as many as rows: each row's adapter, -1 for none.
        b: (adapters, width, rank): the B of all slices, one below the other. Rank is a power of two from 16.
        slices: Widths of one to three slices, multiples of 16; their sum is width.
    """
    adapters, width, rank = b.shape
    rows = len(wide)
    outputs = torch.empty((rows, width), dtype=wide.dtype, device=wide.device)
    columns = COLUMNS
    while any(size % columns for size in slices):
        columns //= 2
    tile = min(64, max(LEAST, triton.next_power_of_2(rows)))
    early = wide.is_cuda and torch.cuda.get_device_capability(wide.device) >= (9, 0)
    how: dict[str, Any] = {"ADAPTERS": adapters, "RANK": rank, "ALL": 1 < rows <= FEW and adapters * rank <= DEPTH}
    how |= {"ROWS": tile, "COLUMNS": columns, "EARLY": early, "num_warps": WARPS}
    how |= {"launch_pdl": True} if early else {}
    ends = [sum(slices[: number + 1]) for number in range(2)]
    grid = (width // columns, triton.cdiv(rows, tile))
    _expand[grid](wide, slots, b, outputs, rows, wide.stride(0), width, *ends, **how)
    return outputs
