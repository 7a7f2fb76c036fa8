"""Which GPU and versions this is, and the rate of a large bf16 product: what 100 % of MFU means here.

    .venv-train/bin/python benchmarks/gpu/machine.py FILE       # writes JSON

train_speed.py runs it in a process of its own, whose GPU memory is free again when the variants begin.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "axolotl", "transformers", "peft", "bitsandbytes", "liger-kernel", "triton")
SIZE = 8192
ROUNDS = 20


def machine() -> dict[str, Any]:
    """Names, versions, TFLOP/s (None without a GPU)."""
    gpu = torch.cuda.is_available()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if gpu or name != "triton"}
    about: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
        "gpu": None,
        "matmul_tflops": None,
    }
    if not gpu:
        return about
    left, right = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(ROUNDS):
        begin, finished = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        left @ right
        finished.record()
        finished.synchronize()
        times.append(begin.elapsed_time(finished))
    properties = torch.cuda.get_device_properties(0)
    return about | {
        "gpu": properties.name,
        "gib": properties.total_memory / 2**30,
        "cudnn": torch.backends.cudnn.version(),
        "matmul_tflops": 2 * SIZE**3 / min(times[5:]) / 1e9,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(machine(), indent=1))
