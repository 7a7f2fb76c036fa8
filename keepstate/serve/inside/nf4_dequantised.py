"""Writes the weights that training on NF4 sees, in `.venv-train`, started by `keepstate.serve.nf4`:

    .venv-train/bin/python nf4_dequantised.py BASE OUTPUT_FOLDER

BASE is a model folder or a hub's name. Every linear layer that Axolotl's `qlora` with `load_in_4bit` quantises goes to
NF4 and back by bitsandbytes, with its settings (blocks of 64, scales quantised again), and is written in bfloat16, as
the layer multiplies with it; all else is copied. On a GPU where there is one, as training does.
"""

import os
import shutil
import sys
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

SETTINGS = {
    "load_in_4bit": True,
    "bnb_4bit_compute_dtype": torch.bfloat16,
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_quant_storage": torch.bfloat16,
}
"""As Axolotl 0.19 sets them (`axolotl/loaders/model.py`)."""


def convert(base: str, output: Path) -> None:
    """Write the model folder `output`.

    Raises:
        SystemExit: Nothing of it was quantised, or a layer has no weights of its own in the base's files.
    """
    source = _folder(base)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(**SETTINGS),
        device_map="cuda:0" if torch.cuda.is_available() else "cpu",
    )
    layers = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    if not layers:
        raise SystemExit(f"{base} has no linear layer that NF4 is made for")
    output.mkdir(parents=True)
    left = set(layers)
    for path in sorted(source.iterdir()):
        if path.suffix != ".safetensors":
            if path.is_file():
                shutil.copyfile(path, output / path.name)
            continue
        tensors = load_file(path)
        for name in left & tensors.keys():
            weight = layers[name].weight
            tensors[name] = dequantize_4bit(weight.data, weight.quant_state).to("cpu", torch.bfloat16).contiguous()
        left -= tensors.keys()
        save_file(tensors, output / path.name, metadata={"format": "pt"})
        (output / path.name).chmod((output / "config.json").stat().st_mode)  # it was written for its owner alone
    if left:
        raise SystemExit(f"not in the files of {base}: {', '.join(sorted(left)[:3])}")
    print(f"{len(layers)} layers of {base} went to NF4 and back")


def _folder(base: str) -> Path:
    if os.path.isdir(base):
        return Path(base)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base, allow_patterns=["*.safetensors", "*.json", "*.txt", "*.jinja"]))


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]))
