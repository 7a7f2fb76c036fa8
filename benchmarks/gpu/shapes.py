"""What is trained: Qwen3-8B's exact shape without its weights, and rows of tokens in several kinds of documents.

Imported by train_speed.py in the training environment. Downloads nothing: weights are drawn on the GPU
(timing_plugin.py), tokens are random, since the speed depends on neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

SEQUENCE = 16_384
QWEN3_8B = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
TINY = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
SCALE = 256
"""What rehearsals divide lengths by."""
RANK = 64


@dataclass(frozen=True)
class Rows:
    """One kind of training data: how long documents are, how much of each is trained, whether they are packed."""

    shortest: int
    longest: int
    trained: float = 1.0
    """Share of tokens with a label; the others are context."""
    packed: bool = True
    sequence: int = SEQUENCE
    """Tokens of a row."""


ROWS = {
    "16k": Rows(SEQUENCE, SEQUENCE),
    "unpacked": Rows(SEQUENCE, SEQUENCE, packed=False),
    "1k": Rows(1024, 1024),
    "traces": Rows(512, 4096, trained=0.5),
    "4k": Rows(4096, 4096, sequence=4096),
    "8k": Rows(8192, 8192, sequence=8192),
}
"""Full documents; the same without packing, as plain QLoRA gets them; short ones; and such as agents' traces are (the
scripted teacher's `easy` ones: 600 to 3,000 tokens, 47-54 % trained); shorter rows, for smaller GPUs."""


def document_lengths(rows: Rows, total: int, *, scale: int = 1, seed: int = 0) -> list[int]:
    """Lengths of documents with `total` tokens in all, or a few more; `scale` divides them (for rehearsals)."""
    rng = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(int(rng.integers(rows.shortest, rows.longest + 1)) // scale)
    return lengths


def write_documents(path: Path, rows: Rows, *, count: int, tiny: bool) -> list[int]:
    """Write tokenised documents for `count` rows as Parquet; their lengths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    scale = SCALE if tiny else 1
    vocabulary = (TINY if tiny else QWEN3_8B)["vocab_size"]
    lengths = document_lengths(rows, count * rows.sequence // scale, scale=scale)
    rng = np.random.default_rng(1)
    tokens = [rng.integers(3, vocabulary, length) for length in lengths]
    turn = 512 // scale
    labels = [np.where(np.arange(len(ids)) % turn >= turn * (1 - rows.trained), ids, -100) for ids in tokens]
    table = {
        "input_ids": pa.array([ids.tolist() for ids in tokens], pa.list_(pa.int32())),
        "labels": pa.array([ids.tolist() for ids in labels], pa.list_(pa.int64())),
        "attention_mask": pa.array([[1] * length for length in lengths], pa.list_(pa.int8())),
    }
    pq.write_table(pa.table(table), path)
    return lengths


def write_model(folder: Path, *, tiny: bool, layers: int | None = None) -> None:
    """Write config.json, of fewer `layers` if asked, and a tokenizer of a few words; no weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config

    shape = (TINY if tiny else QWEN3_8B) | ({"num_hidden_layers": layers} if layers else {})
    config = Qwen3Config(
        **shape,
        max_position_embeddings=40_960,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=False,
        attention_bias=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    config.architectures = ["Qwen3ForCausalLM"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"w{number}" for number in range(256)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    ).save_pretrained(folder)


def flops_per_token(lengths: list[int], *, trained: float, tiny: bool) -> float:
    """Arithmetic that one token needs without recomputation.

    Frozen weights 4 operations each (forward, and backward to the input), LoRA's 6, causal attention forward and twice
    that backward. The vocabulary projection counts for trained tokens only.
    """
    shape = TINY if tiny else QWEN3_8B
    width, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    frozen = layers * (2 * width * queries + 2 * width * keys + 3 * width * inner)
    lora = layers * RANK * (2 * (width + queries) + 2 * (width + keys) + 3 * (width + inner))
    attention = layers * 2 * queries * sum(length**2 for length in lengths) / sum(lengths)
    return 4.0 * (frozen + trained * width * shape["vocab_size"]) + 6 * lora + 3 * attention
