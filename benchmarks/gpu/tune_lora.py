"""Which Triton configurations make vLLM's LoRA kernels fastest on this GPU: tries them, writes what vLLM reads.

    .venv-serve/bin/python benchmarks/gpu/tune_lora.py --out keepstate/serve/lora_kernels     # some minutes on an H200

vLLM takes them from the folder that VLLM_TUNED_CONFIG_FOLDER names, by the name of the GPU; `keepstate serve` names the
folder above where a file for the card lies in it and base and rank are those below: Qwen3-8B's layers, rank 64.

For each kernel and layer a descent, one parameter after the other, at a few numbers of rows; each time is that of a
CUDA graph over so many layers' matrices that none is found in the cache. What came out is then timed at all numbers of
rows, and three are chosen that together lose least: each one more is compiled at a server's first start. Their results
are compared with products in float32, and they are timed again in turn with vLLM's own, which stay where they are
faster. Needs vLLM's environment and a GPU that nothing else uses.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else the processes below would be forked from one that CUDA knows
os.environ.pop("VLLM_TUNED_CONFIG_FOLDER", None)  # the reference are vLLM's own

import torch
from vllm.lora.ops.triton_ops import LoRAKernelMeta, lora_expand_op, lora_shrink_op
from vllm.lora.ops.triton_ops.utils import get_lora_op_configs

RANK = 64
LAYERS = {"qkv": (4096, (4096, 1024, 1024)), "o": (4096, (4096,)), "gate_up": (4096, (12288,) * 2)}
LAYERS["down"] = (12288, (4096,))
"""Inputs and outputs of Qwen3-8B's linear layers, as vLLM joins them."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192)
"""Tokens of a step; vLLM takes the nearest."""
ADAPTERS = (1, 3)
SEARCHED = (1, 8, 64, 512)
"""Those at which configurations are searched for."""
FEW = 3
"""Configurations of one kernel on one layer."""
CACHE_BYTES = 100e6
"""More than the GPU's L2 holds."""
TOLERANCE = 0.01
"""Largest relative error: bf16 factors leave .002 to .004."""
SPACE: dict[str, dict[str, tuple[int, ...]]] = {
    "shrink": {
        "split_k": (1, 2, 4, 8, 16, 32, 64),
        "block_k": (32, 64, 128, 256, 512),
        "block_n": (16, 32, 64),
        "block_m": (16, 32, 64, 128),
        "num_warps": (2, 4, 8),
        "num_stages": (2, 3, 4, 5),
    },
    "expand": {
        "block_n": (32, 64, 128, 256),
        "block_k": (16, 32, 64),
        "block_m": (16, 32, 64, 128),
        "num_warps": (2, 4, 8),
        "num_stages": (1, 2, 3, 4),
    },
}
FIXED = {"num_ctas": 1, "group_size_m": 8, "max_nreg": None}
Config = dict[str, "int | None"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Kernel:
    """One kernel on one linear layer, with so many adapters loaded and so many rows."""

    def __init__(self, kind: str, layer: str, adapters: int, rows: int) -> None:
        self.kind, (inputs, outputs) = kind, LAYERS[layer]
        self.slices, self.rows = len(outputs), rows
        torch.manual_seed(rows)
        sizes = [(RANK, inputs)] * self.slices if kind == "shrink" else [(out, RANK) for out in outputs]
        total = sum(a * b for a, b in sizes) * adapters * 2
        copies = max(2, min(32, round(CACHE_BYTES / total))) if rows < 1024 and DEVICE == "cuda" else 2
        self.weights = [[draw(adapters, 1, *size) for size in sizes] for _ in range(copies)]
        self.x = draw(rows, inputs) if kind == "shrink" else draw(self.slices, rows, RANK).float()
        columns = self.slices * RANK if kind == "shrink" else sum(outputs)
        self.y = draw(rows, columns) if kind == "expand" else torch.empty(self.slices, rows, RANK, device=DEVICE)
        # The base's rows among the adapters', but all of the adapters where that leaves only one.
        turn = torch.arange(rows) % (adapters + 1 if adapters > 1 and rows >= 4 else adapters)
        self.slots = turn - 1 if adapters > 1 and rows >= 4 else turn
        meta = LoRAKernelMeta.make(adapters, rows, DEVICE)
        meta.prepare_tensors(self.slots.to(DEVICE))
        self.meta = meta.meta_args(rows, False)
        self.key = (str(self.slices), str(rows), *self._sizes(inputs, outputs))
        self.default = self._default(adapters + 1, inputs, outputs)

    def _sizes(self, inputs: int, outputs: tuple[int, ...]) -> tuple[str, str]:
        return (str(inputs), str(RANK)) if self.kind == "shrink" else (str(RANK), str(max(outputs)))

    def _default(self, slots: int, inputs: int, outputs: tuple[int, ...]) -> Config:
        size = inputs if self.kind == "shrink" else max(outputs)
        add = None if self.kind == "shrink" else True
        return dict(get_lora_op_configs(self.kind, slots, self.rows, size, RANK, self.slices, add))

    def run(self, config: Config, weights: list[torch.Tensor]) -> None:
        """Once, with the matrices of one layer."""
        module = lora_shrink_op if self.kind == "shrink" else lora_expand_op
        module.get_lora_op_configs = lambda *_, **__: config
        if self.kind == "shrink":
            lora_shrink_op._lora_shrink(self.x, weights, self.y, *self.meta, 1.0)
        else:
            lora_expand_op._lora_expand(self.x, weights, self.y, *self.meta, 0, True)

    def error(self, config: Config) -> float:
        """Largest relative error of a slice against float32."""
        self.y = draw(*self.y.shape) if self.kind == "expand" else self.y.fill_(float("nan"))
        before = self.y.clone()
        self.run(config, self.weights[0])
        errors, left, own = [], 0, (self.slots >= 0).to(DEVICE)
        for number, matrix in enumerate(self.weights[0]):
            x = self.x if self.kind == "shrink" else self.x[number].bfloat16()
            each = torch.zeros(self.rows, matrix.shape[2], device=DEVICE)
            for slot in range(len(matrix)):
                mine = self.slots.to(DEVICE) == slot
                each[mine] = x[mine].float() @ matrix[slot, 0].float().t()
            got = self.y[number] if self.kind == "shrink" else self.y[:, left : left + matrix.shape[2]].float()
            if self.kind == "expand":
                each += before[:, left : left + matrix.shape[2]].float()
                left += matrix.shape[2]
            else:
                each, got = each[own], got[own]
            errors.append(float((got - each).norm() / each.norm()))
        return float("inf") if any(map(math.isnan, errors)) else max(errors)


def draw(*size: int) -> torch.Tensor:
    """Normal numbers in bf16."""
    return torch.randn(*size, device=DEVICE, dtype=torch.bfloat16) / 8


def microseconds(kernel: Kernel, config: Config, rounds: int = 5) -> float:
    """Of one launch, the median of some; infinite where the GPU cannot run it."""
    try:
        kernel.run(config, kernel.weights[0])
    except Exception as error:  # a block that no multiprocessor has room for, of several libraries' classes
        print(f"{kernel.kind} {config}: {type(error).__name__}", file=sys.stderr)
        return float("inf")
    if DEVICE == "cpu":
        return 1.0 + sum(value or 0 for value in config.values()) / 1e3  # a rehearsal
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weights in kernel.weights:
            kernel.run(config, weights)
    times = []
    with LOCK:
        for _ in range(rounds + 1):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(1000 * begin.elapsed_time(end) / len(kernel.weights))
    return statistics.median(times[1:])


def descend(kernel: Kernel, start: Config, time_of: Callable[[Config], float]) -> Config:
    """The best configuration that changes of one parameter at a time lead to."""
    known: dict[str, float] = {}

    def seconds(config: Config) -> float:
        name = json.dumps(config)
        if name not in known:
            known[name] = time_of(config)
        return known[name]

    best, moved = start, True
    while moved:
        moved = False
        for name, values in SPACE[kernel.kind].items():
            tried = min(({**best, name: value} for value in values), key=seconds)
            if seconds(tried) < 0.99 * seconds(best):
                best, moved = tried, True
    return best


def few(times: dict[int, list[float]]) -> tuple[int, ...]:
    """Numbers of the configurations of which the best at each number of rows loses least; `times` by rows."""
    numbers = range(len(next(iter(times.values()))))

    def cost(chosen: tuple[int, ...]) -> float:
        return sum(math.log(min(row[number] for number in chosen)) for row in times.values())

    return min(itertools.combinations(numbers, min(FEW, len(numbers))), key=cost)


def searched(kind: str, layer: str, adapters: int) -> list[Config]:
    """What to choose from: the ends of descents, or those of an earlier report."""
    found = [each["config"] for each in EARLIER if (each["kernel"], each["layer"]) == (kind, layer)]
    for rows in () if EARLIER else SEARCHED:
        kernel = Kernel(kind, layer, adapters, rows)
        for seed in (FIXED | kernel.default, *found[-1:]):
            found.append(descend(kernel, seed, lambda each, on=kernel: microseconds(on, each)))
    return found


def tune(task: tuple[str, str, int]) -> list[dict[str, Any]]:
    """One kernel on one layer beside so many adapters, at all numbers of rows."""
    kind, layer, adapters = task
    kernels = {rows: Kernel(kind, layer, adapters, rows) for rows in given.rows}
    own = [FIXED | kernel.default for kernel in kernels.values()]
    candidates = [json.loads(each) for each in {json.dumps(config) for config in own + searched(*task)}]
    times = {rows: [microseconds(kernel, each) for each in candidates] for rows, kernel in kernels.items()}
    chosen, found = few(times), []
    for rows, kernel in kernels.items():
        default = FIXED | kernel.default
        config = candidates[min(chosen, key=times[rows].__getitem__)]
        error = kernel.error(config)
        if not error < TOLERANCE:
            raise ValueError(f"{task}, {rows} rows: {config} is off by {error}")
        turns = [[microseconds(kernel, each, 15) for each in (default, config)] for _ in range(3)]
        before, after = (statistics.median(column) for column in zip(*turns, strict=True))
        if after >= before:
            config, after = default, before
        found.append({"kernel": kind, "layer": layer, "adapters": adapters, "rows": rows, "key": kernel.key})
        found[-1] |= {"default_us": round(before, 2), "tuned_us": round(after, 2), "error": error, "config": config}
    return found


def write(folder: Path, found: list[dict[str, Any]]) -> None:
    """The files as vLLM reads them: by slots, slices, rows, inputs, outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    card = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    for kind, ending in (("shrink", "SHRINK"), ("expand", "EXPAND_TRUE")):
        tree: dict[str, Any] = {}
        for each in found:
            if each["kernel"] == kind:
                place = tree
                for name in (str(each["adapters"] + 1), *each["key"][:-1]):
                    place = place.setdefault(name, {})
                place[each["key"][-1]] = each["config"]
        name = f"{card}_{ending}".replace(" ", "_").replace("-", "_")
        (folder / f"{name}.json").write_text(json.dumps(tree, separators=(",", ":")) + "\n")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, required=True, help="folder of the files")
parser.add_argument("--report", type=Path, help="a JSON line for each: microseconds with vLLM's own and with the best")
parser.add_argument("--earlier", type=Path, help="a report whose configurations are chosen from, instead of a search")
parser.add_argument("--adapters", type=int, nargs="+", default=ADAPTERS)
parser.add_argument("--rows", type=int, nargs="+", default=ROWS)

if __name__ == "__main__":
    given = parser.parse_args()
    EARLIER = [json.loads(line) for line in given.earlier.read_text().splitlines()] if given.earlier else []
    LOCK = multiprocessing.get_context("fork").Lock()
    gc.freeze()  # torch collects garbage before it captures a graph
    began, results = time.monotonic(), []
    tasks = [(kind, layer, adapters) for adapters in given.adapters for kind in SPACE for layer in LAYERS]
    tasks = [task for task in tasks if task[:2] != ("expand", "down")]  # o's has its sizes
    with multiprocessing.get_context("fork").Pool(len(tasks)) as pool:
        for each in pool.imap_unordered(tune, tasks):
            results += each
            if given.report:
                with given.report.open("a") as file:
                    file.writelines(json.dumps(line) + "\n" for line in each)
    write(given.out, results)
    print(f"{len(results)} tuned in {time.monotonic() - began:.0f} s")
