"""A training's base model: its shape, the template and layers that fit it, what it needs changed in a config.

Decides by the model's own files, or by its name where it is a hub's that is not here. Loads no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstate.dataset.fitting import template_of
from keepstate.dataset.sample import end_of_turn
from keepstate.dataset.templates import FOLDER, ChatTemplate, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.model_files import absolute_model, model_folder, read_object, special_tokens
from keepstate.model_shape import FAMILIES, PROJECTIONS, ModelShape, read_shape

OTHER_LAYERS: dict[str, tuple[str, ...]] = {"phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")}
"""Linear layers of kinds that name them otherwise."""
FUSED_ATTENTION = frozenset({"qwen3"})
"""Kinds that the configs' `fused_attn_kernel` is made for, in Axolotl 0.19.0; for others it does nothing."""
UNSIZED = "its sizes are not known, so neither are memory and time"
KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "fused_attn_kernel")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that a training starts from."""

    name: str
    """As it was given: a folder or a hub's name."""
    folder: Path | None
    """Where its files are; None where it is a hub's that was not fetched."""
    shape: ModelShape | None
    """None where nothing tells."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> BaseModel:
        """The base model that a config names."""
        name = str(config["base_model"])
        return cls(name, model_folder(name), read_shape(name))

    @property
    def kind(self) -> str:
        """transformers' `model_type`, which files tell even where sizes are not known; "" where nothing does."""
        if self.shape:
            return self.shape.kind
        return str(read_object(self.folder / "config.json").get("model_type") or "") if self.folder else ""

    @property
    def tokenizer(self) -> TextTokenizer | None:
        """Its tokenizer; None where it is not here."""
        there = self.folder is not None and (self.folder / "tokenizer.json").is_file()
        return TextTokenizer(self.folder) if there and self.folder else None

    def fitting_template(self) -> ChatTemplate | None:
        """The built-in chat template that fits; None where none does or nothing tells."""
        try:
            name = template_of(self.name)
        except UserError:
            return None
        return load_template(FOLDER / f"{name}.jinja") if name else None


def output_folder(
    config: Mapping[str, Any], output: Path | None, base_model: str | Path | None, runtime: str | None
) -> Path:
    """The adapter's folder: `output`, else the config's; of a base model of another shape one named after the model."""
    own = Path(str(config["output_dir"]))
    if output or runtime is None or base_model is None:
        return output or own
    shape = BaseModel.of({"base_model": base_model}).shape
    if shape is None or shape.is_as_large_as(BaseModel.of(config).shape):
        return own
    return own.with_name(f"{Path(str(base_model)).name.lower()}-{runtime}")


def is_other(config: Mapping[str, Any], base_model: str | Path | None) -> bool:
    """Whether a named base model is another one than a config's."""
    return base_model is not None and absolute_model(str(base_model)) != absolute_model(str(config["base_model"]))


def keys_for(model: BaseModel, config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What another base model than the one that a config was written for needs changed in it, and words on it.

    Args:
        model: The base model.
        config: The config, with what the user named.
    """
    kind, changed = model.kind, dict[str, Any]()
    if not kind:
        return {}, [f"{model.name}: {UNSIZED}; LoRA is put on what the config names: {_layers(config)}"]
    if kind not in FAMILIES:
        layers = OTHER_LAYERS.get(kind)
        changed |= {"lora_target_modules": list(layers)} if layers else {"lora_target_linear": True}
        changed |= {} if layers else {"lora_target_modules": None}
    off = [key for key in KERNELS if config.get(key) and not _has_kernel(kind, key)]
    changed |= dict.fromkeys(off, False)
    sizes = model.shape.words() if model.shape else UNSIZED
    words = f"base model {model.name}: {kind}, {sizes}; LoRA on {_layers({**config, **changed})}"
    return changed, [words + (f"; without {', '.join(off)}, which it does not have" if off else "")]


def _has_kernel(kind: str, key: str) -> bool:
    """Whether Axolotl 0.19.0 has a config's kernel for a kind of model: for Gemma's MLP, with its GELU, it has none."""
    if key == "fused_attn_kernel":
        return kind in FUSED_ATTENTION
    return kind in FAMILIES and not (key == "lora_mlp_kernel" and kind.startswith("gemma"))


def _layers(config: Mapping[str, Any]) -> str:
    """The layers that a LoRA changes, for people."""
    targets = config.get("lora_target_modules")
    if not isinstance(targets, list):
        return "all linear layers"
    return "all seven projections" if set(targets) == set(PROJECTIONS) else ", ".join(map(str, targets))


def turn_ends(model: BaseModel, template: ChatTemplate) -> dict[str, Any]:
    """Axolotl's key for the token that ends a turn, where it is not the tokenizer's own end of text."""
    tokenizer = model.tokenizer
    end = end_of_turn(template, tokenizer) if tokenizer else None
    if end is None or model.folder is None or special_tokens(model.folder).get("eos_token", end) == end:
        return {}
    return {"eot_tokens": [end]}
