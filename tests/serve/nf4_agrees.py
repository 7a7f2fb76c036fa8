"""In `.venv-train`: a model in NF4 and the folder made of it give the same logits, the base other ones.

python -I nf4_agrees.py SCRIPT FOLDER
"""

import runpy
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

script, folder = runpy.run_path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
shape = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
}
LlamaForCausalLM(LlamaConfig(**shape, initializer_range=0.3)).to(torch.bfloat16).save_pretrained(folder / "base")
script["convert"](str(folder / "base"), folder / "made")
settings = BitsAndBytesConfig(**script["SETTINGS"])
ids = torch.arange(90)[None]


def logits(name: str, **options: object) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.bfloat16, device_map="cpu", **options)
    with torch.no_grad():
        return model(ids).logits.float()


four_bits, made, base = logits("base", quantization_config=settings), logits("made"), logits("base")
same, other = (four_bits - made).abs().mean(), (four_bits - base).abs().mean()
print(f"mean difference of logits: {same:.4f} to the folder, {other:.4f} to the base")
# Processors with instructions for bfloat16 add up in another order: .057 against 1.136; of a folder of other weights it
# would be as large as the base's.
assert same < other / 10, "the folder is not what training sees"
