"""Attention of packed rows on this GPU: which kernels are right, and what does each take for a layer of Qwen3-8B?

    .venv-train/bin/python benchmarks/gpu/attention.py [--out FILE] [--only NAME ...]

Compares output and gradients with float32 attention under a mask, on ragged documents and random input, then times
forward and backward of 16,384 tokens, 32 query and 8 key-value heads of 128: the plugin's calls (on a Hopper GPU
FlashAttention 4, where flash-attn-4 is installed, and cuDNN's kernels for ragged batches), PyTorch's FlashAttention-2
by offsets, Axolotl's way to it (key-value heads repeated), PyTorch's own way to cuDNN for several documents, its own
choice for one, and FlashAttention 3, where xformers 0.0.34 or flash_attn_3 is installed. Exit code 1 where one of the
plugin's is wrong. Needs a CUDA GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "keepstate" / "train" / "plugin"))

import torch
import torch.nn.functional as F
from keepstate_axolotl import flash
from keepstate_axolotl.attention import attend, attend_by_torch
from keepstate_axolotl.documents import Documents, find_documents
from torch.nn.attention.varlen import varlen_attn

HEADS, KV_HEADS, WIDTH = 32, 8, 128
MOST_WRONG = 2e-2
RAGGED = (300, 700, 1, 699, 348)
ROWS = {
    "1 x 16,384": [16_384],
    "16 x 1,024": [1024] * 16,
    "4 x 4,096": [4096] * 4,
    "ragged": [3000, 5101, 777, 2222, 4000, 1284],
    "traces": [3100, 1750, 2890, 1320, 3900, 610, 2400, 414],
    "2 x 8,192": [8192] * 2,
}
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Documents], torch.Tensor]


def flash4(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """What the plugin calls where FlashAttention 4 is installed."""
    return flash.attend(query, key, value, documents, None)


def cudnn(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """What it calls on a Hopper GPU without it."""
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


def one_by_torch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """What a row of one document goes through without FlashAttention 4: PyTorch's choice."""
    if documents.number > 1:
        raise RuntimeError("one document only")
    rows = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
    return F.scaled_dot_product_attention(*rows, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


class ByFlash3(torch.autograd.Function):  # type: ignore[misc]
    """FlashAttention 3's operators, (tokens, heads, width); a row of one document without offsets."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents
    ) -> torch.Tensor:
        """Attend."""
        several = documents.number > 1
        inputs = [tensor if several else tensor[None] for tensor in (query, key, value)]
        at, longest = (documents.offsets, documents.longest) if several else (None, None)
        lengths = {"cu_seqlens_q": at, "cu_seqlens_k": at, "max_seqlen_q": longest, "max_seqlen_k": longest}
        ctx.more = {"softmax_scale": WIDTH**-0.5, "is_causal": True, **lengths}
        output, statistics, *_ = torch.ops.flash_attn_3.fwd(*inputs, num_splits=1, **ctx.more)
        ctx.save_for_backward(*inputs, output, statistics)
        return output.view(query.shape)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """Gradients of query, key and value."""
        *inputs, output, statistics = ctx.saved_tensors
        grads = dict(zip(("dq", "dk", "dv"), map(torch.empty_like, inputs), strict=True))
        grad = grad.contiguous().view(output.shape)
        torch.ops.flash_attn_3.bwd(grad, *inputs, output, statistics, **grads, **ctx.more)
        return *(each.view(-1, *each.shape[-2:]) for each in grads.values()), None


def flash3(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """FlashAttention 3's."""
    return ByFlash3.apply(query, key, value, documents)  # type: ignore[no-any-return]


def flash3_found() -> bool:
    """Whether they are there, loading what has them."""
    for name in ("flash_attn_3", "flash_attn_3._C", "xformers.flash_attn_3._C"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return hasattr(torch.ops.flash_attn_3, "bwd")


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


def milliseconds(attention: Attention, lengths: list[int], rounds: int = 16) -> dict[str, float]:
    """The first forward and backward, planning and compiling included, and medians of later ones."""
    documents, inputs = documents_of(lengths), draw(sum(lengths))
    grad = torch.randn_like(inputs[0])
    times = []
    for _ in range(rounds):
        begin, between, finished = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        begin.record()
        output = attention(*inputs, documents)
        between.record()
        output.backward(grad)
        finished.record()
        finished.synchronize()
        times.append((begin.elapsed_time(between), between.elapsed_time(finished)))
    forward, backward = zip(*times[rounds // 4 :], strict=True)
    ways = {"forward": statistics.median(forward), "backward": statistics.median(backward)}
    return {name: round(took, 3) for name, took in {"first": sum(times[0]), **ways}.items()}


def apart(attention: Attention, lengths: list[int]) -> list[float]:
    """The largest absolute differences of output and gradients from cuDNN's, in a row as long as a training's."""
    documents, inputs = documents_of(lengths), draw(sum(lengths))
    grad = torch.randn_like(inputs[0])
    found = []
    for way in (attention, cudnn):
        output = way(*inputs, documents)
        found.append([output.detach(), *torch.autograd.grad(output, inputs, grad)])
    return [round(float((a.float() - b.float()).abs().max()), 5) for a, b in zip(*found, strict=True)]


def tried(measure: Callable[[], Any]) -> Any:
    """What was measured, or why it was not."""
    try:
        return measure()
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        return str(error)[:300]


def main() -> int:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--only", nargs="+", help="these ways beside cuDNN's")
    given = parser.parse_args()
    torch.manual_seed(0)
    kernels: dict[str, Attention] = {
        "cudnn": cudnn,
        **({} if flash.trial(HEADS, KV_HEADS, WIDTH, attend_by_torch) else {"flash4": flash4}),
        "one_by_torch": one_by_torch,
        "pytorch": pytorch,
        "repeated": repeated,
        "torch_cudnn": torch_cudnn,
        **({"flash3": flash3} if flash3_found() else {}),
    }
    if missing := set(given.only or ()) - set(kernels):
        parser.error(f"not here: {', '.join(sorted(missing))}; here: {', '.join(kernels)}")
    report: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "errors": {}, "milliseconds": {}, "apart": {}}
    kernels = {name: kernel for name, kernel in kernels.items() if name in ["cudnn", *(given.only or kernels)]}
    for name, kernel in kernels.items():
        lengths = (sum(RAGGED),) if "one" in name else RAGGED
        report["errors"][name] = tried(lambda kernel=kernel, lengths=lengths: errors(kernel, lengths))
        print(f"{name}: relative errors (output, dq, dk, dv): {report['errors'][name]}", flush=True)
    for rows, lengths in ROWS.items():
        for name, kernel in kernels.items():
            if "one" in name and len(lengths) > 1:
                continue
            took = tried(lambda kernel=kernel, lengths=lengths: milliseconds(kernel, lengths))
            most = tried(lambda kernel=kernel, lengths=lengths: apart(kernel, lengths))
            report["milliseconds"][f"{rows} {name}"], report["apart"][f"{rows} {name}"] = took, most
            print(f"{rows} {name}: {took} ms; from cuDNN's at most {most}", flush=True)
            if given.out:
                given.out.write_text(json.dumps(report, indent=1))
    found = [report["errors"][name] for name in ("cudnn", "flash4") if name in kernels]
    return int(any(isinstance(of, str) or not max(of) < MOST_WRONG for of in found))


if __name__ == "__main__":
    sys.exit(main())
