"""Adapters of random weights for the laptop's base model, written without torch: safetensors is a header and bytes."""

from pathlib import Path

import numpy as np
from made_lora import write_tensors

from keepstate.files import write_json

RANK = 16
"""As in the laptop's training configs."""
LAYERS = 30
WIDTHS = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (576, 192),
    "self_attn.v_proj": (576, 192),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (576, 1536),
    "mlp.up_proj": (576, 1536),
    "mlp.down_proj": (1536, 576),
}
"""Inputs and outputs of SmolLM2-135M's layers."""
SCALE = 0.2
"""Of the B matrices: enough that no answer stays as it was."""


def write_random_lora(folder: Path, seed: int) -> Path:
    """Write one adapter into `folder` and return it."""
    generator = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for layer in range(LAYERS):
        for module, (inputs, outputs) in WIDTHS.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            a = generator.standard_normal((RANK, inputs)) / inputs**0.5
            tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
            b = generator.standard_normal((outputs, RANK)) * SCALE
            tensors[f"{name}.lora_B.weight"] = b.astype(np.float32)
    folder.mkdir(parents=True)
    write_tensors(folder / "adapter_model.safetensors", tensors)
    modules = [module.rpartition(".")[2] for module in WIDTHS]
    write_json(
        folder / "adapter_config.json",
        {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": modules},
    )
    return folder


def write_patterned_lora(folder: Path, seed: int) -> Path:
    """Write one whose `q_proj`s have a rank and an alpha of their own, and in `folder`/plain the same change without:
    padded with zeros to one rank, B scaled to one alpha.
    """
    generator = np.random.default_rng(seed)
    own, plain = {"r": 4, "alpha": 16}, {"r": RANK, "alpha": 2 * RANK}
    tensors: dict[str, np.ndarray] = {}
    padded: dict[str, np.ndarray] = {}
    for layer in range(LAYERS):
        for module in ("self_attn.q_proj", "self_attn.v_proj"):
            (inputs, outputs), name = WIDTHS[module], f"base_model.model.model.layers.{layer}.{module}"
            its = own if module.endswith("q_proj") else plain
            a = (generator.standard_normal((its["r"], inputs)) / inputs**0.5).astype(np.float32)
            b = (generator.standard_normal((outputs, its["r"])) * SCALE).astype(np.float32)
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            missing, factor = RANK - its["r"], (its["alpha"] / its["r"]) / (plain["alpha"] / plain["r"])
            padded[f"{name}.lora_A.weight"] = np.pad(a, ((0, missing), (0, 0)))
            padded[f"{name}.lora_B.weight"] = np.pad(b, ((0, 0), (0, missing))) * np.float32(factor)
    patterns = {"rank_pattern": {"q_proj": own["r"]}, "alpha_pattern": {"self_attn.q_proj": own["alpha"]}}
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj", "v_proj"]}
    for place, what, more in ((folder, tensors, patterns), (folder / "plain", padded, {})):
        place.mkdir(parents=True)
        write_tensors(place / "adapter_model.safetensors", what)
        write_json(place / "adapter_config.json", config | more)
    return folder
