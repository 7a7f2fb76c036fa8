"""Norms of a layer that take the addition before them along, and that after them in the backward.

    norms.install(model)     # after Liger's norms are in place

A layer adds and norms twice. PyTorch and Liger read and write every token's width once for each of these, and once
more in the backward for the sum of both gradients; Liger's kernel also sums the weight's gradient, which LoRA never
asks for. Same formula, in float32 between one load and one store.
"""
# mypy: disable-error-code="no-untyped-def, misc, no-any-return"
# (Triton's pointers have no Python type)

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import triton
import triton.language as tl

LAYERS = ("Qwen3DecoderLayer", "LlamaDecoderLayer")
"""Whose forward is the one below."""


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # noqa: PLR0913, PLR0917
    x_ptr,
    more_ptr,
    sum_ptr,
    y_ptr,
    rstd_ptr,
    weight_ptr,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    at = row * WIDTH + column
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    if ADD:
        x = (x.to(tl.float32) + tl.load(more_ptr + at, mask=mask, other=0.0).to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + at, x, mask=mask)
    whole = x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(whole * whole, axis=0) / WIDTH + eps)
    tl.store(rstd_ptr + row, rstd)
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    y = (whole * rstd).to(x.dtype).to(tl.float32) * weight
    tl.store(y_ptr + at, y.to(x.dtype), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(x_ptr, dy_ptr, more_ptr, dx_ptr, rstd_ptr, weight_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    at = row * WIDTH + column
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + at, mask=mask, other=0.0)
    dn = (dy.to(tl.float32) * weight).to(dy.dtype).to(tl.float32)
    rstd = tl.load(rstd_ptr + row)
    shared = tl.sum(dn * x, axis=0) / WIDTH * rstd * rstd
    dx = rstd * (dn - shared * x) + tl.load(more_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)


class AddNorm(torch.autograd.Function):
    """x + more, and its norm. The norm's weight gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, more: torch.Tensor | None, weight: torch.Tensor, eps: float) -> Any:
        """(..., width) to norm and sum; without `more` the sum is x."""
        total = x if more is None else torch.empty_like(x)
        y = torch.empty_like(x)
        rstd = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
        width = x.shape[-1]
        add = x if more is None else more
        _forward[(rstd.numel(),)](
            x, add, total, y, rstd, weight, eps, WIDTH=width, BLOCK=triton.next_power_of_2(width), ADD=more is not None,
            num_warps=8,
        )  # fmt: skip
        ctx.save_for_backward(total, rstd, weight)
        ctx.added = more is not None
        return y, total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, grad_sum: torch.Tensor) -> Any:
        """The gradient of x, which is that of `more` too."""
        x, rstd, weight = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        width = x.shape[-1]
        _backward[(rstd.numel(),)](
            x, grad.contiguous(), grad_sum.contiguous(), grad_x, rstd, weight, WIDTH=width,
            BLOCK=triton.next_power_of_2(width), num_warps=8,
        )  # fmt: skip
        return grad_x, grad_x if ctx.added else None, None, None


def add_norm(norm: Any, x: torch.Tensor, more: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`norm` of x + more, and x + more."""
    return AddNorm.apply(
        x.contiguous(), more if more is None else more.contiguous(), norm.weight, norm.variance_epsilon
    )


def forward(layer: Any, hidden_states: torch.Tensor, **rest: Any) -> torch.Tensor:
    """A layer of attention and feed-forward, each normed before and added after."""
    normed, residual = add_norm(layer.input_layernorm, hidden_states)
    attended, _ = layer.self_attn(hidden_states=normed, **rest)
    normed, residual = add_norm(layer.post_attention_layernorm, residual, attended)
    return residual + layer.mlp(normed)


def fits(norm: Any) -> bool:
    """Whether a norm is what is meant here: frozen, of a plain weight."""
    return (
        not norm.weight.requires_grad
        and getattr(norm, "casting_mode", "llama") == "llama"
        and not getattr(norm, "offset", 0)
    )


def install(model: Any) -> int:
    """Put it into the layers that it fits; how many those were."""
    count = 0
    for layer in model.modules():
        if type(layer).__name__ in LAYERS and fits(layer.input_layernorm) and fits(layer.post_attention_layernorm):
            layer.forward = MethodType(forward, layer)
            count += 1
    return count
