"""Whether an adapter fits a base model, by the sizes of the layers: those in its files, else those it must have; and
whether LoRA kernels are tuned for these sizes on this card."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from keepstate import machine
from keepstate.errors import UserError
from keepstate.model_files import model_folder
from keepstate.model_shape import KNOWN, PROJECTIONS, ModelShape
from keepstate.serve.adapters import ServedAdapter, max_rank
from keepstate.serve.weights import read_header
from keepstate.setup import environments
from keepstate.setup.environments import Device

NAMED_LIKE_LLAMA = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "smollm3"})
"""Values of `model_type` whose layers are named as in Llama's, in one block of layers without other parts around it."""
TUNED = "VLLM_TUNED_CONFIG_FOLDER"
"""vLLM's variable for the folder of kernel configurations."""
KERNELS = Path(__file__).resolve().parent / "lora_kernels"
"""Configurations of vLLM's LoRA kernels, a pair of files for each card, by `benchmarks/gpu/tune_lora.py`."""
TUNED_FOR, TUNED_RANK = KNOWN["qwen3-8b"], 64
"""The base model whose layers they are for, and the rank."""
ONE_SCALE = frozenset({"0.24.0"})
"""Versions of vLLM that read neither `rank_pattern` nor `alpha_pattern`: every layer gets `lora_alpha / r`."""


def base_sizes(base: str, shape: ModelShape | None) -> dict[str, tuple[int, ...]]:
    """Outputs and inputs of the base's layers, by name; empty where nothing here tells them.

    Args:
        base: Model folder or hub name.
        shape: Its shape, as far as it is known.
    """
    folder = model_folder(base)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if files:
        return {name: stored.shape for path in files for name, stored in read_header(path).items()}
    if shape is None or shape.kind not in NAMED_LIKE_LLAMA or shape.experts > 1:
        return {}
    blocks: dict[str, tuple[int, ...]] = {
        f"model.layers.{layer}.{'self_attn' if name in PROJECTIONS[:4] else 'mlp'}.{name}.weight": (outputs, inputs)
        for layer in range(shape.layers)
        for name, (inputs, outputs) in shape.sizes.items()
    }
    return blocks if shape.tied else blocks | {"lm_head.weight": (shape.vocabulary, shape.hidden)}


def check_fits(adapter: ServedAdapter, base: str, sizes: dict[str, tuple[int, ...]], device: Device) -> list[str]:
    """Compare every matrix of `adapter` with the layer of the base that it changes.

    Args:
        adapter: What is to be served.
        base: The base model, for messages.
        sizes: See `base_sizes`.
        device: What it is served on, which decides vLLM's version.

    Returns:
        What could not be checked, in words.

    Raises:
        UserError: A matrix has no such layer or another size than it, or a scale that this vLLM does not give it; names
            the first.
    """
    config, vllm = adapter.config, replace(environments.spec("serve"), device=device).release
    for module, pair in adapter.pairs.items():
        layer = sizes.get(f"{module}.weight")
        given = (pair.b.shape[0], pair.a.shape[1])
        if sizes and layer != given:
            there = f"the layer is {layer}" if layer else "the base has no such layer"
            raise UserError(
                f"{adapter.name} does not fit {base}: its matrices for {module} make {given}, {there}",
                "serve it on the model that it was trained on: --base-model",
            )
        if device == "cpu" and module.endswith("lm_head"):
            raise UserError(
                f"{adapter.name} changes lm_head: on the CPU vLLM would change the base's answers with it",
                "train it without lm_head in target_modules, or serve it on a GPU",
            )
        if vllm.version in ONE_SCALE and config and config.scale_of(module) != config.common_scale:
            raise UserError(
                f"{adapter.name}: rank_pattern and alpha_pattern give {module} the scale {config.scale_of(module):g};"
                f" {vllm.words()} gives every layer lora_alpha and r's, {config.common_scale:g}",
                "train it with one alpha / r for all layers, merge it into its base with PEFT (merge_and_unload)"
                " and serve that (--base-model FOLDER), or take a newer vLLM: keepstate setup serve --engines current",
            )
    remarks = []
    if adapter.pairs and not sizes:
        remarks.append(f"not checked: whether {adapter.name} fits {base}, whose layers are not known here")
    if config and config.unknown:
        keys = ", ".join(config.unknown)
        remarks.append(
            f"not checked: what {keys} in the adapter_config.json of {adapter.name} means; vLLM may ignore it"
        )
    return remarks


def tuned_kernels(shape: ModelShape | None, adapters: Sequence[ServedAdapter]) -> Path | None:
    """The folder of LoRA kernel configurations for this card and these layers; None where there are none, or where
    the user names others."""
    gpus = machine.visible_gpus()
    if os.environ.get(TUNED) or not gpus or not adapters or shape is None or shape.sizes != TUNED_FOR.sizes:
        return None
    card = gpus[0].name.replace(" ", "_").replace("-", "_")  # as vLLM names the file
    return KERNELS if max_rank(adapters) == TUNED_RANK and (KERNELS / f"{card}_SHRINK.json").is_file() else None
