"""A base model's shape: from its `config.json` or, of a hub's model that is not here, its name; what follows from it.

    shape = read_shape("models/smollm2-135m-instruct")      # a folder or a hub's name; None where nothing tells
    shape.parameters, shape.cache_bytes

Pure arithmetic: loads no weights and asks no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keepstate.model_files import model_folder, read_object

BF16 = 2
"""Bytes of a number."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a block in Llama's, Mistral's, Qwen's and Gemma's families, which a LoRA changes."""
FAMILIES = frozenset({
    "llama", "mistral", "mistral3", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text",
    "smollm3",
})  # fmt: skip
"""Values of `model_type` whose blocks are made of `PROJECTIONS`."""
MOST = 10**9
"""No model is so wide, deep or wordy."""
OTHER_PARTS = ("n_routed_experts", "shared_expert_intermediate_size", "kv_lora_rank", "attn_layer_period",
               "mamba_d_state", "ssm_cfg", "state_size", "linear_num_key_heads", "conv_L_cache")  # fmt: skip
"""Keys of configs whose blocks are made otherwise, by which a figure would be wrong up to 17-fold (DeepSeek-V3)."""
UNGATED = frozenset({
    "bert", "bloom", "codegen", "falcon", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "nemotron", "opt", "phi",
    "roberta", "starcoder2",
})  # fmt: skip
"""Values of `model_type` whose blocks have two matrices where `PROJECTIONS` has gate, up and down."""
TIED = ("gemma",)
"""Beginnings of `model_type`s whose class ties embeddings where the config does not say."""
GEMMA3_TEXT = {
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208,
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
}  # fmt: skip
"""What transformers' Gemma 3 config leaves out of the file where it is so."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a transformer of identical blocks."""

    kind: str
    """transformers' `model_type`."""
    layers: int
    hidden: int
    intermediate: int
    """Of one expert, where there are several."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the last layer is the embedding."""
    positions: int | None = None
    """The longest context; None where it is not told."""
    experts: int = 1
    active: int = 1
    """Experts that a token goes through."""

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every linear layer of a block, by name."""
        queries, keys, width, inner = (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.hidden,
            self.intermediate,
        )
        ins_and_outs = ((width, queries), (width, keys), (width, keys), (queries, width))
        return dict(zip(PROJECTIONS, (*ins_and_outs, (width, inner), (width, inner), (inner, width)), strict=True))

    @property
    def block_parameters(self) -> int:
        """Of all blocks' linear layers: what four bits are for."""
        return self.layers * self._linear(self.experts)

    @property
    def active_parameters(self) -> int:
        """Of the linear layers that one token goes through, the last one (the vocabulary's) apart."""
        return self.layers * self._linear(self.active)

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding and the last layer, which stay in bf16."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All but the norms (.004 % of Qwen3-8B)."""
        return self.block_parameters + self.embedding_parameters

    @property
    def weight_bytes(self) -> int:
        """Of the weights in bf16, on disk or in memory."""
        return BF16 * self.parameters

    @property
    def cache_bytes(self) -> int:
        """Of the key-value cache in bf16, for one token."""
        return BF16 * 2 * self.layers * self.kv_heads * self.head_dim

    def lora_parameters(self, rank: int, targets: Iterable[str] | None = None) -> int:
        """Of an adapter.

        Args:
            rank: Of its matrices.
            targets: Names of the layers that it changes; None: all. Others than `PROJECTIONS` count for nothing.
        """
        chosen = self.sizes if targets is None else {name: self.sizes[name] for name in targets if name in self.sizes}
        return self.layers * rank * sum(map(sum, chosen.values()))

    def is_as_large_as(self, other: ModelShape | None) -> bool:
        """Whether another model has the same sizes, whatever its longest context: as a copy of it has."""
        return other is not None and replace(self, positions=None) == replace(other, positions=None)

    def words(self) -> str:
        """For people: `8.2B parameters`."""
        count = self.parameters
        size = f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.0f}M"
        return f"{size} parameters, {self.layers} layers of {self.hidden}"

    def _linear(self, experts: int) -> int:
        attention = sum(a * b for name, (a, b) in self.sizes.items() if name in PROJECTIONS[:4])
        return attention + experts * 3 * self.hidden * self.intermediate


def read_shape(model: str | Path) -> ModelShape | None:
    """The shape of a model: its folder's, that of a hub's model fetched before, or what its name tells; else None."""
    folder = model_folder(str(model))
    return shape_of(read_object(folder / "config.json")) if folder else shape_by_name(str(model))


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a `config.json` tells; None where it is of another kind of model. Of several parts, the text's."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {
            "tie_word_embeddings": config.get("tie_word_embeddings"),
            "model_type": config.get("model_type"),
        } | text
    kind = str(config.get("model_type", ""))
    if kind in UNGATED or any(config.get(key) for key in OTHER_PARTS):
        return None
    if kind.startswith("gemma3"):
        config = {**GEMMA3_TEXT, **config}
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        experts = int(config.get("num_local_experts") or config.get("num_experts") or 1)
        tied = config.get("tie_word_embeddings")
        shape = ModelShape(
            kind=kind,
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(
                (config.get("moe_intermediate_size") if experts > 1 else None) or config["intermediate_size"]
            ),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=tied if isinstance(tied, bool) else kind.startswith(TIED),
            positions=int(config["max_position_embeddings"]) if config.get("max_position_embeddings") else None,
            experts=experts,
            active=int(config.get("num_experts_per_tok") or 1),
        )
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    sizes = (shape.layers, shape.hidden, shape.intermediate, shape.heads, shape.kv_heads, shape.head_dim)
    return shape if all(0 < size < MOST for size in (*sizes, shape.vocabulary, shape.experts, shape.active)) else None


