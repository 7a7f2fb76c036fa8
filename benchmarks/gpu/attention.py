"""Attention of packed rows on this GPU: which kernels are right, and what does each take for a layer of Qwen3-8B?

    .venv-train/bin/python benchmarks/gpu/attention.py [--out FILE]

Compares output and gradients with float32 attention under a mask, on ragged documents and random input, then times
forward and backward of 16,384 tokens, 32 query and 8 key-value heads of 128: the plugin's call (on a Hopper GPU cuDNN's
kernels for ragged batches), PyTorch's FlashAttention-2 by offsets, Axolotl's way to it (key-value heads repeated), and
PyTorch's own way to cuDNN for several documents. Exit code 1 where the plugin's is wrong. Needs a CUDA GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "keepstate" / "train" / "plugin"))

import torch
import torch.nn.functional as F
from keepstate_axolotl.attention import attend, attend_by_torch
from keepstate_axolotl.documents import Documents, find_documents
from torch.nn.attention.varlen import varlen_attn

HEADS, KV_HEADS, WIDTH = 32, 8, 128
TOKENS = 16_384
RAGGED = (300, 700, 1, 699, 348)
ROWS = {
    "16 x 1,024": [1024] * 16,
    "4 x 4,096": [4096] * 4,
    "ragged": [3000, 5101, 777, 2222, 4000, 1284],
    "traces": [3100, 1750, 2890, 1320, 3900, 610, 2400, 414],
    "2 x 8,192": [8192] * 2,
}
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Documents], torch.Tensor]


def plugin(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """What the plugin calls."""
    return attend(query, key, value, documents, None)


def pytorch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """What the plugin calls on other GPUs."""
    return attend_by_torch(query, key, value, documents, None)


def torch_cudnn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """cuDNN's as PyTorch 2.11 has, but does not offer it: plans anew in each call, and its gradients are wrong."""
    offsets, longest = documents.offsets, documents.longest
    return torch.ops.aten._cudnn_attention_forward(  # type: ignore[no-any-return]
        query, key, value, None, offsets, offsets, longest, longest, True, 0.0, True
    )[0]


def repeated(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """Axolotl's."""
    more = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=1) for tensor in (key, value))
    offsets, longest = documents.offsets, documents.longest
    return varlen_attn(query, *more, offsets, offsets, longest, longest, window_size=(-1, 0))  # type: ignore[no-any-return]


def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """The reference: one large mask, in the input's type."""
    number = torch.arange(len(query), device=query.device)
    ends = documents.offsets[1 : documents.number + 1].long()
    document = torch.bucketize(number, ends, right=True)
    mask = (document[:, None] == document[None]) & (number[:, None] >= number[None])
    rows = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
    return F.scaled_dot_product_attention(*rows, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)


def documents_of(lengths: list[int] | tuple[int, ...]) -> Documents:
    """As the plugin finds them."""
    return find_documents(torch.cat([torch.arange(length, device="cuda") for length in lengths])[None])


def draw(tokens: int) -> list[torch.Tensor]:
    """Query, key, value."""
    return [
        torch.randn(tokens, heads, WIDTH, device="cuda", dtype=torch.bfloat16).requires_grad_()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def errors(attention: Attention, lengths: list[int] | tuple[int, ...]) -> list[float]:
    """Relative errors of output and of the gradients of query, key and value against float32."""
    documents = documents_of(lengths)
    inputs = draw(sum(lengths))
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    grad = torch.randn_like(inputs[0])
    got, wanted = attention(*inputs, documents), masked(*exact, documents)
    got.backward(grad)
    wanted.backward(grad.float())
    pairs = [(got, wanted), *((a.grad, b.grad) for a, b in zip(inputs, exact, strict=True))]
    return [float((a.float() - b).norm() / b.norm()) for a, b in pairs]


def milliseconds(attention: Attention, lengths: list[int], rounds: int = 12) -> tuple[float, float]:
    """The first forward and backward, planning included, and the median of later ones."""
    documents, inputs = documents_of(lengths), draw(sum(lengths))
    grad = torch.randn_like(inputs[0])
    times = []
    for _ in range(rounds):
        begin, finished = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        attention(*inputs, documents).backward(grad)
        finished.record()
        finished.synchronize()
        times.append(begin.elapsed_time(finished))
    return times[0], statistics.median(times[4:])


def main() -> int:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    out = parser.parse_args().out
    torch.manual_seed(0)
    kernels: dict[str, Attention] = {
        "plugin": plugin,
        "pytorch": pytorch,
        "repeated": repeated,
        "torch_cudnn": torch_cudnn,
    }
    report: dict[str, dict[str, object]] = {"errors": {}, "milliseconds": {}}
    for name, kernel in kernels.items():
        try:
            report["errors"][name] = errors(kernel, RAGGED)
        except RuntimeError as error:
            report["errors"][name] = str(error)[:300]
        print(f"{name}: relative errors (output, dq, dk, dv): {report['errors'][name]}", flush=True)
    for rows, lengths in ROWS.items():
        for name, kernel in kernels.items():
            try:
                report["milliseconds"][f"{rows} {name}"] = milliseconds(kernel, lengths)
            except RuntimeError as error:
                report["milliseconds"][f"{rows} {name}"] = str(error)[:300]
            print(f"{rows} {name}: {report['milliseconds'][f'{rows} {name}']} ms", flush=True)
    if out:
        out.write_text(json.dumps(report, indent=1))
    found = report["errors"]["plugin"]
    return int(isinstance(found, str) or not max(found) < 2e-2)  # type: ignore[arg-type, type-var]


if __name__ == "__main__":
    sys.exit(main())
