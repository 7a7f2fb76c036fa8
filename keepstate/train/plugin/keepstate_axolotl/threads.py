"""As many threads as the processors have room for, between the steps of a training without a GPU.

Runs inside the training environment and imports nothing of keepstate. Does not change what is computed but for the
order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from keepstate_room import ThreadRoom
from transformers import TrainerCallback

from .standstill import clock


class Threads(TrainerCallback):  # type: ignore[misc]
    """Sets torch's threads to the processors that nobody else used since it last looked, and says so the first time."""

    def __init__(self, say: Callable[[Any, str], None]) -> None:
        self._room = ThreadRoom(torch.get_num_threads())
        self._say: Callable[[Any, str], None] | None = say
        self._stood = clock.stood

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was before, loading and preparing, is no measure."""
        self._room.forget()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look, where long enough has passed."""
        if clock.stood != self._stood:  # others worked while it stood still
            self._stood = clock.stood
            self._room.forget()
        threads = self._room.look()
        if threads is None:
            return
        if threads < self._room.most and self._say:
            words = f"computing with {threads} of {self._room.most} threads while they are"
            self._say(state, f"other programs are at work: {words}")
            self._say = None
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)
