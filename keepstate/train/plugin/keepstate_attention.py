"""Packed rows through flash attention: documents found once a batch, key-value heads as they are.

    keepstate_attention.install()      # before the model is loaded, after Axolotl's own patches

Axolotl calls PyTorch's kernel with key and value heads repeated, and finds the documents anew in every layer, each
time waiting for the GPU. Here it is cuDNN's on a Hopper GPU (`keepstate_cudnn`), else PyTorch's. Rows of one document,
masks, other types and the CPU stay with what was there before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import keepstate_cudnn
import torch
from torch.nn.attention.varlen import varlen_attn

MOST_HEAD_DIM = 256
COMPUTE_CAPABILITY = (8, 0)
FEWER_KV_HEADS = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""torch 2.11 takes fewer key-value heads without being told."""


class Documents(NamedTuple):
    """Where the documents of a batch begin and end, its rows laid end to end."""

    number: int
    offsets: torch.Tensor
    """int32, one more than documents."""
    longest: int
    """Tokens of the longest."""


def find_documents(position_ids: torch.Tensor) -> Documents:
    """Read the documents off the positions, which begin at 0 in each. Waits for the GPU.

    What fills a row has position 0 throughout and is one document: nobody attends to it, and it has no loss.
    """
    column = torch.arange(position_ids.shape[1], device=position_ids.device)
    last = torch.where(position_ids != 0, column, -1).amax(dim=1, keepdim=True)
    starts = torch.nonzero(((position_ids == 0) & (column <= last + 1)).flatten()).flatten()
    offsets = torch.cat([starts, starts.new_tensor([position_ids.numel()])])
    return Documents(len(starts), offsets.to(torch.int32), int(offsets.diff().max()))


class AttentionByDocuments:
    """An attention function of transformers: what it fits by how many documents a row has, all else as before.

    Subclasses say what fits, and put an attention function of their own in the place of `single` or `several`.
    """

    def __init__(self, other: Callable[..., Any]) -> None:
        """Take what everything went through before."""
        self._other = self.single = self.several = other
        self._positions: torch.Tensor | None = None
        self._documents: Documents | None = None

    def fits(self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor | None) -> bool:
        """Whether an own function may take these; asked where there is no mask, no dropout and no window."""
        raise NotImplementedError

    def __call__(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Attend. Query is (rows, heads, tokens, width), the answer (rows, tokens, heads, width)."""
        positions, attend = kwargs.get("position_ids"), self._other
        plain = attention_mask is None and not dropout and not kwargs.get("sliding_window")
        if plain and self.fits(query, key, positions):
            one = positions is None or self.find(positions).number == len(positions)
            attend = self.single if one else self.several
        return attend(module, query, key, value, attention_mask, dropout=dropout, **kwargs)  # type: ignore[no-any-return]

    def find(self, positions: torch.Tensor) -> Documents:
        """The documents, found once a batch: all layers are given the same tensor."""
        if positions is not self._positions or self._documents is None:
            self._positions, self._documents = positions, find_documents(positions)
        return self._documents


class PackedAttention(AttentionByDocuments):
    """On a GPU: rows of several documents by `attend`."""

    def __init__(self, single: Callable[..., Any], other: Callable[..., Any]) -> None:
        """Take what rows of one document (`single`) and everything else (`other`) went through before."""
        super().__init__(other)
        self.single, self.several = single, self._several

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
        return attend(q, k, v, self.find(position_ids), scaling).view(rows, tokens, heads, width), None


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """Causal attention within each document; (tokens, heads, width) in and out, fewer key-value heads allowed."""
    if keepstate_cudnn.available() and keepstate_cudnn.fits(query):
        return keepstate_cudnn.attend(query, key, value, documents, scaling)
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
