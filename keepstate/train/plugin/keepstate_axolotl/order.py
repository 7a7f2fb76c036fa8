"""Packed rows in an order that a resumed training repeats, and in the same steps however a step is divided.

    order.install(seed, sequence_len)      # before the data is loaded

Axolotl's packing draws its order from a random generator that has another state after a resume, and keeps the batches
that it packed to count them: a resumed epoch trained some traces twice and others not at all. It also counts the steps
of the training on other draws: the same data came to 249, 250 and 251 steps, each with a learning rate of its own. Here
the order follows from seed and epoch alone, and steps are counted on it. Single rows need none of this.

Axolotl also packs a batch of two rows as one of twice the length and drops what does not fill the last: other traces in
each step than with twice the batches of one. Here rows of `sequence_len` are packed first, then laid together.

Of several processes each takes every n-th batch of this order, so a step has the rows that it has with one. Where the
last batches of an epoch do not go round, the first ones fill the round, and count for nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from itertools import chain, cycle, islice
from typing import Any

import torch
from axolotl.core.trainers import base
from axolotl.utils import trainer
from axolotl.utils.samplers import MultipackBatchSampler
from torch.utils.data import RandomSampler, Sampler

from .loss import IGNORED

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
    """Axolotl's packing over `EpochOrder` where it would draw at random. It packs single rows, which become batches."""

    seed = 0
    row_tokens = 0
    batches = 0
    """Of the epoch under way, none of them twice."""

    def __init__(self, sampler: Any, *, batch_size: int, batch_max_len: int, **options: Any) -> None:
        self._rows = self._processes = 1
        self._joined = False
        if isinstance(sampler, RandomSampler):
            sampler = EpochOrder(len(sampler), self.seed, self._forget)
            longer = max(1, batch_max_len // self.row_tokens)
            self._rows, self._joined = batch_size * longer, longer > 1
            batch_size, batch_max_len = 1, batch_max_len // longer
            self._processes = int(os.environ.get("WORLD_SIZE", "1"))
        super().__init__(sampler, batch_size=batch_size, batch_max_len=batch_max_len, **options)
        self.num_count_samples = COUNTED  # fewer with four processes: other steps

    def _forget(self) -> None:
        self._batches = None

    def __len__(self) -> int:
        """Batches of an epoch, the last of which may have fewer rows, and those that fill the last round."""
        rows: int = super().__len__()
        return math.ceil(math.ceil(rows / self._rows) / self._processes) * self._processes

    def __iter__(self) -> Iterator[list[list[int]]]:
        batches = list(self._once())
        self.batches = len(batches)
        yield from islice(cycle(batches), math.ceil(self.batches / self._processes) * self._processes)

    def _once(self) -> Iterator[list[list[int]]]:
        if self._rows == 1:
            yield from super().__iter__()
            return
        rows = [row for batch in super().__iter__() for row in batch]
        for start in range(0, len(rows), self._rows):
            batch = rows[start : start + self._rows]
            yield [list(chain(*batch))] if self._joined else batch


class CountedPacking(OrderedPacking):
    """As Axolotl counts the steps of a training: whole steps of whole batches, so that all divisions count alike."""

    def __len__(self) -> int:
        """Full batches of an epoch."""
        return int(MultipackBatchSampler.__len__(self)) // self._rows


def install(seed: int, row_tokens: int) -> None:
    """Let Axolotl count steps and the trainer pack in this order, in rows of `row_tokens`."""
    OrderedPacking.seed, OrderedPacking.row_tokens = seed, row_tokens
    trainer.MultipackBatchSampler = CountedPacking
    base.MultipackBatchSampler = OrderedPacking


def innermost(loader: Any) -> Any:
    """The sampler of batches below a process's share of them and those that are skipped."""
    sampler = loader.batch_sampler
    while hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    return sampler


def count_each_row_once(trainer: Any) -> None:
    """Let the rows that fill the last round of an epoch have no token to train.

    Only for models whose loss divides by the tokens of the step: a mean over none is no number.
    """
    accelerator, count = trainer.accelerator, trainer._get_num_items_in_batch

    def counted(batches: list[Any], device: Any) -> Any:
        state = accelerator.gradient_state
        if accelerator.num_processes > 1 and trainer.model.training and state.end_of_dataloader:
            labels, sampler = batches[-1]["labels"], innermost(state.active_dataloader)
            own = own_rows(sampler, len(labels), accelerator.num_processes, accelerator.process_index)
            labels[own:] = IGNORED
        return count(batches, device)

    trainer._get_num_items_in_batch = counted


def own_rows(sampler: Any, rows: int, processes: int, process: int) -> int:
    """How many of the `rows` of the last batch of a process are no repetition."""
    if isinstance(sampler, OrderedPacking):
        return rows if process <= (sampler.batches - 1) % processes else 0
    of_all = (len(sampler.sampler) - 1) % (processes * rows) + 1
    return max(0, min(rows, of_all - process * rows))
