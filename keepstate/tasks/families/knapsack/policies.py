"""Players that every score is compared with. They act through the environment's own tools, never around it.

- `blind` (the floor) reads nothing: takes every id in listed order; under the strict rules it inspects the first B ids,
  because it must, and takes those, whatever was seen.
- `greedy` inspects the first B ids and takes the allowed ones by value per weight.
- `dp` inspects the first B ids and takes the best packing of them. Nothing tells items apart before they are inspected,
  so under the strict rules no player does better on average; one on one task may.
- `best` is the best player that we know. Under the strict rules it is `dp`. Under the paper rules a take needs no
  inspection and a refused one costs nothing, so it packs what it inspected into a part of the capacity only, tries
  every unseen id on the rest, and fills up with what it knows; see `_best`. What the very best player reaches on
  average is not known: it lies between `best` and `oracle`.
- `oracle` is the most that any player could reach, with all luck: the most valuable packing of at most B items; under
  the paper rules the optimum.
All but `blind` know the allowed classes under both rule sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from statistics import fmean

import numpy as np
import numpy.typing as npt

from keepstate.tasks.base import Task
from keepstate.tasks.families.knapsack.content import Candidates, Content, RuleSet
from keepstate.tasks.families.knapsack.environment import KnapsackEnvironment
from keepstate.tasks.families.knapsack.solver import best_by_capacity, best_of_few, solve, worth_of_unseen
from keepstate.tasks.plan import Move
from keepstate.tasks.tools import ToolError

LOOKED_AT = 16
"""Packings that `best` looks at more closely: those that promise most as long as left-overs are not counted."""


def reference_scores(task: Task) -> dict[str, float]:
    """Score in [0, 1] of each policy on `task`."""
    content = Content.of(task)
    played = partial(_played, task, content)
    first = content.public.item_ids[: content.public.inspect_budget]
    strict = content.public.rules is RuleSet.STRICT
    seen = Candidates.of(content, first)
    by_density = sorted(range(len(seen.ids)), key=lambda i: (-seen.values[i] / max(seen.weights[i], 1e-9), i))
    packing = solve(seen.weights, seen.values, content.public.capacity)
    dp = played(first, [seen.ids[i] for i in packing.chosen])
    return {
        "blind": played(first if strict else (), first if strict else content.public.item_ids),
        "greedy": played(first, [seen.ids[i] for i in by_density]),
        "dp": dp,
        "best": dp if strict else played(first, _best(content, seen, by_density)),
        "oracle": _oracle(content),
    }


def gold(task: Task) -> list[Move]:
    """Inspect and take an optimal selection, then finish."""
    chosen = Content.of(task).reference.optimal_item_ids
    return [*_moves("inspect", chosen), *_moves("take_item", chosen), Move("finish", {})]


def _moves(tool: str, ids: Iterable[str]) -> list[Move]:
    return [Move(tool, {"item_id": item}) for item in ids]


def _best(content: Content, seen: Candidates, by_density: Sequence[int]) -> list[str]:
    """The takes of `best` under the paper rules, in order.

    It believes that unseen items are like those it inspected: as often of an allowed class, of the same weights, as
    valuable on average. What it packs before it tries them is what promises most in all, what is left of the inspected
    ones included. It starts on them last but one: with little room only the light ones are accepted, and those are
    worth more by weight.
    """
    capacity, budget = content.public.capacity, content.public.inspect_budget
    inspected = [content.private.items[item] for item in content.public.item_ids[:budget]]
    unseen = content.public.item_ids[budget:]
    worth = partial(
        worth_of_unseen,
        len(unseen),
        len(seen.ids) / max(len(inspected), 1),
        [item.weight for item in inspected],
        fmean([item.value for item in inspected] or [0]),
    )
    promise = best_by_capacity(seen.weights, seen.values, capacity)[::-1] + worth(np.zeros((capacity + 1, 1)))[:, 0]
    rooms = np.argsort(-np.round(promise, 6), kind="stable")[:LOOKED_AT]  # rounded: equal on every machine
    packings = list(dict.fromkeys(solve(seen.weights, seen.values, capacity - int(room)) for room in rooms))
    left = [_left(seen, packing.chosen, capacity) for packing in packings]
    added = worth(np.stack(left, axis=1))
    in_all = [packing.value + added[capacity - packing.weight, n] for n, packing in enumerate(packings)]
    packed = packings[int(np.round(in_all, 6).argmax())]
    return [*(seen.ids[i] for i in packed.chosen), *unseen, *(seen.ids[i] for i in by_density)]


def _left(seen: Candidates, chosen: Sequence[int], capacity: int) -> npt.NDArray[np.float64]:
    """What the inspected items that are not chosen can add to every free capacity."""
    rest = [i for i in range(len(seen.ids)) if i not in chosen]
    return best_by_capacity([seen.weights[i] for i in rest], [seen.values[i] for i in rest], capacity).astype(float)


def _played(task: Task, content: Content, inspect: Iterable[str], take: Iterable[str]) -> float:
    """Score after inspecting and then trying to take these; refusals are passed over."""
    environment = KnapsackEnvironment(task, content)
    for tool, items in ((environment.inspect, inspect), (environment.take_item, take)):
        for item in items:
            try:
                tool(item)  # `call` would check its argument, which takes longer than the tool
            except ToolError:
                continue
    return environment.verdict().score


def _oracle(content: Content) -> float:
    optimum = content.reference.optimal_value
    budget = content.public.inspect_budget
    paper = content.public.rules is RuleSet.PAPER
    if paper or len(content.reference.optimal_item_ids) <= budget or not optimum:
        return 1.0
    every = Candidates.of(content, content.public.item_ids)
    return best_of_few(every.weights, every.values, content.public.capacity, budget) / optimum
