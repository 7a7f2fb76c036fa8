"""LoRA layers on the CPU with fewer passes over memory: the low-rank part is added to the finished product in place.

    cpu_lora.install(model)      # once the adapter is in it

peft converts a layer's input to the adapter's float32, which autocast converts back, writes the low-rank part out,
scales it, adds it, and goes the same way back: at 1,480 tokens of SmolLM2-135M a quarter of a training step. Here it is
one product with two factors of rank r, in the layer's own type, rounded once. Same mathematics: `lora` has the same for
a GPU, on Axolotl's kernels. Layers with dropout, DoRA, a bias of their own, several or merged adapters stay peft's.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear


class LowRankLinear(torch.autograd.Function):  # type: ignore[misc]
    """x W^T + scale x A^T B^T. W is frozen; A and B may be of another type, in which they get their gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Of x (..., inputs), W (outputs, inputs), A (rank, inputs) and B (outputs, rank): (..., outputs)."""
        rows, down, up = x.reshape(-1, x.shape[-1]), a.to(x.dtype), b.to(x.dtype)
        low = rows @ down.t()
        out = (rows @ weight.t()).addmm_(low, up.t(), alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, low)
        ctx.scale, ctx.types = scale, (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, A and B."""
        rows, weight, down, up, low = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        grad_low = (flat @ up).mul_(ctx.scale)
        grad_b = (flat.t() @ low).mul_(ctx.scale)
        grad_a = grad_low.t() @ rows
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (flat @ weight).addmm_(grad_low, down).view(*gradient.shape[:-1], -1)
        return grad_x, None, grad_a.to(ctx.types[0]), grad_b.to(ctx.types[1]), None


def install(model: torch.nn.Module) -> int:
    """Take over the layers that this computes alike; how many they are."""
    layers = [layer for layer in model.modules() if isinstance(layer, Linear) and _is_plain(layer)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return len(layers)


def _is_plain(layer: Linear) -> bool:
    """Whether it is a frozen linear layer without bias and one adapter of two factors."""
    base, adapters = layer.base_layer, list(layer.lora_A)
    return (
        type(base) is torch.nn.Linear
        and base.bias is None
        and not base.weight.requires_grad
        and len(adapters) == 1
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[adapters[0]], torch.nn.Identity)
        and layer.lora_B[adapters[0]].bias is None
    )


def _forward(self: Linear, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """As `Linear.forward`."""
    weight, active = self.base_layer.weight, self.active_adapters
    if args or kwargs or self.disable_adapters or self.merged or len(active) != 1 or x.dtype != weight.dtype:
        return Linear.forward(self, x, *args, **kwargs)
    a, b = self.lora_A[active[0]].weight, self.lora_B[active[0]].weight
    return LowRankLinear.apply(x, weight, a, b, self.scaling[active[0]])
