"""Small adapters written without torch: safetensors is a header and bytes."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ("model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj")
OUTPUTS, INPUTS = 48, 64
KINDS = {"f8": "F64", "f4": "F32", "f2": "F16", "u2": "BF16", "i4": "I32"}
"""safetensors' names by numpy's; bf16, which numpy has not, is given as its bits."""

Tensors = dict[str, np.ndarray]


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        about = {"dtype": KINDS[tensor.dtype.str[1:]], "shape": tensor.shape}
        header[name] = about | {"data_offsets": (offset, offset + tensor.nbytes)}
        offset += tensor.nbytes
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"".join(tensor.tobytes() for tensor in tensors.values()))


def matrices(rank: int = 16, layers: tuple[str, ...] = LAYERS) -> Tensors:
    """The tensors of an adapter of `LAYERS`, as PEFT names them."""
    found: Tensors = {}
    for layer in layers:
        found[f"base_model.model.{layer}.lora_A.weight"] = np.ones((rank, INPUTS), dtype="f4")
        found[f"base_model.model.{layer}.lora_B.weight"] = np.ones((OUTPUTS, rank), dtype="f4")
    return found


def lora_config(rank: int = 16, **more: Any) -> dict[str, Any]:
    """An `adapter_config.json`."""
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "modules_to_save": None,
    } | more
