"""Tokenizers as families of base models have them: real special tokens and ways of splitting, a small vocabulary.

make_tokenizer("llama3", folder)      # tokenizer.json, tokenizer_config.json, config.json
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen, Llama 3 and Mistral's newer tokenizers split words (Llama 3 takes up to three digits, which changes nothing
here)."""
TEXT = [
    'Take the item, then print(list_items()) and look: \'it\', {"output": "[1, 2]"}\n\n    x = 1\n' * 4,
    "user model\n" * 9,
]


@dataclass(frozen=True)
class Family:
    """Special tokens by id from 0, and what transformers calls some of them."""

    specials: Sequence[str]
    bos: str | None
    eos: str
    template: str
    """The built-in chat template that fits."""
    end_of_turn: str
    sentencepiece: str = ""
    """Instead of byte-level BPE: `plain` as Gemma's, `first` and `every` as Mistral's newer and older files."""
    text_tokens: Sequence[str] = ()
    """Added tokens that are not special."""


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MISTRAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
FAMILIES = {
    "chatml": Family(CHATML, "<|im_start|>", "<|im_end|>", "chatml", "<|im_end|>"),
    "qwen2.5": Family(CHATML, None, "<|im_end|>", "chatml", "<|im_end|>", text_tokens=["<tool_call>", "</tool_call>"]),
    "qwen3": Family(CHATML, None, "<|im_end|>", "qwen3_nothink", "<|im_end|>", text_tokens=["<think>", "</think>"]),
    "llama3": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|eot_id|>", "llama3", "<|eot_id|>",
    ),
    "gemma": Family(
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>", "<eos>", "gemma", "<end_of_turn>", "plain",
        ["\n", "\n\n", "\n\n\n", "\t", "<b>", "</b>", "<table>", "<code>", "<mask>"],
    ),
    "mistral": Family(MISTRAL, "<s>", "</s>", "mistral", "</s>", "first"),
    "mistral, older file": Family(MISTRAL, "<s>", "</s>", "mistral", "</s>", "every"),
    "mistral, newer": Family(
        (*MISTRAL, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), "<s>", "</s>", "mistral_v7", "</s>",
    ),
}  # fmt: skip


def make_tokenizer(name: str, folder: Path) -> Path:
    """Write the tokenizer of a family into `folder` and return it."""
    family = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if family.sentencepiece else None, fuse_unk=False))
    alphabet: list[str] = []
    if family.sentencepiece:
        _sentencepiece(tokenizer, family.sentencepiece)
    else:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(family.specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXT, "".join(map(chr, range(32, 127)))], trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in family.text_tokens])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"bos_token": family.bos, "eos_token": family.eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    about["pad_token"] = family.specials[0]
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))  # Axolotl reads one; no weights
    return folder


def _sentencepiece(tokenizer: Tokenizer, kind: str) -> None:
    """Spaces as ▁, no words: merges may cross them."""
    marked = normalizers.Replace(" ", "\u2581")
    if kind == "plain":
        tokenizer.normalizer = marked
    elif kind == "every":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), marked])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Replace("\u2581", " ")
