"""The exact 0/1 knapsack, by dynamic programming over capacities in numpy.

O(items x capacity) time and memory; 20 items at capacity 270 (`medium`) take about 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    best = np.zeros((len(weights) + 1, capacity + 1), dtype=np.int64)
    for position, (weight, value) in enumerate(zip(weights, values, strict=True)):
        without, after = best[position], best[position + 1]
        after[:weight] = without[:weight]
        if weight <= capacity:
            np.add(without[: capacity + 1 - weight], value, out=after[weight:])
            np.maximum(after[weight:], without[weight:], out=after[weight:])
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
