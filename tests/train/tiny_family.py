"""Gives folders with a tokenizer a config and random weights, so small that they train in a second: two layers.

    python tests/train/tiny_family.py llama=FOLDER qwen3=FOLDER ...       # in .venv-train

Its heads are of a size that vLLM's CPU kernels have.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 1024}  # fmt: skip


def make(folder: Path, kind: str) -> None:
    """Write `config.json` and `model.safetensors` beside the tokenizer in `folder`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    about = json.loads((folder / "tokenizer_config.json").read_text())
    ids = {f"{name}_token_id": tokenizer.token_to_id(about[f"{name}_token"] or "") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=512, **SIZES, **ids)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    for pair in sys.argv[1:]:
        name, _, place = pair.partition("=")
        make(Path(place), name)
