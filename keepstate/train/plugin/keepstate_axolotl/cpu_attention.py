"""Causal attention on the CPU as products of blocks, faster than PyTorch's kernel. For trainings without a GPU.

    cpu_attention.install()      # before the model is loaded

PyTorch's flash attention multiplies small tiles, for which a CPU's bf16 instructions need the operands rearranged each
time: at 1,480 tokens it was half of a training step of SmolLM2-135M. Here a block of queries of all heads that share
their keys is one product with all keys before its end, and probabilities are kept for the backward pass (3 heads x 3
queries, 1,480 tokens: 20 MB a layer), but those of a long row's later queries are computed again in it. Forward and
backward of a layer in turn with PyTorch's, two cores with AVX-512, medians of 12: 1,480 tokens .67 of its time (56 and
84 ms), 2,625 .77 (176 and 229), 3,500 .85 (327 and 386); one such run.

It rounds like the attention that transformers writes out: gradients of real traces lie .070 to .104 from float32's,
transformers' .060 to .116, PyTorch's .063 to .075. Rows of several documents, masks, evaluation and other types stay
with PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .documents import AttentionByDocuments

BLOCK = 128
"""Queries a product. Of 128, 256 and 512 the fastest at 650, 1,000 and 1,480 tokens."""
MOST_KEPT = 2048
"""First tokens of a row whose probabilities are kept: they grow with the square, in SmolLM2 to 1.1 GB here."""


class BlockedAttention(torch.autograd.Function):  # type: ignore[misc]
    """Softmax of the causal products, block by block of queries.

    Query is (groups, tokens times heads of a group, width), a token's heads one after the other, so that a block is a
    slice; key and value are (groups, tokens, width); the answer is as query.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend, and keep the first blocks' probabilities."""
        key = key - key.mean(dim=1, keepdim=True)  # shifts all scores of a query alike: less to round, same softmax
        query = query * scale  # once, not every score; exact where it is a power of two (widths of 64 and 16)
        out, kept = torch.empty_like(query), []
        for rows, end in _blocks(query, key):
            probabilities = _probabilities(query[:, rows], key[:, :end])
            out[:, rows] = torch.bmm(probabilities, value[:, :end])
            if end <= MOST_KEPT:
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Gradients of query, key and value; those of key and value are summed in float32."""
        query, key, value, out, *kept = ctx.saved_tensors
        d_query = torch.empty_like(query)
        d_key, d_value = (torch.zeros(key.shape) for _ in range(2))
        mean = (gradient.float() * out.float()).sum(-1, keepdim=True).to(query.dtype)
        for number, (rows, end) in enumerate(_blocks(query, key)):
            part, some = query[:, rows], gradient[:, rows]
            probabilities = kept[number] if number < len(kept) else _probabilities(part, key[:, :end])
            d_value[:, :end] += torch.bmm(probabilities.transpose(1, 2), some)
            d_scores = torch.bmm(some, value[:, :end].transpose(1, 2)).sub_(mean[:, rows]).mul_(probabilities)
            d_query[:, rows] = torch.bmm(d_scores, key[:, :end])
            d_key[:, :end] += torch.bmm(d_scores.transpose(1, 2), part)
        return d_query.mul_(ctx.scale), d_key.to(key.dtype), d_value.to(value.dtype), None


def _blocks(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice, int]]:
    """Rows of every block of queries, and the first token behind it."""
    tokens = key.shape[1]
    heads = query.shape[1] // tokens
    for start in range(0, tokens, BLOCK):
        end = min(start + BLOCK, tokens)
        yield slice(start * heads, end * heads), end


def _probabilities(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Of a block of queries, whose tokens are the last of the keys': (groups, rows, keys)."""
    scores = torch.bmm(query, key.transpose(1, 2))
    tokens = (key.shape[1] - 1) % BLOCK + 1
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu_(1).repeat_interleave(query.shape[1] // tokens, dim=0)
    scores[..., -tokens:].masked_fill_(future, -math.inf)
    return torch.softmax(scores, dim=-1)


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
    groups = key.shape[1]
    out = BlockedAttention.apply(
        query.unflatten(1, (groups, -1)).transpose(2, 3).reshape(rows * groups, -1, width),
        key.reshape(-1, tokens, width),
        value.reshape(-1, tokens, width),
        scaling or width**-0.5,
    )
    return out.view(rows, groups, tokens, -1, width).transpose(1, 2).reshape(rows, tokens, heads, width), None


class CpuAttention(AttentionByDocuments):
    """Rows of one document in training by `attend`."""

    def __init__(self, other: Callable[..., Any]) -> None:
        """Take what everything else goes through."""
        super().__init__(other)
        self.single = attend

    def fits(self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor | None) -> bool:
        """What is faster in blocks."""
        return (
            torch.is_grad_enabled()
            and query.dtype is torch.bfloat16
            and query.device.type == "cpu"
            and query.shape[2] == key.shape[2]
        )


def install() -> None:
    """Take over transformers' `sdpa`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("sdpa", CpuAttention(ALL_ATTENTION_FUNCTIONS["sdpa"]))
