"""What a training will take, told before it starts: GPU memory and time. Figures of other machines; measures nothing.

memory_gib(config)      estimate(config, tokens, "NVIDIA H100 80GB HBM3").words()

The speed is an assumption until the first steps are done: `Estimate.against` then says what they took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keepstate import machine
from keepstate.train.progress import TrainingProgress

FIXED_GIB = 9.2
PER_1K_TOKENS_GIB = 0.43
"""Qwen3-8B, r=64, every layer recomputed: NF4 weights, LoRA with its optimiser, activations. The two lines give the
16.1 GiB that were reserved at 16,384 tokens (H100)."""
GPU_SPEED = {
    "H200": {"speed": 11_500, "memory": 8_400},
    "H100": {"speed": 11_500, "memory": 8_400},
    "A100": {"speed": 3_400, "memory": 2_500},
}
"""Tokens per second of Qwen3-8B on full documents of 16,384 tokens, the slowest there are. H100 measured
(`benchmarks/gpu`), the H200 has the same processor; A100 computed: half of its 312 TFLOP/s in bf16 over 45.8 GFLOP a
token, where the H100 reaches 68 % of its own."""
MEASURED_ON = "H100"
CPU_SPEED = {"amx_bf16": (390, 390), "avx512_bf16": (260, 675)}
"""Tokens per second of SmolLM2-135M on two idle cores, slowest and fastest measured, by the instruction set that the
kernel names. The first is of 2026-11-24, before attention in blocks and memory that is kept; the second of two machines
with the same instructions (2026-11-26 and 28)."""
CPU_GIB = 1.8
CPU_GIB_PER_1K_TOKENS = 2.5
"""Main memory of a laptop training: a step took 2.8 GiB at 650 tokens, 4.9 at 1,480, 10.9 at 4,096, and Axolotl .5."""


def memory_gib(config: Mapping[str, Any]) -> float:
    """GPU memory that Qwen3-8B takes with every layer recomputed. Not a figure for other models."""
    tokens = int(config["sequence_len"]) * int(config.get("micro_batch_size", 1))
    return FIXED_GIB + PER_1K_TOKENS_GIB * tokens / 1024


def cpu_memory_gib(tokens: int) -> float:
    """Main memory that SmolLM2 takes with a longest row of `tokens`. Not a figure for other models."""
    return CPU_GIB + CPU_GIB_PER_1K_TOKENS * tokens / 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long a training is assumed to take, and on what grounds."""

    tokens: float
    """Of all epochs."""
    slowest: float | None
    """Tokens per second that are assumed; None where nothing is known."""
    fastest: float | None
    ground: str

    def words(self) -> str:
        """For people, before it starts."""
        total = f"{self.tokens:,.0f} tokens"
        if self.slowest is None or self.fastest is None:
            return f"{total}; {self.ground}: the first steps will tell how long they take"
        times = dict.fromkeys(minutes(self.tokens / speed) for speed in (self.fastest, self.slowest))
        return f"{total}, about {' to '.join(times)} if this machine makes {self._speeds()} tokens/s ({self.ground})"

    def against(self, measured: TrainingProgress) -> str:
        """What the first steps took, beside what was assumed."""
        speed, left = measured.mean_tokens_per_second, measured.eta_seconds
        words = f"measured over {measured.timed_steps} steps: "
        words += f"{speed:,.0f} tokens/s, " if speed else ""
        words += f"about {minutes(left or 0)} left"
        if not speed or self.slowest is None or self.fastest is None or self.slowest <= speed <= self.fastest:
            return words
        return f"{words}; {self._speeds()} tokens/s were assumed"

    def _speeds(self) -> str:
        return " to ".join(f"{speed:,.0f}" for speed in sorted({self.slowest or 0, self.fastest or 0}))


def estimate(config: Mapping[str, Any], tokens: int, gpu: str | None) -> Estimate:
    """What all epochs over `tokens` are assumed to take.

    Args:
        config: Axolotl's.
        tokens: Of the training split.
        gpu: Name of the GPU; None on the CPU.
    """
    total = tokens * float(config.get("num_epochs") or 1)
    if gpu is None:
        known = next((name for name in CPU_SPEED if name in machine.cpu_flags()), None)
        slowest, fastest = CPU_SPEED[known] if known else (None, None)
        share = machine.cores() / 2
        if slowest and fastest:
            return Estimate(total, slowest * share, fastest * share, f"measured with {known} on two idle cores")
    elif known := next((name for name in GPU_SPEED if name in gpu), None):
        speed = GPU_SPEED[known][config.get("keepstate_profile") or "memory"]
        ground = f"measured on an {known}" if known == MEASURED_ON else f"estimated for an {known} from an H100"
        return Estimate(total, speed, speed, ground)
    return Estimate(total, None, None, "how fast this machine is was not measured")


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
