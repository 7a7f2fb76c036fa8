"""The exact 0/1 knapsack, by dynamic programming over capacities in numpy, and what unseen items are worth.

O(items x capacity) time and memory; 20 items at capacity 270 (`medium`) take about 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Packing:
    """A selection of items, by position."""

    chosen: tuple[int, ...]
    value: int
    weight: int


def solve(weights: Sequence[int], values: Sequence[int], capacity: int) -> Packing:
    """The most valuable selection that fits.

    Args:
        weights: Weight of each item, >= 0.
        values: Value of each item, >= 0.
        capacity: Greatest total weight, >= 0.

    Returns:
        An optimal packing; of several, always the same one: later items are left out where they add nothing.
    """
    best = _table(weights, values, capacity)
    chosen: list[int] = []
    free = capacity
    column = best[:, free]
    for position in range(len(weights) - 1, -1, -1):
        if column[position + 1] != column[position]:
            chosen.append(position)
            free -= weights[position]
            column = best[:, free]
    chosen.reverse()
    return Packing(tuple(chosen), int(best[-1, capacity]), sum(weights[position] for position in chosen))


def best_by_capacity(weights: Sequence[int], values: Sequence[int], capacity: int) -> npt.NDArray[np.int64]:
    """The value of `solve` for every capacity from 0 to `capacity`."""
    row: npt.NDArray[np.int64] = _table(weights, values, capacity)[-1]
    return row


def _table(weights: Sequence[int], values: Sequence[int], capacity: int) -> npt.NDArray[np.int64]:
    """The greatest value of the first so many items (rows) within each capacity (columns)."""
    best = np.zeros((len(weights) + 1, capacity + 1), dtype=np.int64)
    for position, (weight, value) in enumerate(zip(weights, values, strict=True)):
        without, after = best[position], best[position + 1]
        after[:weight] = without[:weight]
        if weight <= capacity:
            np.add(without[: capacity + 1 - weight], value, out=after[weight:])
            np.maximum(after[weight:], without[weight:], out=after[weight:])
    return best


def worth_of_unseen(
    count: int, share: float, weights: Sequence[int], value: float, after: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What trying unseen items one by one, and then what is left, adds on average, for every free capacity (rows).

    Each may be taken with probability `share`, weighs any of `weights` with equal probability, is worth `value` on
    average, whatever it weighs, and is taken if it fits.

    Args:
        count: How many there are.
        share: Probability that the class of one is allowed.
        weights: What one may weigh; empty where nothing is known, and then nothing is expected of them.
        value: Mean value of one.
        after: What is added at last, for every capacity that is free then (rows); any number of columns.
    """
    worth, capacity = after, len(after) - 1
    move = np.eye(capacity + 1)
    gain = np.zeros((capacity + 1, 1))
    for weight in (weight for weight in weights if weight <= capacity):
        fits = np.arange(weight, capacity + 1)
        chance = share / len(weights)
        move[fits, fits] -= chance
        move[fits, fits - weight] += chance
        gain[fits] += chance * value
    for _ in range(count):
        worth = gain + move @ worth
    return worth


def best_of_few(weights: Sequence[int], values: Sequence[int], capacity: int, count: int) -> int:
    """The greatest value of at most `count` items that fit.

    O(items x capacity x count): meant for the rare task whose optimum has more items than may be inspected.
    """
    best = np.zeros((count + 1, capacity + 1), dtype=np.int64)
    for weight, value in zip(weights, values, strict=True):
        if weight <= capacity:
            with_item = best[:-1, : capacity + 1 - weight] + value
            np.maximum(best[1:, weight:], with_item, out=best[1:, weight:])
    return int(best[-1, -1])
