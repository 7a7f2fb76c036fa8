"""Turns SmolLM2's GGUF file into an ordinary model folder, in `.venv-train`, started by `keepstate.setup.basemodel`:

    .venv-train/bin/python dequantise.py MODEL.gguf OUTPUT_FOLDER

Writes bfloat16 weights (what the CPU trains and serves fastest in), config, generation config and tokenizer. Fails
when the result does not answer a plain question. Knows this one model: the special tokens are SmolLM2's.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

try:
    from transformers import GgufConfig

    UNPACKED = {"quantization_config": GgufConfig(dequantize=True)}
except ImportError:  # transformers 5.16 always unpacks; 5.20 keeps the file's blocks where it can compute with them
    UNPACKED = {}

SPECIAL_TOKENS = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|im_start|>",
    # read from the GGUF file, transformers 5.16.1 takes <|im_start|> for it; the model ends its turns with <|im_end|>
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
    "model_max_length": 8192,
    "clean_up_tokenization_spaces": False,
}
QUESTION, ANSWER = "What is the capital of France?", "Paris"


def convert(source: Path, output: Path) -> None:
    """Read `source` (GGUF) and write the model folder `output`."""
    origin: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**origin, dtype=torch.bfloat16, **UNPACKED)
    model.config.name_or_path = "smollm2-135m-instruct"
    model.save_pretrained(output)
    tokenizer = AutoTokenizer.from_pretrained(**origin)
    tokenizer.save_pretrained(output)
    (output / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    allowed = 0o666 & ~_umask()  # some of them were written for their owner alone
    for path in output.iterdir():
        path.chmod(allowed)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def check(folder: Path) -> None:
    """Load `folder` as anyone would and let it answer.

    Raises:
        SystemExit: A special token or the answer is wrong.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for token, expected in SPECIAL_TOKENS.items():
        found = tokenizer(token, add_special_tokens=True)["input_ids"]
        if found != [expected]:
            raise SystemExit(f"{token} became {found}, expected [{expected}]")
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    encoded = tokenizer(prompt, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = model.generate(**encoded, max_new_tokens=24, do_sample=False)[0, encoded["input_ids"].shape[1] :]
    text = tokenizer.decode(ids)
    if ANSWER not in text or ids[-1] != SPECIAL_TOKENS["<|im_end|>"] or tokenizer.eos_token_id != ids[-1]:
        raise SystemExit(f"{QUESTION!r} was answered {text!r}")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
    check(Path(sys.argv[2]))
