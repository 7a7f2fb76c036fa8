"""What Axolotl makes of a config: its own validation and resolution for an A100, up to what it hands to transformers.

    python tests/train/axolotl_resolves.py FOLDER CONFIG...   # in .venv-train

Prints JSON behind RESULT: the keys that Axolotl knows, and what it makes of each config (it takes 10 s to start).

No GPU is needed: capabilities are told, and FOLDER holds the architecture of Qwen3-8B without its weights.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from axolotl.loaders import ModelLoader
from axolotl.loaders.adapter import load_lora
from axolotl.utils.config import normalize_config, prepare_plugins, validate_config
from axolotl.utils.dict import DictDefault
from axolotl.utils.schemas.config import AxolotlInputConfig
from transformers import Qwen3Config

A100 = {"bf16": True, "n_gpu": 1, "compute_capability": "sm_80", "fp8": False, "n_node": 1, "tf32": True}
QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}


def resolve(path: str, folder: str) -> dict[str, Any]:
    """The values that decide what is trained, as they arrive."""
    Qwen3Config(architectures=["Qwen3ForCausalLM"], **QWEN3_8B).save_pretrained(folder)
    raw = DictDefault(yaml.safe_load(Path(path).read_text()) | {"base_model": folder, "output_dir": folder})
    prepare_plugins(raw)
    cfg = validate_config(raw, capabilities=A100, env_capabilities={"torch_version": "2.11.0"})
    kept = {key: cfg[key] for key in raw}
    normalize_config(cfg)
    loader = ModelLoader(cfg, tokenizer=None)
    loader._set_quantization_config()
    loader._set_attention_config()
    _, lora = load_lora(None, cfg, config_only=True)
    return {
        "kept": kept,
        "quantization": loader.model_kwargs["quantization_config"].to_dict(),
        "attention": loader.model_kwargs.get("attn_implementation"),
        "lora": {"r": lora.r, "alpha": lora.lora_alpha, "targets": sorted(lora.target_modules), "bias": lora.bias},
        "offloading": [cfg.activation_offloading, (cfg.gradient_checkpointing_kwargs or {}).get("use_reentrant")],
        "dtype": str(cfg.torch_dtype),
        "rows_a_step": cfg.micro_batch_size * cfg.gradient_accumulation_steps,
        "template": cfg.chat_template_jinja,
    }


if __name__ == "__main__":
    keys = sorted(AxolotlInputConfig.model_fields)
    configs = [resolve(path, sys.argv[1]) for path in sys.argv[2:]]
    print("RESULT" + json.dumps({"keys": keys, "configs": configs}, default=str))
