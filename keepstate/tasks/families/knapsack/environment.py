"""Playing one Opaque Knapsack task: four tools over hidden items, under one of two rule sets.

Arguments come from model-written code and are checked as such: a refused call raises `ToolError` and changes nothing.
"""

from __future__ import annotations

import json
from typing import Any

from keepstate.tasks.base import Environment, Task, Verdict
from keepstate.tasks.families.knapsack.content import Content, Item, RuleSet
from keepstate.tasks.tools import ToolError, echo, tool

_compact = json.JSONEncoder(separators=(",", ":")).encode
"""`json.dumps` makes an encoder at each call."""


class KnapsackEnvironment(Environment):
    """The state of one episode: what was inspected and taken.

    Args:
        task: What is played.
        content: What it holds, where that is at hand: to read it takes longer than to play it.

    Raises:
        UserError: The task's content is not valid.
    """

    in_memory = True

    def __init__(self, task: Task, content: Content | None = None) -> None:
        super().__init__(task)
        self._content = content or Content.of(task)
        self._strict = self._content.public.rules is RuleSet.STRICT
        self._inspected: set[str] = set()
        self._taken: dict[str, None] = {}
        self._weight = 0
        self._value = 0
        self._refused = 0
        self.goal = _goal(self._content)

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Run one tool call, and count it if it is refused.

        Raises:
            ToolError: Unknown tool, wrong arguments, or against the rules; nothing has changed.
        """
        try:
            return super().call(tool, arguments)
        except ToolError:
            self._refused += 1
            raise

    def verdict(self) -> Verdict:
        """Value of what was taken over the optimum's."""
        optimum = self._content.reference.optimal_value
        score = min(1.0, self._value / optimum) if optimum else 1.0
        return Verdict(
            is_solved=self._value >= optimum,
            score=score,
            metrics={
                "value": self._value,
                "optimal_value": optimum,
                "weight": self._weight,
                "capacity": self._content.public.capacity,
                "taken": len(self._taken),
                "inspected": len(self._inspected),
                "inspect_budget": self._content.public.inspect_budget,
                "refused_calls": self._refused,
            },
        )

    @tool
    def list_items(self) -> str:
        """JSON list of all item ids."""
        return _compact(self._content.public.item_ids)

    @tool
    def inspect(self, item_id: str) -> str:
        """JSON with the item's "class", "value" and "weight". Each distinct item costs one inspection."""
        item = self._item(item_id)
        budget = self._content.public.inspect_budget
        if item_id not in self._inspected and len(self._inspected) >= budget:
            raise ToolError(f"inspection budget used up: {budget} of {budget}")
        self._inspected.add(item_id)
        properties = {"class": item.class_, "value": item.value, "weight": item.weight}
        return _compact(properties)

    @tool
    def take_item(self, item_id: str) -> None:
        """Put one item into the knapsack."""
        item = self._item(item_id)
        if item_id in self._taken:
            raise ToolError(f"already taken: {item_id}")
        if self._strict and item_id not in self._inspected:
            raise ToolError(f"not inspected: {item_id}")
        if not self._content.allows(item.class_):
            raise ToolError(f"class {item.class_} is not allowed: {item_id}")
        free = self._content.public.capacity - self._weight
        if item.weight > free:
            raise ToolError(f"does not fit: {item_id} weighs {item.weight}, free capacity is {free}")
        self._taken[item_id] = None
        self._weight += item.weight
        self._value += item.value

    @tool
    def finish(self) -> None:
        """End the task."""
        self.finished = True

    def _item(self, item_id: str) -> Item:
        if item_id not in self._content.private.items:
            raise ToolError(f"no item {echo(item_id)}")
        return self._content.private.items[item_id]


def _goal(content: Content) -> str:
    """The first user message. Under the paper rules it names every class, not those allowed."""
    public = content.public
    lines = [
        "Pack a knapsack with the greatest total value. The items' properties are hidden until inspected.",
        f"Capacity (total weight): {public.capacity}",
        f"Inspection budget (distinct items): {public.inspect_budget}",
    ]
    if public.rules is RuleSet.STRICT:
        allowed = ", ".join(public.allowed_classes) or "all"
        lines += [f"Allowed classes: {allowed}", "Only items that were inspected can be taken."]
    else:
        present = sorted({item.class_ for item in content.private.items.values()})
        lines += [f"Classes: {', '.join(present)}", "Some classes are not allowed; a refused take says so."]
    return "\n".join([*lines, "Call finish() when done."])
