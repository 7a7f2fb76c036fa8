"""What a knapsack task file holds: the typed form of its public, private and reference parts.

The field names are those of the research code's files, so that these load as they are; only `rules` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from keepstate.closed import Closed
from keepstate.tasks.base import TaskContent


class RuleSet(StrEnum):
    """How much an agent is told that did not look."""

    STRICT = "strict"
    """A take needs an inspection, a refusal tells nothing that an inspection did not."""
    PAPER = "paper"
    """The research rules: a take needs no inspection, a refused take names the reason."""


class Public(Closed):
    """What the environment may tell; `allowed_classes` is told under the strict rules only."""

    item_ids: tuple[str, ...]
    capacity: int = Field(ge=0)
    allowed_classes: tuple[str, ...]
    """Empty means that every class is allowed."""
    inspect_budget: int = Field(ge=0)
    rules: RuleSet = RuleSet.PAPER


class Item(Closed):
    """The hidden properties of one item."""

    weight: int = Field(ge=0)
    value: int = Field(ge=0)
    class_: str = Field(alias="class")


class Private(Closed):
    """Hidden properties, by item id."""

    items: dict[str, Item]


class Reference(Closed):
    """An optimal selection."""

    optimal_item_ids: tuple[str, ...]
    optimal_value: int
    optimal_weight: int


class Content(TaskContent):
    """A whole instance, checked for agreement with itself (not for optimality: a solver's matter)."""

    public: Public
    private: Private
    reference: Reference

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        items = self.private.items
        if len(set(self.public.item_ids)) != len(self.public.item_ids) or set(self.public.item_ids) != set(items):
            raise ValueError("public.item_ids and private.items name different items")
        chosen = self.reference.optimal_item_ids
        if len(set(chosen)) != len(chosen) or not set(chosen) <= set(items):
            raise ValueError("reference.optimal_item_ids names an item twice, or one that does not exist")
        weight, value = sum(items[i].weight for i in chosen), sum(items[i].value for i in chosen)
        if (weight, value) != (self.reference.optimal_weight, self.reference.optimal_value):
            raise ValueError(f"the reference items weigh {weight} and are worth {value}, not what the file states")
        if weight > self.public.capacity or any(not self.allows(items[i].class_) for i in chosen):
            raise ValueError("the reference breaks the task's own rules")
        return self

    def allows(self, class_: str) -> bool:
        """Whether items of this class may be taken."""
        return not self.public.allowed_classes or class_ in self.public.allowed_classes


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items of allowed classes, in listed order: what a solver chooses from."""

    ids: tuple[str, ...]
    weights: tuple[int, ...]
    values: tuple[int, ...]

    @classmethod
    def of(cls, content: Content, known: tuple[str, ...]) -> Candidates:
        """Those of `known` (item ids) whose class is allowed."""
        items = content.private.items
        ids = tuple(i for i in known if content.allows(items[i].class_))
        return cls(ids, tuple(items[i].weight for i in ids), tuple(items[i].value for i in ids))
