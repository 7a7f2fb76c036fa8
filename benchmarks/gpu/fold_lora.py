"""LoRA folded into a layer's own product, against the layer alone: milliseconds of a step's linear layers.

    python benchmarks/gpu/fold_lora.py [--out FILE.json]     # torch and triton, a GPU; under a minute
    TRITON_INTERPRET=1 python benchmarks/gpu/fold_lora.py --tiny      # shows that it runs

All linear layers of Qwen3-8B's 36 blocks with weights of their own, three adapters of rank 64, rows that ask for them
and for none in turn (one after the other beyond 256, as prompts), in one CUDA graph, for several numbers of rows.
`base`: the layers alone, by both of NVIDIA's libraries. `wide`: with the adapters' A as further rows. `folded`: with
`keepstate_expand.expand`, by the second library. Results are compared with float32 first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "keepstate" / "serve" / "plugin"))
import keepstate_expand as kernel

RANK, ADAPTERS, BLOCKS = 64, 3, 36
LAYERS = {"qkv": (4096, [4096, 1024, 1024]), "o": (4096, [4096]), "gate_up": (4096, [12288] * 2)}
LAYERS["down"] = (12288, [4096])
ROWS = (1, 4, 16, 64, 128, 256, 576, 2048)
TOLERANCE = 0.01
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # Triton's interpreter multiplies no bf16


class Layer:
    """One linear layer, its adapters' A below its weight."""

    def __init__(self, inputs: int, slices: list[int], rank: int) -> None:
        self.width, self.slices = sum(slices), slices
        rows = self.width + len(slices) * ADAPTERS * rank
        how: dict[str, Any] = {"device": DEVICE, "dtype": DTYPE}
        self.weight = torch.randn(rows, inputs, **how).mul_(inputs**-0.5)
        self.b = torch.randn(ADAPTERS, self.width, rank, **how).mul_(rank**-0.5)

    def error(self, x: torch.Tensor, slots: torch.Tensor) -> float:
        """Largest relative error of `expand`, against float32."""
        outputs = x @ self.weight.t()
        wanted = outputs[:, : self.width].float()
        rank = self.b.shape[-1]
        for row, slot in enumerate(slots.tolist()):
            left = 0
            for number, width in enumerate(self.slices if slot >= 0 else ()):
                begin = self.width + (number * ADAPTERS + slot) * rank
                low = outputs[row, begin : begin + rank].float()
                wanted[row, left : left + width] += self.b[slot, left : left + width].float() @ low
                left += width
        found = kernel.expand(outputs, slots, self.b, self.slices).float()
        return float((found - wanted).abs().max() / wanted.abs().max())


def milliseconds(step: Callable[[], None]) -> float:
    """Of a CUDA graph of `step`, the median of several."""
    if DEVICE == "cpu":
        step()
        return 0.0
    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(15):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[3:])


def measure(blocks: list[dict[str, Layer]], rows: int) -> dict[str, float]:
    """Milliseconds of each way for a step of so many rows."""
    sizes = {layer.weight.shape[1] for layer in blocks[0].values()}
    xs = {size: torch.randn(rows, size, device=DEVICE, dtype=DTYPE) for size in sizes}
    slots = torch.arange(rows, device=DEVICE, dtype=torch.int32) % (ADAPTERS + 1)
    if rows > 256:  # prompts: rows of one adapter follow one another
        slots = slots.sort().values
    slots[slots == ADAPTERS] = -1

    def step(wide: bool, expand: bool) -> Callable[[], None]:
        def run() -> None:
            for block in blocks:
                for layer in block.values():
                    weight = layer.weight if wide else layer.weight[: layer.width]
                    outputs = torch.nn.functional.linear(xs[weight.shape[1]], weight)
                    if expand:
                        kernel.expand(outputs, slots, layer.b, layer.slices)

        return run

    found = {}
    for library in ("cublas", "cublaslt") if DEVICE == "cuda" else ("",):
        if library:
            torch.backends.cuda.preferred_blas_library(library)
        found |= {
            f"base {library}": milliseconds(step(False, False)),
            f"wide {library}": milliseconds(step(True, False)),
        }
    for layer in blocks[0].values():
        if (worst := layer.error(*(value[:64] for value in (xs[layer.weight.shape[1]], slots)))) > TOLERANCE:
            raise SystemExit(f"error: {worst:.4f} with {rows} rows: more than {TOLERANCE}")
    found["folded"] = milliseconds(step(True, True))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="small layers")
    given = parser.parse_args()
    layers, rows, blocks, rank = LAYERS, ROWS, BLOCKS, RANK
    if given.tiny:
        layers = {"qkv": (64, [128, 64, 64]), "down": (96, [64])}
        rows, blocks, rank = (1, 20, 140), 1, 16
    made = [{name: Layer(*shape, rank) for name, shape in layers.items()} for _ in range(blocks)]
    results = {}
    for count in rows:
        results[count] = measure(made, count)
        row = "  ".join(f"{way} {ms:.3f}" for way, ms in results[count].items())
        print(f"{count:5} rows  {row}", flush=True)
    if given.out:
        given.out.write_text(json.dumps({"ms": results, "torch": torch.__version__}, indent=1))


if __name__ == "__main__":
    main()
