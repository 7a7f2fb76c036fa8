"""What a training takes, from the base model's shape: GPU memory, main memory, disk, arithmetic. Measures nothing.

    gpu_memory_gib(config, read_shape("Qwen/Qwen3-8B"))     # 16.6

The constants are fitted to what was measured of Qwen3-8B on an H100 and of SmolLM2-135M on two cores; other shapes
follow by what each part grows with, and were not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keepstate.machine import GIB
from keepstate.model_shape import BF16, KNOWN, ModelShape

NF4 = 0.516
"""Bytes of a weight: half of one, and the constants of its blocks of 64, quantised once more."""
LORA_BYTES = 16
"""Of a trained parameter: itself, its gradient and Adam's two moments in float32."""
CHECKPOINT_BYTES = 12
"""Of a trained parameter on disk: itself and the two moments."""
GPU_FIXED_GIB = 0.95
"""Half of it CUDA's own, which no figure of PyTorch's counts."""
PER_INNER, PER_WIDTH = 10, 16
"""Bytes a token that one block's recomputation takes, times its inner width and its width. With these a training of
Qwen3-8B (r=64, 16,384 tokens, every layer recomputed, fused loss) comes to 16.6 GiB; reserved were 16.1 with Axolotl's
own parts, 25.4 of a bf16 base (here 26.2): within 5 %."""
OFFLOADED_PER_INNER, OFFLOADED_PER_WIDTH = 12, 4
"""The same in profile `memory`, where what layers start from again waits in main memory. Less .8 GiB for CUDA and
fragments these are the 9.03, 9.66 and 10.91 GiB that were allocated with rows of 4,096, 8,192 and 16,384 tokens (H200,
2026-11-29). Allowed no more than 11.2 GiB, rows of 8,192 took the same time, rows of 16,384 took 4 % more."""
OFFLOADS = "memory"
"""The profile that does so."""
PER_LOGIT = 15
"""Bytes of a word of the vocabulary and a token where the loss is not fused: 50.4 GiB were reserved (here 51.4)."""
CPU_FIXED_GIB = 1.4
CPU_PER_WIDTH = 38
"""Bytes a token and layer, times the sum of width and inner width: nothing is recomputed on the CPU."""
CPU_PER_LOGIT = 8
CPU_TRAINED = 0.5
"""Share of the tokens whose logits are made. So SmolLM2 takes 3.3 GiB with a row of 650 tokens, 5.3 with 1,480 and 11.7
with 4,096; measured were 3.3, 5.4 and 11.4, Axolotl's own .5 included: within 3 %."""
FILES_GIB = {True: 1.0, False: 0.75}
"""Log, prepared data and curves, on a GPU and on a laptop."""
LAPTOP = KNOWN["smollm2-135m"]
REFERENCE = KNOWN["qwen3-8b"]
CONTEXT = 16_384
"""Tokens of the documents that the GPU's speeds were measured with."""


def lora_parameters(config: Mapping[str, Any], shape: ModelShape) -> int:
    """Trained parameters of a config."""
    targets = config.get("lora_target_modules")
    return shape.lora_parameters(int(config.get("lora_r") or 0), targets if isinstance(targets, list) else None)


def gpu_memory_gib(config: Mapping[str, Any], shape: ModelShape) -> float:
    """GPU memory with every layer recomputed: the least of profile `speed`, which spends what is free, too."""
    tokens = int(config["sequence_len"]) * int(config.get("micro_batch_size") or 1)
    block = NF4 if config.get("load_in_4bit") else BF16
    held = block * shape.block_parameters + BF16 * shape.embedding_parameters
    held += LORA_BYTES * lora_parameters(config, shape)
    if config.get("keepstate_profile") == OFFLOADS:
        inner, width = OFFLOADED_PER_INNER, OFFLOADED_PER_WIDTH
    else:
        inner, width = PER_INNER, PER_WIDTH + BF16 * shape.layers  # what each layer starts from again
    token = inner * shape.active * shape.intermediate + width * shape.hidden
    if not config.get("liger_fused_linear_cross_entropy"):
        token += PER_LOGIT * shape.vocabulary
    return GPU_FIXED_GIB + (held + tokens * token) / GIB


def offloaded_gib(config: Mapping[str, Any], shape: ModelShape) -> float:
    """Main memory that a process takes on a GPU: in profile `memory` what every layer starts from again waits there.

    4.5 GiB of Qwen3-8B's 16,384 tokens, beside the process itself, whose part on a GPU was not measured.
    """
    if config.get("keepstate_profile") != OFFLOADS:
        return CPU_FIXED_GIB
    tokens = int(config["sequence_len"]) * int(config.get("micro_batch_size") or 1)
    return CPU_FIXED_GIB + tokens * BF16 * shape.layers * shape.hidden / GIB


def cpu_memory_gib(tokens: int, shape: ModelShape = LAPTOP, rank: int = 16) -> float:
    """Main memory of a training on the CPU with a longest row of `tokens`."""
    held = shape.weight_bytes + LORA_BYTES * shape.lora_parameters(rank)
    token = CPU_PER_WIDTH * shape.layers * (shape.hidden + shape.active * shape.intermediate)
    token += round(CPU_PER_LOGIT * CPU_TRAINED) * shape.vocabulary
    return CPU_FIXED_GIB + (held + tokens * token) / GIB


def disk_gib(config: Mapping[str, Any], shape: ModelShape, *, gpu: bool) -> float:
    """Disk of the adapter's folder: checkpoints, one of them while the oldest is still there, adapter, data and log."""
    kept = int(config.get("save_total_limit") or 1) + 1
    parameters = lora_parameters(config, shape)
    return round(FILES_GIB[gpu] + (kept * CHECKPOINT_BYTES + LORA_BYTES // 4) * parameters / GIB, 1)


def flops_per_token(shape: ModelShape, *, rank: int, length: int) -> float:
    """Arithmetic of a token without recomputation: 4 a frozen weight, 6 a trained one, and attention over a document.

    45.8e9 for Qwen3-8B, r=64, 16,384 tokens.
    """
    frozen = shape.active_parameters + shape.vocabulary * shape.hidden
    attention = 3 * 2 * length * shape.layers * shape.heads * shape.head_dim
    return 4.0 * frozen + 6.0 * shape.lora_parameters(rank) + attention
