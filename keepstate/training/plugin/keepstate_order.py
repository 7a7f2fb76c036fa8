"""Packed rows in an order that a resumed training repeats.

    keepstate_order.install(seed)      # before the data is loaded

Axolotl's packing draws its order from a random generator that has another state after a resume, and keeps the batches
that it packed to count them: a resumed epoch trained some traces twice and others not at all. It also counts the steps
of the training on other draws: the same data came to 249, 250 and 251 steps, each with a learning rate of its own. Here
the order follows from seed and epoch alone, and steps are counted on it. Single rows need none of this. Does not
change how rows are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from axolotl.core.trainers import base
from axolotl.utils import trainer
from axolotl.utils.samplers import MultipackBatchSampler
from torch.utils.data import RandomSampler, Sampler

COUNTED = 4
"""Epochs over which Axolotl takes the smallest number of batches, as it does with random orders."""


class EpochOrder(Sampler):  # type: ignore[misc]
    """A permutation for each epoch. Before the first epoch begins, every iteration is of the next one, to be counted.

    Args:
        count: Rows.
        seed: Of the training.
        changed: Called when another epoch begins.
    """

    def __init__(self, count: int, seed: int, changed: Callable[[], None]) -> None:
        self._count, self._seed, self._changed = count, seed, changed
        self._epoch: int | None = None
        self._counted = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        self._epoch = epoch
        self._changed()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        epoch = self._epoch
        if epoch is None:
            epoch, self._counted = self._counted % COUNTED, self._counted + 1
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        return iter(torch.randperm(self._count, generator=generator).tolist())


class OrderedPacking(MultipackBatchSampler):  # type: ignore[misc]
    """Axolotl's packing over `EpochOrder` where it would draw at random."""

    seed = 0

    def __init__(self, sampler: Any, **options: Any) -> None:
        if isinstance(sampler, RandomSampler):
            sampler = EpochOrder(len(sampler), self.seed, self._forget)
        super().__init__(sampler, **options)

    def _forget(self) -> None:
        self._batches = None


def install(seed: int) -> None:
    """Let Axolotl count steps and the trainer pack in this order."""
    OrderedPacking.seed = seed
    trainer.MultipackBatchSampler = OrderedPacking
    base.MultipackBatchSampler = OrderedPacking
