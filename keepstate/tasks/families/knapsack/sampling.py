"""Drawing Opaque Knapsack instances: parameters of each difficulty, and the sampler.

Every number is made from the raw 64-bit stream of a bit generator by integer arithmetic and one IEEE multiplication, so
the same seed gives the same bytes on every machine and numpy version (numpy promises to keep a bit generator's raw
stream, not what `Generator.integers` makes of it: NEP 19).
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from keepstate.closed import Closed
from keepstate.tasks.families.knapsack.solver import Packing, solve
from keepstate.tasks.family import Instance

MAX_ATTEMPTS = 10_000
"""Instances drawn before giving up; the named difficulties accept one in one to three."""
MIN_ALLOWED_ITEMS = 5
MIN_OPTIMUM_ITEMS = 3
MAX_SHARE_OF_ONE_ITEM = 0.40
MIN_BUDGET = 5


class KnapsackParameters(Closed):
    """What is drawn uniformly, and from where; ranges include both ends."""

    items: tuple[int, int]
    weight: tuple[int, int]
    value: tuple[int, int]
    classes: int
    """Number of classes, named A, B, C, ..."""
    allowed_classes: int
    capacity_ratio: tuple[float, float]
    """Capacity as a share of the total weight of allowed items."""


DIFFICULTIES: Mapping[str, KnapsackParameters] = MappingProxyType(
    {
        "mini": KnapsackParameters(
            items=(8, 14), weight=(5, 20), value=(10, 100), classes=4, allowed_classes=2, capacity_ratio=(0.40, 0.60)
        ),
        "easy": KnapsackParameters(
            items=(25, 40), weight=(5, 20), value=(10, 100), classes=15, allowed_classes=3, capacity_ratio=(0.35, 0.50)
        ),
        "medium": KnapsackParameters(
            items=(80, 120), weight=(5, 50), value=(10, 500), classes=26, allowed_classes=5, capacity_ratio=(0.40, 0.60)
        ),
        "hard": KnapsackParameters(
            items=(30, 50), weight=(1, 25), value=(1, 80), classes=11, allowed_classes=3, capacity_ratio=(0.28, 0.45)
        ),
    }
)
"""The named difficulties (design figures of arXiv 2603.01209; `mini` is ours)."""


def sample(bits: np.random.BitGenerator, parameters: KnapsackParameters, rules: str) -> Instance:
    """Draw instances until one passes the checks of `_accepted`.

    Raises:
        RuntimeError: `MAX_ATTEMPTS` draws failed: the parameters admit (almost) no instance.
    """
    for _ in range(MAX_ATTEMPTS):
        instance = _attempt(bits, parameters, rules)
        if instance is not None:
            return instance
    raise RuntimeError(f"no instance among {MAX_ATTEMPTS} draws satisfies {parameters!r}")


def _attempt(bits: np.random.BitGenerator, parameters: KnapsackParameters, rules: str) -> Instance | None:
    count = int(_bounded(_raw(bits, 1), *parameters.items)[0])
    raw = _raw(bits, parameters.allowed_classes + 2 + 4 * count)
    names = string.ascii_uppercase[: parameters.classes]
    picks, lead, share = raw[: parameters.allowed_classes], raw[parameters.allowed_classes], raw[-1]
    drawn = raw[parameters.allowed_classes + 1 : -1].reshape(4, count)
    allowed = _choose(parameters.classes, picks)
    classes = _bounded(drawn[0], 0, parameters.classes - 1)
    classes[0] = allowed[(int(lead) >> 32) * len(allowed) >> 32]
    is_allowed = np.zeros(parameters.classes, dtype=bool)
    is_allowed[allowed] = True
    candidates = np.flatnonzero(is_allowed[classes])
    if len(candidates) < MIN_ALLOWED_ITEMS:
        return None
    weights = _bounded(drawn[1], *parameters.weight)
    values = _bounded(drawn[2], *parameters.value)
    allowed_weights = weights[candidates].tolist()
    allowed_values = values[candidates].tolist()
    low, high = parameters.capacity_ratio
    ratio = low + (int(share) >> 11) * 2.0**-53 * (high - low)
    capacity = max(round(ratio * sum(allowed_weights)), min(allowed_weights))
    optimum = solve(allowed_weights, allowed_values, capacity)
    if not _accepted(optimum, allowed_values):
        return None
    digits = drawn[3].astype(">u8").tobytes().hex()
    ids = [f"item_{digits[start : start + 12]}" for start in range(0, len(digits), 16)]
    if len(set(ids)) < count:
        return None
    items = {
        item: {"weight": weight, "value": value, "class": names[class_]}
        for item, weight, value, class_ in zip(ids, weights.tolist(), values.tolist(), classes.tolist(), strict=True)
    }
    return Instance(
        public={
            "item_ids": ids,
            "capacity": capacity,
            "allowed_classes": [names[class_] for class_ in allowed],
            "inspect_budget": _budget(parameters, count, capacity, len(optimum.chosen)),
            "rules": rules,
        },
        private={"items": items},
        reference={
            "optimal_item_ids": [ids[candidates[position]] for position in optimum.chosen],
            "optimal_value": optimum.value,
            "optimal_weight": optimum.weight,
        },
    )


def _accepted(optimum: Packing, values: list[int]) -> bool:
    """Whether the best packing takes combining: several items, none of them most of the value."""
    if len(optimum.chosen) < MIN_OPTIMUM_ITEMS:
        return False
    return max(values[position] for position in optimum.chosen) <= MAX_SHARE_OF_ONE_ITEM * optimum.value


def _budget(parameters: KnapsackParameters, count: int, capacity: int, optimum_items: int) -> int:
    """Distinct inspections: half as many again as filling the knapsack should take, and room for the optimum."""
    mean_weight = sum(parameters.weight) / 2
    share = parameters.allowed_classes / parameters.classes
    needed = math.ceil(max(1.5 * (capacity / mean_weight) / share, 1.1 * optimum_items))
    return max(MIN_BUDGET, min(needed, count))


def _raw(bits: np.random.BitGenerator, count: int) -> npt.NDArray[np.uint64]:
    raw: npt.NDArray[np.uint64] = bits.random_raw(count)
    return raw


def _bounded(raw: npt.NDArray[np.uint64], low: int, high: int) -> npt.NDArray[np.int64]:
    """Uniform integers in [low, high] from the upper 32 bits of each draw (bias below span / 2**32)."""
    span = np.uint64(high - low + 1)
    return ((raw >> np.uint64(32)) * span >> np.uint64(32)).astype(np.int64) + low


def _choose(count: int, raw: npt.NDArray[np.uint64]) -> list[int]:
    """As many distinct numbers below `count` as there are draws, sorted (a partial Fisher-Yates shuffle)."""
    pool = list(range(count))
    for position, draw in enumerate(raw.tolist()):
        other = position + ((draw >> 32) * (count - position) >> 32)
        pool[position], pool[other] = pool[other], pool[position]
    return sorted(pool[: len(raw)])
