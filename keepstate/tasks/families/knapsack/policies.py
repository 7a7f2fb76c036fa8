"""Players that every score is compared with. They act through the environment's own tools, never around it.

- `blind` (the floor) reads nothing: takes every id in listed order; under the strict rules it inspects the first B ids,
  because it must, and takes those, whatever was seen.
- `greedy` inspects the first B ids and takes the allowed ones by value per weight.
- `dp` inspects the first B ids and takes the best packing of them. Nothing tells items apart before they are inspected,
  so no player does better on average; one on one task may.
- `oracle` is the best that B inspections can buy: the most valuable packing of at most B items (under the paper rules,
  where a take needs no inspection, the optimum).
`greedy` and `dp` know the allowed classes under both rule sets.
"""

from __future__ import annotations

from collections.abc import Iterable

from keepstate.tasks.base import Task, ToolError
from keepstate.tasks.families import Move
from keepstate.tasks.families.knapsack.content import Candidates, Content, content_of
from keepstate.tasks.families.knapsack.environment import KnapsackEnvironment
from keepstate.tasks.families.knapsack.solver import best_of_few, solve
from keepstate.vocabulary import RuleSet


def reference_scores(task: Task) -> dict[str, float]:
    """Score in [0, 1] of each policy on `task`."""
    content = content_of(task)
    first = content.public.item_ids[: content.public.inspect_budget]
    strict = content.public.rules is RuleSet.STRICT
    seen = Candidates.of(content, first)
    by_density = sorted(range(len(seen.ids)), key=lambda i: (-seen.values[i] / max(seen.weights[i], 1e-9), i))
    packing = solve(seen.weights, seen.values, content.public.capacity)
    return {
        "blind": _played(task, first if strict else (), first if strict else content.public.item_ids),
        "greedy": _played(task, first, [seen.ids[i] for i in by_density]),
        "dp": _played(task, first, [seen.ids[i] for i in packing.chosen]),
        "oracle": _oracle(content),
    }


def gold(task: Task) -> list[Move]:
    """Inspect and take an optimal selection, then finish."""
    chosen = content_of(task).reference.optimal_item_ids
    return [*_moves("inspect", chosen), *_moves("take_item", chosen), Move("finish", {})]


def _moves(tool: str, ids: Iterable[str]) -> list[Move]:
    return [Move(tool, {"item_id": item}) for item in ids]


def _played(task: Task, inspect: Iterable[str], take: Iterable[str]) -> float:
    """Score after inspecting and then trying to take these; refusals are passed over."""
    environment = KnapsackEnvironment(task)
    for move in [*_moves("inspect", inspect), *_moves("take_item", take)]:
        try:
            environment.call(move.tool, move.arguments)
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
