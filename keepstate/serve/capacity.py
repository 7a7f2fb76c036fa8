"""What memory a server of a base model needs, and how long a context it then has room for. Arithmetic; asks no server.

A model whose sizes nothing tells is let through: vLLM says itself what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keepstate import machine
from keepstate.errors import UserError
from keepstate.machine import GIB
from keepstate.model_shape import BF16, KNOWN, ModelShape
from keepstate.serve.adapters import ServedAdapter, max_rank

GPU_MEMORY = 0.9
"""Share of the GPU's memory: 72 of 80 GiB, the specification's about 70."""
GPU_OWN_GIB = 2.2
"""vLLM's own: activations of a step, CUDA graphs. With it an H100 of 79.6 GiB holds 387,900 tokens of Qwen3-8B beside
three adapters of rank 64, where vLLM 0.24.0 told 388,256; other models were not measured."""
CPU_CACHE_GIB = 2
"""Key-value cache on the CPU, where the context takes no more: 93,184 tokens of SmolLM2-135M, eleven conversations of
full length; half of that in float32."""
CPU_OWN_GIB = 2.5
"""vLLM's processes on the CPU: SmolLM2's server takes 5 GiB, 2 of them cache."""
STEP = 256
"""Contexts are proposed in whole steps of so many tokens."""


def gpu_tokens(
    shape: ModelShape,
    gib: float,
    adapters: Sequence[ServedAdapter] = (),
    share: float = GPU_MEMORY,
    *,
    narrow: bool = False,
) -> int:
    """Tokens of the key-value cache beside the weights on a GPU of `gib`, of which vLLM takes a share; 0 or less: not
    even the weights fit. A `narrow` cache has a byte a number."""
    lora = len(adapters) * BF16 * shape.lora_parameters(max_rank(adapters)) if adapters else 0
    room = (share * gib - GPU_OWN_GIB) * GIB - shape.weight_bytes - lora
    return int(room * (2 if narrow else 1) // shape.cache_bytes)


def gpu_context(
    base: str,
    shape: ModelShape,
    given: int | None,
    wanted: int,
    adapters: Sequence[ServedAdapter],
    share: float = GPU_MEMORY,
    *,
    narrow: bool = False,
) -> tuple[int, list[str]]:
    """The context that the GPU has room for, and words where it is shorter than the usual one.

    Args:
        base: The base model, for messages.
        shape: Its shape.
        given: What the user asked for.
        wanted: What is taken where nothing was given.
        adapters: Those beside it.
        share: Of the GPU's memory that vLLM takes.
        narrow: Whether the cache takes a byte a number.

    Raises:
        UserError: Weights and one conversation do not fit; names what does.
    """
    gpus = machine.visible_gpus()
    if not gpus:
        return given or wanted, []  # nobody tells its memory
    gib = gpus[0].memory_gib
    room = gpu_tokens(shape, gib, adapters, share, narrow=narrow) // STEP * STEP
    if room < STEP:
        rooms = {name: gpu_tokens(known, gib, adapters, share, narrow=narrow) for name, known in KNOWN.items()}
        fitting = [name for name, tokens in rooms.items() if tokens >= wanted]
        name = max(fitting, key=lambda name: KNOWN[name].parameters, default=None)
        raise UserError(
            f"of the {gib:.0f} GiB of {gpus[0].name} a server takes {share:.0%}; the weights of {base} alone are"
            f" {shape.weight_bytes / GIB:.0f} GiB",
            f"serve a smaller model{f' (of the size of {name} or less)' if name else ''}: --base-model",
        )
    if given is not None and given > room:
        raise UserError(
            f"a context of {given:,} tokens of {base}: beside its weights {gpus[0].name} holds about {room:,}",
            f"choose a shorter one: --context {room}",
        )
    if given is None and wanted > room:
        return room, [f"context {room:,} tokens, not {wanted:,}: {gpus[0].name} holds no more of {base}"]
    return given or wanted, []


def cpu_cache_gib(base: str, shape: ModelShape | None, context: int) -> int:
    """GiB of key-value cache on the CPU: enough for one conversation of full length.

    Raises:
        UserError: Weights and cache are more than this machine's memory.
    """
    if shape is None:
        return CPU_CACHE_GIB
    needed = cpu_server_gib(shape, context)
    if needed > machine.memory_gib():
        raise UserError(
            f"{base} with a context of {context:,} tokens takes about {needed:.0f} GiB of memory, this machine has "
            f"{machine.memory_gib():.0f}",
            "serve a smaller model (--base-model), or a shorter context (--context)",
        )
    return _cpu_cache_gib(shape, context)


def cpu_server_gib(shape: ModelShape, context: int) -> float:
    """GiB of memory of a whole server on the CPU, with the cache of `cpu_cache_gib`."""
    return _wide() * shape.weight_bytes / GIB + _cpu_cache_gib(shape, context) + CPU_OWN_GIB


def _cpu_cache_gib(shape: ModelShape, context: int) -> int:
    return max(CPU_CACHE_GIB, math.ceil(1.05 * context * _wide() * shape.cache_bytes / GIB))


def _wide() -> int:
    """Float32 in place of bf16 takes twice as much."""
    return 2 if machine.lacks_bf16() else 1
