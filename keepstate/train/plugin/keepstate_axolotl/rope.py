"""Norm and rotation of query and key heads in one pass, for models that norm their heads (Qwen3).

    rope.install()           # before the model is loaded, after Axolotl's `fused_attn_kernel`

One program takes a token with all its heads, so cosines and sines are read once for all of them; Axolotl's kernel
takes a head of 128 numbers, and its backward also sums the norm weight's gradient, which LoRA never asks for. Same
formula, in float32 between one load and one store.
"""
# ruff: noqa: PLR0913, PLR0917
# mypy: disable-error-code="no-untyped-def, misc, no-any-return"
# (a GPU kernel takes every pointer by itself, and Triton's pointers have no Python type)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def _forward(
    x_ptr, y_ptr, weight_ptr, cos_ptr, sin_ptr, eps, HEADS: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, HALF)[None, :]
    at = (token * HEADS + head) * (2 * HALF) + column
    mask = (head < HEADS) & (column < HALF)
    x1 = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(x_ptr + at + HALF, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.rsqrt((tl.sum(x1 * x1, axis=1) + tl.sum(x2 * x2, axis=1)) / (2 * HALF) + eps)[:, None]
    n1 = x1 * inverse * tl.load(weight_ptr + column).to(tl.float32)
    n2 = x2 * inverse * tl.load(weight_ptr + column + HALF).to(tl.float32)
    angle = token * (2 * HALF) + column
    y1 = n1 * tl.load(cos_ptr + angle).to(tl.float32) - n2 * tl.load(sin_ptr + angle).to(tl.float32)
    y2 = n2 * tl.load(cos_ptr + angle + HALF).to(tl.float32) + n1 * tl.load(sin_ptr + angle + HALF).to(tl.float32)
    tl.store(y_ptr + at, y1.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(y_ptr + at + HALF, y2.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(
    x_ptr,
    dy_ptr,
    dx_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    eps,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, HALF)[None, :]
    at = (token * HEADS + head) * (2 * HALF) + column
    mask = (head < HEADS) & (column < HALF)
    x1 = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(x_ptr + at + HALF, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.rsqrt((tl.sum(x1 * x1, axis=1) + tl.sum(x2 * x2, axis=1)) / (2 * HALF) + eps)[:, None]
    dy1 = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
    dy2 = tl.load(dy_ptr + at + HALF, mask=mask, other=0.0).to(tl.float32)
    angle = token * (2 * HALF) + column
    dn1 = dy1 * tl.load(cos_ptr + angle).to(tl.float32) + dy2 * tl.load(sin_ptr + angle + HALF).to(tl.float32)
    dn2 = dy2 * tl.load(cos_ptr + angle + HALF).to(tl.float32) - dy1 * tl.load(sin_ptr + angle).to(tl.float32)
    dn1 *= tl.load(weight_ptr + column).to(tl.float32)
    dn2 *= tl.load(weight_ptr + column + HALF).to(tl.float32)
    x1 *= inverse
    x2 *= inverse
    shared = ((tl.sum(dn1 * x1, axis=1) + tl.sum(dn2 * x2, axis=1)) / (2 * HALF))[:, None]
    tl.store(dx_ptr + at, (inverse * (dn1 - x1 * shared)).to(dx_ptr.dtype.element_ty), mask=mask)
    tl.store(dx_ptr + at + HALF, (inverse * (dn2 - x2 * shared)).to(dx_ptr.dtype.element_ty), mask=mask)


class NormRope(torch.autograd.Function):
    """RMS norm of each head, then rotation. The norm's weight gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """(rows, tokens, heads, width), cosines and sines (rows, tokens, width)."""
        y = torch.empty_like(x)
        _launch(_forward, x, (x, y, weight, cos, sin, eps))
        ctx.save_for_backward(x, weight, cos, sin)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Gradient of x."""
        x, weight, cos, sin = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        _launch(_backward, x, (x, grad.contiguous(), grad_x, weight, cos, sin, ctx.eps))
        return grad_x, None, None, None, None


def _launch(kernel: Any, x: torch.Tensor, arguments: tuple[Any, ...]) -> None:
    rows, tokens, heads, width = x.shape
    kernel[(rows * tokens,)](*arguments, HEADS=heads, BLOCK=triton.next_power_of_2(heads), HALF=width // 2, num_warps=4)


def over(stock: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function to use instead of `stock`, which keeps what this does not do."""

    def norm_rope(
        x: torch.Tensor,
        weight: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        eps: float = 1e-6,
        unit_offset: bool = False,
    ) -> torch.Tensor:
        width = x.shape[-1]
        whole = cos.shape[-1] == width and width & (width - 1) == 0
        if unit_offset or weight.requires_grad or not whole:
            return stock(x, weight, cos, sin, eps=eps, unit_offset=unit_offset)
        cos, sin = (angle.expand(x.shape[0], -1, -1).contiguous() for angle in (cos, sin))
        return NormRope.apply(x.contiguous(), weight, cos, sin, eps)

    return norm_rope


def install() -> None:
    """Let Axolotl's fused attention of Qwen3 use this norm and rotation."""
    from axolotl.kernels import gemma4_fused_rope
    from axolotl.monkeypatch.models.qwen3.fused_attn import patch_qwen3_fused_attn
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

    gemma4_fused_rope.fused_rms_norm_rope = over(gemma4_fused_rope.fused_rms_norm_rope)
    Qwen3Attention._axolotl_fused_attn_patched = False  # it looks the function up when it patches
    patch_qwen3_fused_attn()
