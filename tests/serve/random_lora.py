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
