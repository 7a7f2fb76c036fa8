"""What a user gives vLLM beside what a plan decides: which options, their words, and what they change of a plan."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise

from keepstate import machine
from keepstate.errors import UserError
from keepstate.files import parse_json
from keepstate.serve.capacity import GPU_MEMORY
from keepstate.setup.environments import Device

GPU_SHARE = "gpu-memory-utilization"
"""vLLM's option for the share of the GPU's memory that it takes."""
KV_CACHE = "kv-cache-dtype"
"""vLLM's option for the numbers of the key-value cache."""
AS_MODEL, FP8 = "as-model", "fp8"
"""Caches: in the numbers that the model computes with, or in 8 bits."""
FP8_INSTRUCTIONS = ("avx512f", "amx_tile")
"""vLLM keeps a cache of 8 bits on a processor that has one of these."""
OFF = "off"
"""No drafts."""
SPECULATION = "speculative-config"
"""vLLM's option for drafts of answers."""
NGRAM = {"method": "ngram", "num_speculative_tokens": 8, "prompt_lookup_max": 4, "prompt_lookup_min": 1}
"""Drafts: up to eight tokens that followed the last four to one where the conversation had them before. Of the scripted
teacher's answers in the tokens of Qwen3 a step then yields 1.40 (persistent), 2.04 (forget) and 2.97 (react); with two
to four and four drafted 1.27, 1.74 and 2.35."""
OURS = {
    "model": "name the base model: --base-model",
    "served-model-name": "it is called base, an adapter as in --lora NAME=FOLDER",
    "host": "choose it: --host",
    "port": "choose it: --port",
    "max-model-len": "choose it: --context",
    "chat-template": "choose it: --template",
    "default-chat-template-kwargs": "choose it: --nothink or --no-nothink",
    "api-key": "name a file that holds it: --api-key-file",
    "middleware": "it guards the key: --api-key-file",
    **dict.fromkeys(
        ("enable-lora", "lora-modules", "max-loras", "max-lora-rank", "lora-target-modules"),
        "it follows from the adapters: --lora",
    ),
}
"""vLLM's options that a plan decides, and what to type instead."""
_ARGUMENT = re.compile(r"(?:--)?(?P<key>[a-z][a-z0-9_-]*)(?:=(?P<value>.*))?", re.DOTALL)


def argument_of(words: Sequence[str], key: str) -> str | None:
    """The last value of an option in words of vLLM's command line."""
    values = [value for option, value in pairwise(words) if option == f"--{key}"]
    return values[-1] if values else None


def memory_share(words: Sequence[str]) -> float:
    """Of the GPU's memory that vLLM takes.

    Raises:
        UserError: It is none.
    """
    given = argument_of(words, GPU_SHARE)
    try:
        share = float(given or GPU_MEMORY)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(
            f"{given} is no share of the GPU's memory", f"more than 0, at most 1: --gpu-memory {GPU_MEMORY}"
        )
    return share


def kv_cache_of(words: Sequence[str]) -> str:
    """How the key-value cache is kept: `as-model`, or what was asked for."""
    given = argument_of(words, KV_CACHE)
    return AS_MODEL if given in (None, "auto") else str(given)


def fp8_cache(words: Sequence[str]) -> bool:
    """Whether the key-value cache takes a byte a number instead of two."""
    return kv_cache_of(words).startswith(FP8)


def drafted(words: Sequence[str]) -> int:
    """The most tokens that are drafted at a time for one answer; 0 where none are, or nobody can tell."""
    try:
        told = parse_json(argument_of(words, SPECULATION) or "{}")
        return max(0, int(told.get("num_speculative_tokens", 0)))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return 0  # vLLM says itself what is wrong with it


def check_cache(words: Sequence[str], device: Device) -> None:
    """Refuse a cache that vLLM's engine would end over, a minute after it started.

    Raises:
        UserError: The processor has no instructions for it.
    """
    flags = machine.cpu_flags()
    if device == "cpu" and fp8_cache(words) and flags and flags.isdisjoint(FP8_INSTRUCTIONS):
        raise UserError(
            "vLLM keeps a cache of 8 bits on processors with AVX-512 or AMX; this one has neither",
            f"leave --kv-cache {FP8} out",
        )


def asked_for(*, max_num_seqs: int | None, gpu_memory: float | None, kv_cache: str, speculate: str) -> list[str]:
    """The options of `keepstate serve` that are vLLM's, each as `KEY=VALUE`; those that say nothing are left out."""
    values = {
        "max-num-seqs": max_num_seqs,
        GPU_SHARE: gpu_memory,
        KV_CACHE: None if kv_cache == AS_MODEL else kv_cache,
        SPECULATION: None if speculate == OFF else json.dumps(NGRAM),
    }
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def vllm_arguments(given: Sequence[str]) -> tuple[str, ...]:
    """As vLLM's command line has them.

    Args:
        given: Each `KEY` or `KEY=VALUE`.

    Raises:
        UserError: One is neither, or an option that a plan decides.
    """
    words: list[str] = []
    for each in given:
        found = _ARGUMENT.fullmatch(each)
        if found is None:
            raise UserError(f"--vllm-arg {each!r} is not KEY or KEY=VALUE", "write it as max-num-seqs=64")
        key = found["key"].replace("_", "-")
        if key in OURS:
            raise UserError(f"--vllm-arg {key} is keepstate's own to give", OURS[key])
        words += [f"--{key}", *([found["value"]] if found["value"] is not None else [])]
    return tuple(words)