_QWEN3, _QWEN2, _LLAMA, _MISTRAL, _GEMMA2, _GEMMA3 = "qwen3", "qwen2", "llama", "mistral", "gemma2", "gemma3_text"
KNOWN: dict[str, ModelShape] = {
    "qwen3-0.6b": ModelShape(_QWEN3, 28, 1024, 3072, 16, 8, 128, 151_936, True),
    "qwen3-1.7b": ModelShape(_QWEN3, 28, 2048, 6144, 16, 8, 128, 151_936, True),
    "qwen3-4b": ModelShape(_QWEN3, 36, 2560, 9728, 32, 8, 128, 151_936, True),
    "qwen3-8b": ModelShape(_QWEN3, 36, 4096, 12_288, 32, 8, 128, 151_936, False),
    "qwen3-14b": ModelShape(_QWEN3, 40, 5120, 17_408, 40, 8, 128, 151_936, False),
    "qwen3-32b": ModelShape(_QWEN3, 64, 5120, 25_600, 64, 8, 128, 151_936, False),
    "qwen2.5-0.5b": ModelShape(_QWEN2, 24, 896, 4864, 14, 2, 64, 151_936, True),
    "qwen2.5-1.5b": ModelShape(_QWEN2, 28, 1536, 8960, 12, 2, 128, 151_936, True),
    "qwen2.5-3b": ModelShape(_QWEN2, 36, 2048, 11_008, 16, 2, 128, 151_936, True),
    "qwen2.5-7b": ModelShape(_QWEN2, 28, 3584, 18_944, 28, 4, 128, 152_064, False),
    "qwen2.5-14b": ModelShape(_QWEN2, 48, 5120, 13_824, 40, 8, 128, 152_064, False),
    "qwen2.5-32b": ModelShape(_QWEN2, 64, 5120, 27_648, 40, 8, 128, 152_064, False),
    "qwen2.5-72b": ModelShape(_QWEN2, 80, 8192, 29_568, 64, 8, 128, 152_064, False),
    "llama-3.2-1b": ModelShape(_LLAMA, 16, 2048, 8192, 32, 8, 64, 128_256, True),
    "llama-3.2-3b": ModelShape(_LLAMA, 28, 3072, 8192, 24, 8, 128, 128_256, True),
    "llama-3.1-8b": ModelShape(_LLAMA, 32, 4096, 14_336, 32, 8, 128, 128_256, False),
    "llama-3-8b": ModelShape(_LLAMA, 32, 4096, 14_336, 32, 8, 128, 128_256, False),
    "llama-3.1-70b": ModelShape(_LLAMA, 80, 8192, 28_672, 64, 8, 128, 128_256, False),
    "llama-3.3-70b": ModelShape(_LLAMA, 80, 8192, 28_672, 64, 8, 128, 128_256, False),
    "mistral-7b": ModelShape(_MISTRAL, 32, 4096, 14_336, 32, 8, 128, 32_768, False),
    "mistral-nemo": ModelShape(_MISTRAL, 40, 5120, 14_336, 32, 8, 128, 131_072, False),
    "mistral-small-24b": ModelShape(_MISTRAL, 40, 5120, 32_768, 32, 8, 128, 131_072, False),
    "gemma-2-2b": ModelShape(_GEMMA2, 26, 2304, 9216, 8, 4, 256, 256_000, True),
    "gemma-2-9b": ModelShape(_GEMMA2, 42, 3584, 14_336, 16, 8, 256, 256_000, True),
    "gemma-2-27b": ModelShape(_GEMMA2, 46, 4608, 36_864, 32, 16, 128, 256_000, True),
    "gemma-3-270m": ModelShape(_GEMMA3, 18, 640, 2048, 4, 1, 256, 262_144, True),
    "gemma-3-1b": ModelShape(_GEMMA3, 26, 1152, 6912, 4, 1, 256, 262_144, True),
    "gemma-3-4b": ModelShape(_GEMMA3, 34, 2560, 10_240, 8, 4, 256, 262_208, True),
    "gemma-3-12b": ModelShape(_GEMMA3, 48, 3840, 15_360, 16, 8, 256, 262_208, True),
    "gemma-3-27b": ModelShape(_GEMMA3, 62, 5376, 21_504, 32, 16, 128, 262_208, True),
    "smollm2-135m": ModelShape(_LLAMA, 30, 576, 1536, 9, 3, 64, 49_152, True),
    "smollm2-360m": ModelShape(_LLAMA, 32, 960, 2560, 15, 5, 64, 49_152, True),
    "smollm2-1.7b": ModelShape(_LLAMA, 24, 2048, 8192, 32, 32, 64, 49_152, True),
}
"""Published sizes, for models that are not fetched yet."""


def shape_by_name(model: str) -> ModelShape | None:
    """What the name of a hub's model tells; None where it is no known one, as of a mixture of experts."""
    name = model.lower().rpartition("/")[2]
    found = (key for key in KNOWN if re.search(rf"(?:^|[^a-z0-9.]){re.escape(key)}(?![a-z0-9.])", name))
    return KNOWN[key] if (key := max(found, key=len, default=None)) else None
