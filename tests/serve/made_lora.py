"""Small adapters written without torch: safetensors is a header and bytes."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keepstate.dataset import load_template
from keepstate.files import write_json
from keepstate.train.result import DONE, WEIGHTS, TrainedAdapter
from keepstate.vocabulary import RuntimeName

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


def write_model(folder: Path) -> Path:
    """A folder that looks like a model with 4,096 positions and two layers, beside what is in it; returns it."""
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", {"max_position_embeddings": 4096})
    layers = {f"{layer}.weight": np.ones((OUTPUTS, INPUTS), dtype="f4") for layer in LAYERS}
    write_tensors(folder / "model.safetensors", layers)
    return folder


def write_adapter(folder: Path, base: Path, runtime: str, *, template: str = "chatml", rank: int = 16) -> Path:
    """What a training of `base` leaves in `folder`; returns it."""
    folder.mkdir(parents=True)
    write_tensors(folder / WEIGHTS, matrices(rank))
    write_json(folder / "adapter_config.json", lora_config(rank))
    done = TrainedAdapter(
        key="0",
        runtime=RuntimeName(runtime),
        base_model=str(base),
        data_sha256="0",
        template_sha256=load_template(template).sha256,
        steps=1,
        first_loss=1.0,
        final_loss=0.5,
        seconds=1.0,
        tokens=9,
        peak_gib=0.0,
    )
    write_json(folder / DONE, done.model_dump(mode="json"))
    return folder
