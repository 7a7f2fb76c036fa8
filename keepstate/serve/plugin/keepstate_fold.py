"""LoRA on a GPU as part of the layer's own product: the A of all adapters stands below the layer's weight.

vLLM's own way is two kernels and a filling with zeros for each layer, after its product: in a step of few rows, as when
answers are written, their number costs more than their work. Here the product makes the first half along the way, and
one kernel the second (`keepstate_expand`). A step that no adapter is asked in takes the layer's own rows alone.
`docs/serving.md` has the figures.

Layers stay vLLM's own where that does not fit: quantised, split over GPUs, more than three slices, ranks that are no
power of two from 16, or so many adapters that their A would be more than a quarter of the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from keepstate_expand import LEAST, expand
from vllm import envs
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.layers.column_parallel_linear import MergedColumnParallelLinearWithLoRA
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
)
from vllm.utils.torch_utils import direct_register_custom_op

LARGEST_SHARE = 0.25
"""Of further rows, where all rows of a prompt pass them."""
MOST_SLICES = 3
FORWARDS = (ColumnParallelLinear.forward, RowParallelLinear.forward, ReplicatedLinear.forward)
"""Of layers that compute nothing but their product."""


def folded_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    b: torch.Tensor,
    slots: torch.Tensor,
    unasked: torch.Tensor,
    slices: list[int],
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """A layer's outputs with each row's adapter, (rows, width).

    Args:
        x: (rows, inputs).
        weight: (width + slices x adapters x rank, inputs): the layer's, then A by slice, adapter and rank.
        b: (adapters, width, rank).
        slots: At least as many as rows: each row's adapter, -1 for none.
        unasked: On the CPU: whether no row of this step asks for an adapter. Read when it runs, not when compiled.
        slices: Widths, as `expand` takes them.
        bias: (as weight has rows).
    """
    if unasked.item():
        width = b.shape[1]
        return torch.nn.functional.linear(x, weight[:width], None if bias is None else bias[:width])
    return expand(torch.nn.functional.linear(x, weight, bias), slots, b, slices)


def _outputs_shape(
    x: torch.Tensor,
    weight: torch.Tensor,
    b: torch.Tensor,
    slots: torch.Tensor,
    unasked: torch.Tensor,
    slices: list[int],
    bias: torch.Tensor | None,
) -> torch.Tensor:
    return x.new_empty((x.shape[0], b.shape[1]))


direct_register_custom_op("folded_linear", folded_linear, fake_impl=_outputs_shape)


class Folded:
    """What a layer computes with: its weight with all A below, all B, its slices."""

    def __init__(self, layer: BaseLinearLayerWithLoRA) -> None:
        """Move the layer's matrices; those that vLLM knows, and writes adapters to, become views of them."""
        weight, a = layer.base_layer.weight, layer.lora_a_stacked
        self.slices = [matrix.shape[2] for matrix in layer.lora_b_stacked]
        adapters, _, rank, inputs = a[0].shape
        width = weight.shape[0]
        self.weight = weight.new_zeros((width + len(a) * adapters * rank, inputs))
        self.weight[:width] = weight.data
        weight.data = self.weight[:width]
        layer.lora_a_stacked = tuple(self.weight[width:].view(len(a), adapters, 1, rank, inputs))
        self.b = weight.new_zeros((adapters, width, rank))
        layer.lora_b_stacked = tuple(piece[:, None] for piece in self.b.split(self.slices, dim=1))
        bias = getattr(layer.base_layer, "bias", None)
        self.bias = None if bias is None else torch.cat([bias.data, bias.new_zeros(len(self.weight) - width)])


def folds(layer: BaseLinearLayerWithLoRA) -> bool:
    """Whether this layer, whose LoRA matrices vLLM has just made, can be folded."""
    base, (_, _, rank, _) = layer.base_layer, layer.lora_a_stacked[0].shape
    split = layer.tp_size > 1 or layer.lora_config.fully_sharded_loras
    if split or envs.VLLM_BATCH_INVARIANT or type(base.quant_method) is not UnquantizedLinearMethod:
        return False
    slices, weight = [matrix.shape[2] for matrix in layer.lora_b_stacked], base.weight
    further = sum(matrix.shape[0] * matrix.shape[2] for matrix in layer.lora_a_stacked)
    return (
        type(layer).apply in (BaseLinearLayerWithLoRA.apply, MergedColumnParallelLinearWithLoRA.apply)
        and type(base).forward in FORWARDS
        and len(slices) <= MOST_SLICES
        and sum(slices) == weight.shape[0]
        and all(size % LEAST == 0 for size in slices)
        and rank >= LEAST
        and rank & (rank - 1) == 0
        and weight.dtype == layer.lora_a_stacked[0].dtype
        and further <= LARGEST_SHARE * weight.shape[0]
    )


def fold_layers() -> None:
    """Let every linear layer with LoRA be folded where it can be, from now on."""
    BaseLinearLayerWithLoRA.folded = None
    for kind in (BaseLinearLayerWithLoRA, MergedColumnParallelLinearWithLoRA):
        kind.create_lora_weights = _folded_when_made(kind.create_lora_weights)
        kind.apply = _applied_folded(kind.apply)


def _folded_when_made(create: Callable[..., None]) -> Callable[..., None]:
    def create_lora_weights(self: Any, *arguments: Any, **options: Any) -> None:
        create(self, *arguments, **options)
        self.folded = Folded(self) if folds(self) else None

    return create_lora_weights


def _applied_folded(apply: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def applied(self: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        folded = self.folded
        if folded is None:
            return apply(self, x, bias)
        meta = self.punica_wrapper.token_mapping_meta
        outputs = torch.ops.vllm.folded_linear(
            x.reshape(-1, x.shape[-1]),
            folded.weight,
            folded.b,
            meta.token_lora_mapping,
            meta.no_lora_flag_cpu,
            folded.slices,
            None if bias is None else folded.bias,
        )
        return outputs.view(*x.shape[:-1], -1)

    return applied
