"""Causal attention on the CPU as products of blocks, in half the time of PyTorch's kernel. For trainings without a GPU.

    cpu_attention.install()      # before the model is loaded

PyTorch's flash attention multiplies small tiles, for which a CPU's bf16 instructions need the operands rearranged each
time: at 1,480 tokens it was half of a training step of SmolLM2-135M. Here a block of queries of all heads that share
their keys is one product with all keys before its end, and probabilities are kept for the backward pass (3 heads x 3
queries, 1,480 tokens: 20 MB a layer). It rounds like the attention that transformers writes out: gradients of real
traces lie .070 to .104 from float32's, transformers' .060 to .116, PyTorch's .063 to .075. Rows of several documents,
masks, evaluation and other types stay with PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .documents import AttentionByDocuments

BLOCK = 128
"""Queries a product. Of 128, 256 and 512 the fastest at 650, 1,000 and 1,480 tokens."""
MOST_TOKENS = 2048
"""Longer ones stay with PyTorch: probabilities grow with the square, in SmolLM2 to 1.1 GB at this length."""


class BlockedAttention(torch.autograd.Function):  # type: ignore[misc]
    """Softmax of the causal products, block by block of queries.

    Query is (groups, heads of a group, tokens, width), key and value (groups, tokens, width); the answer is as query.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend, and keep every block's probabilities."""
        groups, heads, tokens, width = query.shape
        key = key - key.mean(dim=1, keepdim=True)  # shifts all scores of a query alike: less to round, same softmax
        query = query * scale  # once, not every score; exact where it is a power of two (widths of 64 and 16)
        out, kept = torch.empty_like(query), []
        future = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu_(1)
        for start in range(0, tokens, BLOCK):
            end = min(start + BLOCK, tokens)
            scores = torch.bmm(_rows(query, start, end), key[:, :end].transpose(1, 2))
            scores = scores.view(groups, heads, end - start, end)
            scores[..., start:].masked_fill_(future[: end - start, : end - start], -math.inf)
            kept.append(torch.softmax(scores, dim=-1).view(groups, -1, end))
            out[:, :, start:end] = torch.bmm(kept[-1], value[:, :end]).view(groups, heads, -1, width)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Gradients of query, key and value; those of key and value are summed in float32."""
        query, key, value, out, *kept = ctx.saved_tensors
        groups, heads, tokens, width = query.shape
        d_query = torch.empty_like(query)
        d_key, d_value = (torch.zeros(groups, tokens, width) for _ in range(2))
        mean = (gradient.float() * out.float()).sum(-1, keepdim=True).to(query.dtype)
        for start, probabilities in zip(range(0, tokens, BLOCK), kept, strict=True):
            end = min(start + BLOCK, tokens)
            part = _rows(gradient, start, end)
            d_value[:, :end] += torch.bmm(probabilities.transpose(1, 2), part)
            d_scores = torch.bmm(part, value[:, :end].transpose(1, 2)).sub_(_rows(mean, start, end))
            d_scores.mul_(probabilities)
            d_query[:, :, start:end] = torch.bmm(d_scores, key[:, :end]).view(groups, heads, -1, width)
            d_key[:, :end] += torch.bmm(d_scores.transpose(1, 2), _rows(query, start, end))
        return d_query.mul_(ctx.scale), d_key.to(key.dtype), d_value.to(value.dtype), None


def _rows(tensor: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """A block of tokens, the heads of a group one after the other."""
    return tensor[:, :, start:end].flatten(1, 2)


def attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    scaling: float | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """`BlockedAttention` as transformers calls attention: (rows, heads, tokens, width) in, tokens before heads out."""
    rows, heads, tokens, width = query.shape
    groups = rows * key.shape[1]
    out = BlockedAttention.apply(
        query.reshape(groups, -1, tokens, width),
        key.reshape(groups, tokens, width),
        value.reshape(groups, tokens, width),
        scaling or width**-0.5,
    )
    return out.view(rows, heads, tokens, width).transpose(1, 2), None


class CpuAttention(AttentionByDocuments):
    """Rows of one document in training by `attend`."""

    def __init__(self, other: Callable[..., Any]) -> None:
        """Take what everything else goes through."""
        super().__init__(other)
        self.single = attend

    def fits(self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor | None) -> bool:
        """What is faster in blocks, and not too long to keep."""
        return (
            torch.is_grad_enabled()
            and query.dtype is torch.bfloat16
            and query.device.type == "cpu"
            and query.shape[2] == key.shape[2] <= MOST_TOKENS
        )


def install() -> None:
    """Take over transformers' `sdpa`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("sdpa", CpuAttention(ALL_ATTENTION_FUNCTIONS["sdpa"]))
