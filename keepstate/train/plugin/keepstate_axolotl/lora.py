"""LoRA layers with fewer passes over memory: what projections of one input share is computed once.

    lora.install(model)      # after Axolotl's LoRA kernels are in place

A rank of 64 costs next to no arithmetic, so its products are bound by memory. Axolotl's kernels read the input once
for each projection, compute x A^T again in the backward, and add the low-rank part to each finished output. Here the
factors A of one input are one matrix, x A^T is kept (at most 192 numbers a token), and a weight in NF4 is unpacked
with B A in it (`merge`), so that no output is written twice. With other weights the low-rank part is written first, for
the large product to accumulate on. Same mathematics; layers with dropout, bias or DoRA stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any, NamedTuple

import torch
from axolotl.kernels.quantize import dequantize
from axolotl.kernels.swiglu import swiglu_backward, swiglu_forward

from . import merge

Tensors = Sequence[torch.Tensor]


class Projection(NamedTuple):
    """One linear layer's frozen part."""

    weight: torch.Tensor
    state: Any
    """How the weight is quantised; None for a plain one."""
    scale: float

    def scaled(self, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The factor B times the adapter's scale."""
        return (self.scale * b).to(dtype)

    def matrix(self, a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, bool]:
        """The weight as (outputs, inputs), and whether B A is in it."""
        if merge.fits(self.state):
            return merge.merged(self.weight, self.state, a, b, self.scale, dtype), True
        return dequantize(self.weight, self.state), False


def project(x: torch.Tensor, projections: Sequence[Projection], a: Tensors, b: Tensors) -> tuple[list[Any], Any]:
    """Outputs of all projections of `x` (tokens, inputs), and x A^T."""
    low = x @ _stacked(a, x.dtype).t()
    outputs = []
    for projection, factor_a, factor_b, part in zip(projections, a, b, _parts(low, a), strict=True):
        matrix, whole = projection.matrix(factor_a, factor_b, x.dtype)
        before = None if whole else part @ projection.scaled(factor_b, x.dtype).t()
        outputs.append(_added(before, x, matrix.t()))
    return outputs, low


def pull_back(
    grads: Tensors, low: torch.Tensor, projections: Sequence[Projection], a: Tensors, b: Tensors
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """From the outputs' gradients those of `x`, of x A^T and of every B."""
    dtype = grads[0].dtype
    grads_low = [g @ p.scaled(factor, dtype) for g, p, factor in zip(grads, projections, b, strict=True)]
    grads_b = [g.t() @ part * p.scale for g, part, p in zip(grads, _parts(low, a), projections, strict=True)]
    grad_x = None
    for grad, grad_low, projection, factor_a, factor_b in zip(grads, grads_low, projections, a, b, strict=True):
        matrix, whole = projection.matrix(factor_a, factor_b, dtype)
        before = grad_x if whole else _added(grad_x, grad_low, factor_a.to(dtype))
        grad_x = _added(before, grad, matrix)
    assert grad_x is not None
    return grad_x, torch.cat(grads_low, dim=1), grads_b


def _added(before: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left @ right if before is None else before.addmm_(left, right)


def _parts(low: torch.Tensor, a: Tensors) -> tuple[torch.Tensor, ...]:
    return tuple(low.split([len(factor) for factor in a], dim=1))


def _stacked(factors: Tensors, dtype: torch.dtype) -> torch.Tensor:
    return torch.cat([factor.to(dtype) for factor in factors])


def _grads_a(grad_low: torch.Tensor, x: torch.Tensor, a: Tensors) -> list[torch.Tensor]:
    return list((grad_low.t() @ x).split([len(factor) for factor in a]))


def _alternating(grads_a: Tensors, grads_b: Tensors) -> list[torch.Tensor]:
    return [grad for pair in zip(grads_a, grads_b, strict=True) for grad in pair]


class Projections(torch.autograd.Function):  # type: ignore[misc]
    """Projections that share an input: q, k and v, or o alone. Factors come as A, B, A, B ..."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: torch.Tensor, projections: Sequence[Projection], *factors: torch.Tensor) -> Any:
        """(..., inputs) to one (..., outputs) a projection."""
        flat = x.reshape(-1, x.shape[-1])
        outputs, low = project(flat, projections, factors[::2], factors[1::2])
        ctx.save_for_backward(flat, low, *factors)
        ctx.projections, ctx.shape = projections, x.shape
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        """Gradients of x and of every factor."""
        x, low, *factors = ctx.saved_tensors
        a, b = factors[::2], factors[1::2]
        flat = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        grad_x, grad_low, grads_b = pull_back(flat, low, ctx.projections, a, b)
        return grad_x.view(ctx.shape), None, *_alternating(_grads_a(grad_low, x, a), grads_b)


class GatedMlp(torch.autograd.Function):  # type: ignore[misc]
    """down(silu(gate(x)) * up(x)). Factors come as A and B of gate, up and down."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: torch.Tensor, projections: Sequence[Projection], *factors: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, width) in and out."""
        flat = x.reshape(-1, x.shape[-1])
        a, b = factors[::2], factors[1::2]
        (gate, up), low = project(flat, projections[:2], a[:2], b[:2])
        hidden = swiglu_forward(gate[None], up[None])[0]
        (output,), hidden_low = project(hidden, projections[2:], a[2:], b[2:])
        ctx.save_for_backward(flat, low, gate, up, hidden_low, *factors)
        ctx.projections, ctx.shape = projections, x.shape
        return output.view(x.shape)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Gradients of x and of every factor. Overwrites gate and up, as Axolotl's kernel does."""
        x, low, gate, up, hidden_low, *factors = ctx.saved_tensors
        a, b = factors[::2], factors[1::2]
        flat = grad.reshape(-1, grad.shape[-1])
        grad_hidden, grad_low, grads_down = pull_back([flat], hidden_low, ctx.projections[2:], a[2:], b[2:])
        hidden, grad_gate, grad_up = swiglu_backward(grad_hidden, gate, up)
        down = _alternating(_grads_a(grad_low, hidden, a[2:]), grads_down)
        grad_x, grad_low, grads_b = pull_back([grad_gate, grad_up], low, ctx.projections[:2], a[:2], b[:2])
        return grad_x.view(ctx.shape), None, *_alternating(_grads_a(grad_low, x, a[:2]), grads_b), *down


def _frozen(linear: Any) -> Projection:
    weight = linear.base_layer.weight
    return Projection(weight, getattr(weight, "quant_state", None), linear.scaling[_adapter(linear)])


def _factors(linears: Sequence[Any]) -> list[torch.Tensor]:
    return [part[_adapter(linear)].weight for linear in linears for part in (linear.lora_A, linear.lora_B)]


def _adapter(linear: Any) -> str:
    return linear.active_adapters[0]  # type: ignore[no-any-return]


def apply_qkv(attention: Any, x: torch.Tensor) -> Any:
    """Query, key and value of an attention layer."""
    linears = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Projections.apply(x, [_frozen(linear) for linear in linears], *_factors(linears))


def apply_o(attention: Any, x: torch.Tensor) -> Any:
    """Output projection of an attention layer."""
    return Projections.apply(x, [_frozen(attention.o_proj)], *_factors([attention.o_proj]))[0]


def apply_mlp(mlp: Any, x: torch.Tensor) -> Any:
    """A gated feed-forward layer."""
    linears = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    return GatedMlp.apply(x, [_frozen(linear) for linear in linears], *_factors(linears))


def fits(linear: Any) -> bool:
    """Whether a linear layer is what is meant here: one LoRA adapter without dropout, bias or DoRA."""
    if not hasattr(linear, "lora_A") or len(linear.active_adapters) != 1 or linear.merged or linear.disable_adapters:
        return False
    name = _adapter(linear)
    plain = isinstance(linear.lora_dropout[name], torch.nn.Identity) and not linear.lora_magnitude_vector
    return plain and linear.base_layer.bias is None and linear.lora_B[name].bias is None


def install(model: Any) -> int:
    """Replace Axolotl's LoRA kernels where they are in place and all fits; how many layers that was."""
    count = 0
    for layer in (module for module in model.modules() if hasattr(module, "self_attn") and hasattr(module, "mlp")):
        attention, mlp = layer.self_attn, layer.mlp
        linears = [getattr(attention, f"{name}_proj", None) for name in "qkvo"]
        linears += [getattr(mlp, f"{name}_proj", None) for name in ("gate", "up", "down")]
        silu = getattr(getattr(mlp, "config", None), "hidden_act", None) == "silu"
        if hasattr(attention, "apply_qkv") and silu and all(fits(linear) for linear in linears):
            attention.apply_qkv = MethodType(apply_qkv, attention)
            attention.apply_o = MethodType(apply_o, attention)
            mlp.forward = MethodType(apply_mlp, mlp)
            count += 1
    return count
