"""FlashAttention 4 within the documents of a packed row, on a Hopper GPU where it is installed and found right.

    flash.trial(heads, kv_heads, width, attend_by_torch)      # why it is not to be used here; nothing where it is
    flash.attend(query, key, value, documents, scaling)

A layer of Qwen3-8B takes 13.2 instead of 14.7 ms with one document of 16,384 tokens (PyTorch's cuDNN), 2.86 instead of
3.40 with eight (`cudnn`), and its gradients of keys and values are closer to float32's: it sums over the query heads
that share them in float32 (benchmarks/gpu/results). Needs the package flash-attn-4. Its kernels are compiled when they
are first called, for heads, width and type, not for lengths.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from .documents import Documents, find_documents

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Documents, float | None], torch.Tensor]
HOPPER = (9, 0)
"""The only kind of GPU that this was measured on."""
TRIED = (100, 1, 155)
"""Tokens of the documents that it is tried with."""
APART = 0.02
"""Of PyTorch's kernels at most, relative; both lie .0025 from float32 there."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents, scaling: float | None
) -> torch.Tensor:
    """Causal attention within each document; (tokens, heads, width) in and out, fewer key-value heads allowed."""
    from flash_attn.cute import flash_attn_varlen_func

    output, _ = flash_attn_varlen_func(
        *(tensor.contiguous() for tensor in (query, key, value)),
        cu_seqlens_q=documents.offsets,
        cu_seqlens_k=documents.offsets,
        max_seqlen_q=documents.longest,
        max_seqlen_k=documents.longest,
        softmax_scale=scaling,
        causal=True,
    )
    return output


def trial(heads: int, kv_heads: int, width: int, right: Attend) -> str:
    """Why these heads cannot go this way here; empty where they can.

    Compiles the kernels, runs them forward and backward and compares them with `right`: a package that does not load,
    cannot compile or computes something else is found before the training begins.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != HOPPER:
        return "no Hopper GPU"
    try:
        with warnings.catch_warnings():  # its compiler's
            warnings.simplefilter("ignore")
            apart = _apart(heads, kv_heads, width, right)
    except ImportError as error:
        return f"not installed: {error}"
    except Exception as error:  # whatever its compiler raises
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return "" if apart < APART else f"its results are {apart:.3f} from PyTorch's"


def _apart(heads: int, kv_heads: int, width: int, right: Attend) -> float:
    """The largest relative difference of output and gradients from those of `right`."""
    drawn = torch.Generator("cuda").manual_seed(0)  # of its own: the training's numbers stay what they are
    documents = find_documents(torch.cat([torch.arange(length, device="cuda") for length in TRIED])[None])
    shapes = [(sum(TRIED), count, width) for count in (heads, kv_heads, kv_heads, heads)]
    *inputs, grad = (torch.randn(shape, generator=drawn, device="cuda").to(torch.bfloat16) for shape in shapes)
    found = []
    for way in (attend, right):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        with torch.enable_grad():
            query, key, value = leaves
            output = way(query, key, value, documents, None)
        found.append([output.detach(), *torch.autograd.grad(output, leaves, grad)])
    pairs = [(ours.float(), theirs.float()) for ours, theirs in zip(*found, strict=True)]
    apart = torch.stack([(ours - theirs).norm() / theirs.norm() for ours, theirs in pairs])
    return float(apart.max())  # what is no number stays none
