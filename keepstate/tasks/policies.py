"""Scores to compare an agent's with: what no thought, some thought and the best luck would have reached.

Each family brings its own policies under these names; docs/tasks.md tells those of Opaque Knapsack and what they score.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from keepstate.tasks.base import Task
from keepstate.tasks.families import family

POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "blind": "takes without looking: the floor",
        "greedy": "inspects, then takes by value per weight",
        "dp": "inspects, then packs exactly",
        "best": "the best player known: a lower bound of what can be reached on average",
        "oracle": "all luck: what no player exceeds",
    }
)
"""Name and short description, weakest first. A family may lack some, but not `blind` and `oracle`: floor and ceiling of
the chance-corrected score (score - floor) / (oracle - floor)."""


def reference_scores(task: Task) -> dict[str, float]:
    """Score in [0, 1] of each of `POLICIES` on `task`.

    Raises:
        UserError: The task's family is unknown, or its content is not valid.
    """
    return family(task.family).reference_scores(task)
