"""Opaque Knapsack: pack items of hidden weight, value and class, looking at no more than a budget of them.

`sampling` draws instances, `environment` plays them, `solver` finds the exact optimum, `policies` are the players that
every score is compared with. The rules are told in docs/tasks.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel

from keepstate.tasks.base import Environment, Task
from keepstate.tasks.families import Family, Instance, Move
from keepstate.tasks.families.knapsack import policies
from keepstate.tasks.families.knapsack.environment import KnapsackEnvironment
from keepstate.tasks.families.knapsack.sampling import DIFFICULTIES, KnapsackParameters, sample
from keepstate.vocabulary import Difficulty, RuleSet


class Knapsack:
    """The family, as the registry sees it."""

    name = "knapsack"
    difficulties: Mapping[Difficulty, BaseModel] = DIFFICULTIES

    def sample(self, bits: np.random.BitGenerator, parameters: BaseModel, rules: RuleSet) -> Instance:
        """Draw one instance; see `sampling.sample`."""
        return sample(bits, KnapsackParameters.model_validate(parameters.model_dump()), rules)

    def environment(self, task: Task) -> Environment:
        """Play `task`; see `environment.KnapsackEnvironment`."""
        return KnapsackEnvironment(task)

    def gold(self, task: Task) -> Sequence[Move]:
        """Inspect and take the optimal items, then finish."""
        return policies.gold(task)

    def reference_scores(self, task: Task) -> dict[str, float]:
        """Scores of blind, greedy, dp, best and oracle; see `policies`."""
        return policies.reference_scores(task)


FAMILY: Family = Knapsack()
