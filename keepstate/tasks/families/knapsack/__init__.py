"""Opaque Knapsack: pack items of hidden weight, value and class, looking at no more than a budget of them.

`sampling` draws instances, `environment` plays them, `solver` finds the exact optimum, `policies` are the players that
every score is compared with, `teacher` plays to be learnt from. The rules are told in docs/tasks.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from keepstate.tasks.base import Task
from keepstate.tasks.dice import Dice
from keepstate.tasks.families.knapsack import policies
from keepstate.tasks.families.knapsack.content import RuleSet
from keepstate.tasks.families.knapsack.environment import KnapsackEnvironment
from keepstate.tasks.families.knapsack.sampling import DIFFICULTIES, KnapsackParameters, sample
from keepstate.tasks.families.knapsack.teacher import KnapsackTeacher
from keepstate.tasks.family import Family, Instance
from keepstate.tasks.plan import Move
from keepstate.vocabulary import RuntimeName


class Knapsack(Family):
    """The family."""

    name = "knapsack"
    difficulties = DIFFICULTIES
    rules = tuple(map(str, RuleSet))
    environment = KnapsackEnvironment
    policies = MappingProxyType(
        {
            "blind": "takes without looking: the floor",
            "greedy": "inspects, then takes by value per weight",
            "dp": "inspects, then packs exactly",
            "best": "the best player known: a lower bound of what can be reached on average",
            "oracle": "all luck: what no player exceeds",
        }
    )

    def sample(self, dice: Dice, parameters: KnapsackParameters, rules: str | None) -> Instance:
        """Draw one instance; see `sampling.sample`."""
        return sample(dice.bits, parameters, rules or RuleSet.STRICT)

    def gold(self, task: Task) -> Sequence[Move]:
        """Inspect and take the optimal items, then finish."""
        return policies.gold(task)

    def reference_scores(self, task: Task) -> dict[str, float]:
        """Scores of the policies; see `policies`."""
        return policies.reference_scores(task)

    def script(self, task: Task, runtime: RuntimeName, *, seed: int, tool_calls: int) -> KnapsackTeacher:
        """The scripted teacher, whose code computes the packing; see `teacher`."""
        return KnapsackTeacher(task, runtime, seed=seed, tool_calls=tool_calls)
