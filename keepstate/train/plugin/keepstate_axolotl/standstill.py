"""What an evaluation beside a training needs of it: the weights of some steps kept, and that it stands still meanwhile.

    KEEPSTATE_EVAL_STEPS=12 KEEPSTATE_PAUSE=pause-requested     # every 12 steps; 0: five times

Runs inside the training environment and imports nothing of keepstate. Does not touch data, loss or optimiser.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

TIMES = 5
"""How often a training is evaluated where nothing else was asked for."""
FILES = ("adapter_config.json", "adapter_model.safetensors")
"""Of a checkpoint: what a server loads."""
LOOK_SECONDS = 0.2
"""How late the end of a standstill may be noticed."""


class Clock:
    """Seconds that the training itself takes: while it stands still none pass."""

    stood = 0.0
    """Seconds that it stood still so far."""

    def __call__(self) -> float:
        """Now, from an unknown beginning."""
        return time.monotonic() - self.stood


clock = Clock()


def as_the_first(*flags: bool) -> list[bool]:
    """What the first of several processes says: each by its own clock, they would wait for each other for ever."""
    if not torch.distributed.is_initialized():
        return list(flags)
    told = torch.tensor(flags, dtype=torch.uint8, device="cuda" if torch.cuda.is_available() else "cpu")
    torch.distributed.broadcast(told, 0)
    return [bool(flag) for flag in told.tolist()]


class Standstill(TrainerCallback):  # type: ignore[misc]
    """Keeps the weights of every so many steps as `step-N`, and waits after a step for as long as it is asked to.

    Args:
        every: Steps; 0: so many that there are `TIMES`. The last one is always kept.
        pause: While this file is there, the training stands still.
        stop: While this one is, it does not: it is to end.
        tell: Takes an event, the trainer's state and more; None in all processes but the first.
    """

    def __init__(self, every: int, pause: Path, stop: Path, tell: Callable[..., None] | None) -> None:
        self._every, self._pause, self._stop, self._tell = every, pause, stop, tell

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Find out how many steps there are."""
        self._every = self._every or math.ceil(state.max_steps / TIMES)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stand still if asked to; save where the weights are to be kept."""
        if state.global_step % self._every == 0:
            control.should_save = True
        began, waits = time.monotonic(), False
        while as_the_first(self._pause.exists() and not self._stop.exists())[0]:
            if self._tell and not waits:
                self._tell("stands still", state)
            waits = True
            time.sleep(LOOK_SECONDS)
        if waits:
            stood = time.monotonic() - began
            clock.stood += stood
            if self._tell:
                self._tell("goes on", state, stood=round(stood, 3))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the weights that were just saved."""
        step = state.global_step
        if self._tell and (step % self._every == 0 or step == state.max_steps):
            keep(Path(args.output_dir) / f"checkpoint-{step}", Path(args.output_dir) / f"step-{step}")


def keep(checkpoint: Path, place: Path) -> None:
    """Let what a server loads of a checkpoint outlive it, without a copy where the disk can; whole, or not at all."""
    if place.exists():  # a training that was cut came here before
        return
    half = place.with_name(f".{place.name}")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    for name in FILES:
        try:
            os.link(checkpoint / name, half / name)
        except OSError:
            shutil.copy2(checkpoint / name, half / name)
    half.rename(place)
