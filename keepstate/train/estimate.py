"""How long a training will take, told before it starts. Figures of other machines; measures nothing.

estimate(config, tokens, ["NVIDIA H100 80GB HBM3"], shape).words()

The speed is an assumption until the first steps are done: `TimeEstimate.against` then says what they took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keepstate import machine
from keepstate.model_shape import ModelShape
from keepstate.train.progress import TrainingProgress
from keepstate.train.sizes import CONTEXT, LAPTOP, REFERENCE, flops_per_token

GPU_SPEED = {
    "H200": {"speed": 11_500, "memory": 8_300},
    "H100": {"speed": 11_500, "memory": 8_300},
    "A100": {"speed": 3_400, "memory": 2_450},
}
"""Tokens per second of Qwen3-8B on full documents of 16,384 tokens, 16 rows a step, the slowest there are. On an H100
`speed` made 11,509 and `memory` 8,381 before what its layers start from waited in main memory, which costs 1.1 % (one
row a step on an H200; `benchmarks/gpu/results`). The H200 has the same processor. A100 computed: half of its 312
TFLOP/s in bf16 over 45.8 GFLOP a token, where the H100 reaches 68 % of its own, and `memory` in the H100's proportion.
"""
MEASURED_ON = "H100"
CPU_SPEED = {"amx_bf16": (390, 390), "avx512_bf16": (195, 675)}
"""Tokens per second of SmolLM2-135M on two idle cores, slowest and fastest measured, by the instruction set that the
kernel names. The first is of 2026-11-24, before attention in blocks and memory that is kept; the second of three
machines with the same instructions (Zen 5, 2026-11-26 and 28; Zen 4, rows of 2,960 tokens, 2026-11-30)."""
SAME = 0.02
"""A model whose arithmetic is as close as this to the measured one's is that one."""
ROW = 1_000
"""Tokens of a row on the laptop, about."""


@dataclass(frozen=True, slots=True)
class TimeEstimate:
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


def estimate(config: Mapping[str, Any], tokens: int, gpus: Sequence[str], shape: ModelShape | None) -> TimeEstimate:
    """What all epochs over `tokens` are assumed to take.

    Args:
        config: Axolotl's.
        tokens: Of the training split.
        gpus: Names of the GPUs; none on the CPU.
        shape: Of the base model; None: unknown. One that was not measured is assumed as fast as its arithmetic says, a
            smaller one, which leaves a machine idle for part of the time, between that and no faster.
    """
    total = tokens * float(config.get("num_epochs") or 1)
    measured, length = (LAPTOP, ROW) if not gpus else (REFERENCE, CONTEXT)
    if shape is None:
        return TimeEstimate(total, None, None, "how large the base model is is not known")
    rank = int(config.get("lora_r") or 0)
    ratio = flops_per_token(measured, rank=rank, length=length) / flops_per_token(shape, rank=rank, length=length)
    other = "" if abs(ratio - 1) <= SAME else f" of another model, {1 / ratio:.2g} times its arithmetic"
    if not gpus:
        known = next((name for name in CPU_SPEED if name in machine.cpu_flags()), None)
        slowest, fastest = CPU_SPEED[known] if known else (None, None)
        share = machine.cores() / 2
        if slowest and fastest:
            ground = f"measured with {known} on two idle cores{other}"
            return TimeEstimate(total, slowest * share * min(1, ratio), fastest * share * ratio, ground)
    elif known := next((name for name in GPU_SPEED if all(name in gpu for gpu in gpus)), None):
        speed = GPU_SPEED[known][config.get("keepstate_profile") or "memory"] * len(gpus)
        ground = f"measured on an {known}" if known == MEASURED_ON else f"estimated for an {known} from an H100"
        return TimeEstimate(total, speed * min(1, ratio), speed * ratio, ground + other)
    return TimeEstimate(total, None, None, "how fast this machine is was not measured")


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
