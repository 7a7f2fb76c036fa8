"""The very best play under the paper rules, computed exactly in worlds so small that all that can happen fits memory.

Expectimax over what a player can tell apart: how many items are untouched, which inspected ones are still to be had,
and the joint distribution of weight and value of what was taken unseen. Items are drawn independently of each other, so
which untouched one comes next does not matter. Does not inspect what was taken already: it could only help to count.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from keepstate.tasks.base import Task
from keepstate.tasks.families.knapsack.solver import solve

ITEMS = tuple((weight, value) for weight in (1, 2, 3) for value in (1, 4))
"""Weight and value of what may be taken, all equally likely."""
State = tuple[int, int]
"""Total weight and value of what was taken."""
Taken = frozenset[tuple[State, float]]
"""The probability of each."""


@dataclass(frozen=True)
class World:
    """So many items: each is one of `ITEMS` or, `refused` times as often as any of them, of a class not allowed."""

    count: int
    budget: int
    capacity: int
    refused: int

    def kinds(self) -> dict[tuple[int, int] | None, float]:
        """Probability of each kind of item; None may not be taken."""
        total = self.refused + len(ITEMS)
        return {None: self.refused / total} | dict.fromkeys(ITEMS, 1 / total)

    def tasks(self) -> Iterator[tuple[float, Task]]:
        """Every instance there is, with its probability."""
        for drawn in itertools.product(self.kinds(), repeat=self.count):
            chance = 1.0
            items = {}
            for place, kind in enumerate(drawn):
                chance *= self.kinds()[kind]
                weight, value = kind or (2, 2)
                items[f"i{place}"] = {"weight": weight, "value": value, "class": "A" if kind else "B"}
            ids = [item for item, kind in zip(items, drawn, strict=True) if kind]
            packing = solve([items[i]["weight"] for i in ids], [items[i]["value"] for i in ids], self.capacity)  # type: ignore[misc]
            yield (
                chance,
                Task(
                    task_id="t",
                    family="knapsack",
                    difficulty="tiny",
                    seed=0,
                    public={
                        "item_ids": list(items),
                        "capacity": self.capacity,
                        "allowed_classes": ["A"],
                        "inspect_budget": self.budget,
                        "rules": "paper",
                    },
                    private={"items": items},
                    reference={
                        "optimal_item_ids": [ids[place] for place in packing.chosen],
                        "optimal_value": packing.value,
                        "optimal_weight": packing.weight,
                    },
                ),
            )


def best_mean_value(world: World) -> float:
    """The mean value that no player exceeds."""
    kinds = world.kinds()

    def tried(taken: Taken, item: tuple[int, int]) -> tuple[tuple[float, Taken] | None, list[tuple[float, Taken]]]:
        """Outcomes of a take: it fitted, or it was refused, which tells the weight of what was taken before."""
        fits: dict[State, float] = defaultdict(float)
        refused: dict[int, dict[State, float]] = defaultdict(lambda: defaultdict(float))
        for (weight, value), chance in taken:
            if weight + item[0] <= world.capacity:
                fits[weight + item[0], value + item[1]] += chance
            else:
                refused[weight][weight, value] += chance
        return (_scaled(fits) if fits else None), [_scaled(outcome) for outcome in refused.values()]

    @functools.cache
    def worth(untouched: int, budget: int, known: tuple[tuple[int, int], ...], taken: Taken) -> float:
        choices = [sum(chance * value for (_, value), chance in taken)]  # stop
        for place, item in enumerate(known):
            fits, refused = tried(taken, item)
            if fits is not None:
                rest = known[:place] + known[place + 1 :]
                total = fits[0] * worth(untouched, budget, rest, fits[1])
                choices.append(total + sum(p * worth(untouched, budget, rest, left) for p, left in refused))
        if untouched and budget:
            choices.append(
                sum(
                    chance * worth(untouched - 1, budget - 1, tuple(sorted((*known, *([kind] if kind else [])))), taken)
                    for kind, chance in kinds.items()
                )
            )
        if untouched:
            total = kinds[None] * worth(untouched - 1, budget, known, taken)
            merged: dict[State, float] = defaultdict(float)
            told: dict[int, dict[State, float]] = defaultdict(lambda: defaultdict(float))
            for kind in ITEMS:
                fits, refused = tried(taken, kind)
                for share, outcome in [fits] if fits else []:
                    for state, p in outcome:
                        merged[state] += kinds[kind] * share * p
                for share, outcome in refused:
                    for state, p in outcome:
                        told[state[0]][state] += kinds[kind] * share * p
            for states in [merged, *told.values()]:
                if states:
                    share, left = _scaled(states)
                    total += share * worth(untouched - 1, budget, known, left)
            choices.append(total)
        return max(choices)

    return worth(world.count, world.budget, (), frozenset({((0, 0), 1.0)}))


def _scaled(outcome: Mapping[State, float]) -> tuple[float, Taken]:
    """The probability of an outcome, and what is then known."""
    chance = sum(outcome.values())
    return chance, frozenset((state, round(p / chance, 12)) for state, p in outcome.items())
