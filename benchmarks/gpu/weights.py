"""Qwen3-8B's weights and an adapter's first factors, drawn at random: the same for every program that is measured.

    .venv-train/bin/python benchmarks/gpu/weights.py FOLDER      # model files beside FOLDER's config.json: 16 GiB

Without a GPU they are drawn on the CPU, and are other ones.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHARD = 48
"""Tensors of one file, some four layers: its copy in main memory stays at 2 GiB."""


def random_weights(config: Any) -> dict[str, torch.Tensor]:
    """Weights of `config`'s model in bf16 on the device: normal, standard deviation .02; norms 1."""
    from transformers import Qwen3ForCausalLM

    with torch.device("meta"):
        shapes = Qwen3ForCausalLM(config).state_dict()
    generator = torch.Generator(device=DEVICE).manual_seed(0)
    weights = {}
    for name, like in shapes.items():
        made = torch.ones(like.shape, dtype=torch.bfloat16, device=DEVICE)
        weights[name] = made if "norm" in name else made.normal_(0, 0.02, generator=generator)
    return weights


def draw_factors(parameters: Iterable[tuple[str, torch.nn.Parameter]], b: float = 0.0) -> None:
    """Draw LoRA's A as PEFT does (uniform, by its inputs) and B with a standard deviation of `b`, in order of names."""
    generator = torch.Generator(device=DEVICE).manual_seed(1)
    for name, parameter in sorted(parameters, key=lambda pair: pair[0]):
        if "lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            parameter.data.uniform_(-bound, bound, generator=generator)
        elif "lora_B" in name:
            parameter.data.normal_(0, b, generator=generator)


def write_weights(folder: Path) -> None:
    """Write safetensors files and their index, as a model hub has them."""
    from safetensors.torch import save_file
    from transformers import AutoConfig

    weights = random_weights(AutoConfig.from_pretrained(folder))
    names = list(weights)
    shards = [names[start : start + SHARD] for start in range(0, len(names), SHARD)]
    index = {}
    with ThreadPoolExecutor(4) as pool:
        written = []
        for number, shard in enumerate(shards):
            file = f"model-{number:05d}.safetensors"
            index |= dict.fromkeys(shard, file)
            tensors = {name: weights.pop(name).cpu() for name in shard}
            written.append(pool.submit(save_file, tensors, folder / file, {"format": "pt"}))
    for future in written:
        future.result()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


if __name__ == "__main__":
    write_weights(Path(sys.argv[1]))
