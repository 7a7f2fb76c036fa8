"""The registry of task families: every module or package in this folder that defines `FAMILY` is one.

Adding a family is adding one file here. `names()` lists them without importing any; `family(name)` imports one.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel

from keepstate.errors import UserError
from keepstate.tasks.base import Environment, Task
from keepstate.vocabulary import Difficulty, RuleSet


@dataclass(frozen=True, slots=True)
class Instance:
    """What a family samples: the parts of a `Task` that make it the problem it is."""

    public: dict[str, Any]
    private: dict[str, Any]
    reference: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Move:
    """One tool call of a reference policy."""

    tool: str
    arguments: dict[str, Any]


class Family(Protocol):
    """Samples tasks, plays them, and proves that its own best answer scores 1.0."""

    name: str
    difficulties: Mapping[Difficulty, BaseModel]
    """Parameters of each difficulty; part of what seeds a task."""

    def sample(self, bits: np.random.BitGenerator, parameters: BaseModel, rules: RuleSet) -> Instance:
        """Draw one instance from the raw stream of `bits` (raw, because numpy keeps that stream across versions)."""

    def environment(self, task: Task) -> Environment:
        """Play `task`.

        Raises:
            UserError: The task's content is not of this family's form.
        """

    def gold(self, task: Task) -> Sequence[Move]:
        """Calls that reach the reference answer; they use hidden data and must score 1.0."""

    def reference_scores(self, task: Task) -> dict[str, float]:
        """Scores of the reference policies, by name; see `keepstate.tasks.policies`."""


def names() -> list[str]:
    """Every family, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def family(name: str) -> Family:
    """The family called `name`.

    Raises:
        UserError: There is none.
    """
    known = names()
    if name not in known:
        raise UserError(f"unknown task family {name!r}", f"families: {', '.join(known)}")
    found: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return found
