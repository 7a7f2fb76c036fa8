"""Packed rows through flash attention: documents found once a batch, key-value heads as they are.

    attention.install()                # before the model is loaded, after Axolotl's own patches
    attention.choose(model.config)     # after it

Axolotl calls PyTorch's kernel with key and value heads repeated, and finds the documents anew in every layer, each
time waiting for the GPU. Here it is FlashAttention 4 on a Hopper GPU where that is installed (`flash`), else cuDNN's
there (`cudnn`), else PyTorch's. Rows of one document go through FlashAttention 4, too, else as before; so do masks,
other types and the CPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

from . import cudnn, flash
from .documents import AttentionByDocuments, Documents

MOST_HEAD_DIM = 256
COMPUTE_CAPABILITY = (8, 0)
FEWER_KV_HEADS = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""torch 2.11 takes fewer key-value heads without being told."""


class PackedAttention(AttentionByDocuments):
    """On a GPU: rows of several documents by `attend`."""

    def __init__(self, single: Callable[..., Any], other: Callable[..., Any]) -> None:
        """Take what rows of one document (`single`) and everything else (`other`) went through before."""
        super().__init__(other)
        self.single, self.several = single, self._several
        self.attend = attend

    def fits(self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor | None) -> bool:
        """What the kernel takes, with a position for every token."""
        return (
            positions is not None
            and query.is_cuda
            and query.dtype in (torch.float16, torch.bfloat16)
            and query.shape[-1] <= MOST_HEAD_DIM
            and positions.numel() == query.shape[0] * query.shape[2]
        )

    def _several(
        self,
        _module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *_: Any,
        position_ids: torch.Tensor,
        scaling: float | None = None,
        **__: Any,
    ) -> tuple[torch.Tensor, None]:
        rows, heads, tokens, width = query.shape
        q, k, v = (tensor.transpose(1, 2).reshape(rows * tokens, -1, width) for tensor in (query, key, value))
        return self.attend(q, k, v, self.find(position_ids), scaling).view(rows, tokens, heads, width), None


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """Causal attention within each document; (tokens, heads, width) in and out, fewer key-value heads allowed."""
    if cudnn.available() and cudnn.fits(query):
        return cudnn.attend(query, key, value, documents, scaling)
    return attend_by_torch(query, key, value, documents, scaling)


def attend_by_torch(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """The same by PyTorch's FlashAttention-2."""
    offsets, longest = documents.offsets, documents.longest
    return varlen_attn(
        query, key, value, offsets, offsets, longest, longest, scale=scaling, window_size=(-1, 0), **FEWER_KV_HEADS
    )


def install() -> None:
    """Take over transformers' `sdpa`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if torch.cuda.is_available() and torch.cuda.get_device_capability() >= COMPUTE_CAPABILITY:
        single = getattr(before, "_axolotl_sdpa_original", before)
        ALL_ATTENTION_FUNCTIONS.register("sdpa", PackedAttention(single, before))


def choose(config: Any) -> str:
    """Take FlashAttention 4 where it does for this model's heads. Says which kernels packed rows go through."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    packed = ALL_ATTENTION_FUNCTIONS["sdpa"]
    if not isinstance(packed, PackedAttention):
        return "what Axolotl chose"
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    why_not = flash.trial(heads, kv_heads, width, attend_by_torch)
    if why_not:
        return f"{'cuDNN' if cudnn.available() else 'PyTorch'} (FlashAttention 4: {why_not})"
    packed.attend, packed.single = flash.attend, packed.several
    return "FlashAttention 4"
