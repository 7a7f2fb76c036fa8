"""Products with frozen weights in FP8, in the place of `lora.project` and `lora.pull_back`.

e4m3, whose largest number is 448, with a scale a row on both sides; the low-rank part stays in bf16. Weights are made
FP8 once and kept, those of the backward turned round, since the product wants both sides along what is summed: 6.5 GiB
of Qwen3-8B for each direction.
"""
# mypy: disable-error-code="no-untyped-def, misc"
# (Triton's pointers have no Python type)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from axolotl.kernels.quantize import dequantize

Scaled = tuple[torch.Tensor, torch.Tensor]
"""Rows in FP8, and the scale of each."""
Tensors = Sequence[torch.Tensor]
_KEPT: dict[tuple[str, int], tuple[torch.Tensor, list[Scaled]]] = {}
"""By direction and a weight's address, which is its own as long as it is held here."""


@triton.jit  # type: ignore[untyped-decorator]
def _row(row_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    return tl.load(row_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _put(row, out_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    tl.store(out_ptr + column, row.to(out_ptr.dtype.element_ty), mask=column < WIDTH)


@triton.jit  # type: ignore[untyped-decorator]
def _rows(  # noqa: PLR0913, PLR0917
    x_ptr,
    y_ptr,
    z_ptr,
    out_ptr,
    scale_ptr,
    X: tl.constexpr,
    Y: tl.constexpr,
    Z: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_Z: tl.constexpr,
):
    """One row of three tensors side by side; those of width 0 are not there."""
    number = tl.program_id(0).to(tl.int64)
    x = _row(x_ptr + number * X, X, BLOCK_X)
    most = tl.max(tl.abs(x), axis=0)
    if Y > 0:
        y = _row(y_ptr + number * Y, Y, BLOCK_Y)
        most = tl.maximum(most, tl.max(tl.abs(y), axis=0))
    if Z > 0:
        z = _row(z_ptr + number * Z, Z, BLOCK_Z)
        most = tl.maximum(most, tl.max(tl.abs(z), axis=0))
    most = tl.maximum(most, 1e-12)
    tl.store(scale_ptr + number, most / 448.0)
    inverse = 448.0 / most
    out = out_ptr + number * (X + Y + Z)
    _put(x * inverse, out, X, BLOCK_X)
    if Y > 0:
        _put(y * inverse, out + X, Y, BLOCK_Y)
    if Z > 0:
        _put(z * inverse, out + X + Y, Z, BLOCK_Z)


def scaled(tensors: Tensors) -> Scaled:
    """One to three tensors (rows, ...) side by side, in FP8 with one scale a row."""
    tensors = [tensor.contiguous() for tensor in tensors]
    widths = [tensor.shape[1] for tensor in tensors] + [0] * (3 - len(tensors))
    count, device = len(tensors[0]), tensors[0].device
    out = torch.empty(count, sum(widths), dtype=torch.float8_e4m3fn, device=device)
    scales = torch.empty(count, 1, dtype=torch.float32, device=device)
    unused = [tensors[0]] * (3 - len(tensors))
    blocks = [triton.next_power_of_2(max(1, width)) for width in widths]
    _rows[(count,)](*tensors, *unused, out, scales, *widths, *blocks, num_warps=16 if sum(widths) > 8192 else 8)
    return out, scales


def product(left: Scaled, right: Scaled) -> torch.Tensor:
    """(rows, inputs) times (outputs, inputs) transposed, in bf16."""
    return torch._scaled_mm(
        left[0],
        right[0].t(),
        scale_a=left[1],
        scale_b=right[1].t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _kept(way: str, projections: Sequence[Any]) -> list[Scaled]:
    """Weights of one input: forward each as (outputs, inputs), backward all as one (inputs, outputs)."""
    weight = projections[0].weight
    key = (way, weight.data_ptr())
    if key not in _KEPT:
        matrices = [dequantize(projection.weight, projection.state) for projection in projections]
        whole = matrices if way == "forward" else [torch.cat(matrices).t()]
        _KEPT[key] = weight, [scaled([matrix]) for matrix in whole]
    return _KEPT[key][1]


def project(x: torch.Tensor, projections: Sequence[Any], a: Tensors, b: Tensors) -> tuple[list[Any], torch.Tensor]:
    """Outputs of all projections of `x` (tokens, inputs), and x A^T."""
    low = x @ torch.cat([factor.to(x.dtype) for factor in a]).t()
    rows = scaled([x])
    outputs = [product(rows, weight) for weight in _kept("forward", projections)]
    parts = low.split([len(factor) for factor in a], dim=1)
    for output, part, factor, projection in zip(outputs, parts, b, projections, strict=True):
        output.addmm_(part, (projection.scale * factor).to(x.dtype).t())
    return outputs, low


def pull_back(
    grads: Tensors, low: torch.Tensor, projections: Sequence[Any], a: Tensors, b: Tensors
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """From the outputs' gradients those of `x`, of x A^T and of every B."""
    dtype = grads[0].dtype
    factors = [(p.scale * factor).to(dtype) for p, factor in zip(projections, b, strict=True)]
    grad_low = torch.cat([grad @ factor for grad, factor in zip(grads, factors, strict=True)], dim=1)
    parts = low.split([len(factor) for factor in a], dim=1)
    grads_b = [grad.t() @ part * p.scale for grad, part, p in zip(grads, parts, projections, strict=True)]
    grad_x = product(scaled(grads), _kept("backward", projections)[0])
    grad_x.addmm_(grad_low, torch.cat([factor.to(dtype) for factor in a]))
    return grad_x, grad_low, grads_b
