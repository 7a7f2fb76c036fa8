"""Attention in blocks beside PyTorch's in float32, and what it leaves to PyTorch. Runs in `.venv-train`.

PYTHONPATH=keepstate/train/plugin .venv-train/bin/python tests/train/cpu_attention_agrees.py
"""

import json
import sys
from typing import Any

import torch
from keepstate_axolotl import cpu_attention
from keepstate_axolotl.cpu_attention import BLOCK, CpuAttention, attend

ROWS, HEADS, KEY_HEADS, WIDTH = 2, 6, 2, 16
TOKENS = 2 * BLOCK + 37
calls: list[str] = []


def reference(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> tuple[torch.Tensor, None]:
    """PyTorch's attention in transformers' layout; counts its calls."""
    calls.append("reference")
    key, value = (tensor.repeat_interleave(HEADS // KEY_HEADS, dim=1) for tensor in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return out.transpose(1, 2), None


def made(heads: int) -> torch.Tensor:
    """Random, with a shift that all keys of a real model share."""
    return (torch.randn(ROWS, heads, TOKENS, WIDTH) + 3 * torch.randn(heads, 1, WIDTH)).bfloat16()


def run(function: Any, tensors: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
    """Output and the three gradients."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out, _ = function(None, *leaves, options.pop("mask", None), **options)
    (out.float() * weights).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[list-item]


torch.manual_seed(0)
tensors = [made(HEADS), made(KEY_HEADS), made(KEY_HEADS)]
weights = torch.randn(ROWS, TOKENS, HEADS, WIDTH)
ours = CpuAttention(reference)
full = [tensor.float() for tensor in tensors]
exact = run(reference, full)
calls.clear()
positions = torch.arange(TOKENS).expand(ROWS, -1)
found = run(ours, tensors, position_ids=positions)


def errors(values: list[torch.Tensor]) -> list[float]:
    """Relative, of output and gradients."""
    return [float((one.float() - other).norm() / other.norm()) for one, other in zip(values, exact, strict=True)]


def passed_on(tensors: list[torch.Tensor], **options: Any) -> int:
    """How often PyTorch's attention was called."""
    before = len(calls)
    run(ours, tensors, **options)
    return len(calls) - before


own = len(calls)
cpu_attention.MOST_KEPT = BLOCK
again = run(ours, tensors, position_ids=positions)
packed = positions.clone()
packed[:, 100:] -= 100
left = {
    "packed": passed_on(tensors, position_ids=packed),
    "mask": passed_on(tensors, mask=torch.zeros(1)),
    "dropout": passed_on(tensors, dropout=0.1),
    "window": passed_on(tensors, sliding_window=8),
    "float32": passed_on(full),
}
before = len(calls)
with torch.no_grad():
    ours(None, *tensors, None)
left["evaluation"] = len(calls) - before
told = {
    "float32": errors(run(attend, full)),
    "bfloat16": errors(found),
    "computed again": all(torch.equal(one, other) for one, other in zip(found, again, strict=True)),
    "other": own,
    "left": left,
}
sys.stdout.write("RESULT" + json.dumps(told))
