"""The very best play under the paper rules, computed exactly in worlds so small that all that can happen fits memory.

Expectimax over what a player can tell apart: how many items are untouched, which inspected ones are still to be had,
and the joint distribution of what was taken unseen, which refusals and later inspections narrow. Items are drawn
independently of each other, so which untouched one comes next does not matter.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keepstate.tasks.base import Task
from keepstate.tasks.families.knapsack.solver import solve

ITEMS = tuple((weight, value) for weight in (1, 2, 3) for value in (1, 4))
"""Weight and value of what may be taken, all equally likely."""
State = tuple[int, int, tuple[tuple[int, int], ...]]
"""What was taken: weight and value of what is known of it, and the items taken unseen, in order."""
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

    @functools.cache
    def worth(untouched: int, budget: int, known: tuple[tuple[int, int], ...], taken: Taken) -> float:
        def after(outcomes: Iterable[Outcome], **changes: Any) -> float:
            now = {"untouched": untouched, "budget": budget, "known": known} | changes
            return sum(_chance(states) * worth(**now, taken=_scaled(states)) for states in outcomes)

        choices = [sum(chance * _value(state) for state, chance in taken)]  # stop
        for place, item in enumerate(known):
            fits, refused = _tried(world, {item: 1.0}, taken, seen=True)
            if fits:
                choices.append(after([fits], known=known[:place] + known[place + 1 :]) + after(refused))
        if untouched:
            fits, refused = _tried(world, {kind: kinds[kind] for kind in ITEMS}, taken, seen=False)
            none = kinds[None] * worth(untouched - 1, budget, known, taken)
            choices.append(none + after([*([fits] if fits else []), *refused], untouched=untouched - 1))
        if untouched and budget:
            choices.append(
                sum(
                    chance * worth(untouched - 1, budget - 1, tuple(sorted((*known, *([kind] if kind else [])))), taken)
                    for kind, chance in kinds.items()
                )
            )
        if budget:
            unseen = len(next(iter(taken))[0][2])
            choices += [after(_inspected(taken, place), budget=budget - 1) for place in range(unseen)]
        return max(choices)

    return worth(world.count, world.budget, (), frozenset({((0, 0, ()), 1.0)}))


Outcome = dict[State, float]
"""What a player cannot tell apart: the states that there may be now."""


def _tried(
    world: World, items: Mapping[tuple[int, int], float], taken: Taken, *, seen: bool
) -> tuple[Outcome, list[Outcome]]:
    """What comes of a take of one of `items`: it fitted; or it was refused, which tells what all taken weigh."""
    fits: Outcome = defaultdict(float)
    refused: dict[int, Outcome] = defaultdict(lambda: defaultdict(float))
    for (weight, value, unseen), chance in taken:
        whole = weight + sum(item[0] for item in unseen)
        for item, share in items.items():
            if whole + item[0] > world.capacity:
                refused[whole][weight, value, unseen] += chance * share
            elif seen:
                fits[weight + item[0], value + item[1], unseen] += chance * share
            else:
                fits[weight, value, (*unseen, item)] += chance * share
    return fits, list(refused.values())


def _inspected(taken: Taken, place: int) -> list[Outcome]:
    """What comes of inspecting an item that was taken unseen."""
    outcomes: dict[tuple[int, int], Outcome] = defaultdict(lambda: defaultdict(float))
    for (weight, value, unseen), chance in taken:
        item = unseen[place]
        rest = unseen[:place] + unseen[place + 1 :]
        outcomes[item][weight + item[0], value + item[1], rest] += chance
    return list(outcomes.values())


def _value(state: State) -> int:
    return state[1] + sum(item[1] for item in state[2])


def _chance(outcome: Outcome) -> float:
    return sum(outcome.values())


def _scaled(outcome: Outcome) -> Taken:
    """The probabilities of the states, given that this is what came."""
    return frozenset((state, round(chance / _chance(outcome), 12)) for state, chance in outcome.items())
