"""What a server's step consists of: the GPU's kernels in traces of `serving.py --profile`, by kind.

    python benchmarks/gpu/step_kernels.py TRACE.json.gz ... [--layers 36] [--all]

A row a kind: launches and microseconds a step, and the trace's share of the time in which no kernel ran. A step has one
attention kernel a layer, by which steps are counted, so a trace that also reads prompts says little. With --all every
kernel by its name.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KINDS = {
    "norms, rotation, activation": r"^triton_|rms_norm|rotary|silu|act_and_mul",
    "cache writing": r"reshape_and_cache",
    "LoRA": r"_lora_(shrink|expand)|^_expand$",
    "attention": r"flash|attn|attention",
    "products": r"gemm|nvjet|cutlass|cublas|splitk",
    "sampling": r"sampl|gumbel|topk|top_k|argmax|softmax|penalt|logprob",
    "filling with zeros": r"fill|memset",
}
"""A kernel's kind is the first whose pattern its name holds."""
OTHER = "other"
ATTENTION = re.compile(r"FlashAttnFwd(?!Combine)|flash_fwd_(?!splitkv_combine)|unified_attention")
"""The kernel that a layer runs once a step."""


def kind_of(name: str) -> str:
    """Of a kernel."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), OTHER)


def kernels(trace: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Name, begin and length in microseconds of what ran on the GPU, copies among it."""
    found = [event for event in trace["traceEvents"] if event.get("cat") in ("kernel", "gpu_memset", "gpu_memcpy")]
    return sorted(((e["name"], float(e["ts"]), float(e["dur"])) for e in found), key=lambda kernel: kernel[1])


def gaps(found: Iterable[tuple[str, float, float]]) -> list[tuple[float, str, str]]:
    """Microseconds in which nothing ran between the first and the last of `found`, and what ran before and after.

    Args:
        found: As from `kernels`, by their begin.
    """
    between: list[tuple[float, str, str]] = []
    last, end = "", math.inf
    for name, begin, length in found:
        if begin > end:
            between.append((begin - end, last, name))
        if not last or begin + length > end:
            last, end = name, begin + length
    return between


def table(found: list[tuple[str, float, float]], layers: int, *, every: bool = False) -> list[tuple[str, float, float]]:
    """Kind, launches and microseconds a step, the longest first; then what was idle, and all.

    Raises:
        ValueError: No step has an attention kernel.
    """
    steps = sum(bool(ATTENTION.search(name)) for name, *_ in found) / layers
    if not steps:
        raise ValueError("no kernel of attention in it")
    launches, lengths = Counter[str](), Counter[str]()
    for name, _, length in found:
        kind = name[:100] if every else kind_of(name)
        launches[kind] += 1
        lengths[kind] += length  # type: ignore[assignment]
    rows = [(kind, launches[kind] / steps, length / steps) for kind, length in lengths.most_common()]
    whole = found[-1][1] + found[-1][2] - found[0][1]
    idle = sum(length for length, *_ in gaps(found))
    return [*rows, ("idle", 0.0, idle / steps), (f"all of {steps:.1f} steps", len(found) / steps, whole / steps)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path, nargs="+")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--all", action="store_true", help="a row a kernel")
    given = parser.parse_args()
    for path in given.traces:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            found = kernels(json.load(file))
        print(f"\n{path.name}\n| kind | launches a step | us a step |\n|---|---|---|")
        for kind, launches, length in table(found, given.layers, every=given.all):
            print(f"| {kind} | {launches:.1f} | {length:.1f} |")


if __name__ == "__main__":
    main()
