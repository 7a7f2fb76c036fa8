"""Playing one Opaque Knapsack task: four tools over hidden items, under one of two rule sets.

Arguments come from model-written code and are checked as such: a refused call raises `ToolError` and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from keepstate.tasks.base import Environment, Parameter, Task, Tool, ToolError, Verdict
from keepstate.tasks.families.knapsack.content import Content, content_of
from keepstate.vocabulary import RuleSet

ECHO_CHARS = 60
"""Most characters of the agent's own words that a refusal repeats."""

_ITEM = (Parameter(name="item_id", type="str"),)
TOOLS = (
    Tool(name="list_items", description="JSON list of all item ids.", returns="str"),
    Tool(
        name="inspect",
        description='JSON with the item\'s "class", "value" and "weight". Each distinct item costs one inspection.',
        parameters=_ITEM,
        returns="str",
    ),
    Tool(name="take_item", description="Put one item into the knapsack.", parameters=_ITEM),
    Tool(name="finish", description="End the task."),
)


class KnapsackEnvironment(Environment):
    """The state of one episode: what was inspected and taken.

    Raises:
        UserError: The task's content is not valid.
    """

    tools = TOOLS
    in_memory = True

    def __init__(self, task: Task) -> None:
        self._content: Content = content_of(task)
        self._strict = self._content.public.rules is RuleSet.STRICT
        self._inspected: set[str] = set()
        self._taken: dict[str, None] = {}
        self._weight = 0
        self._value = 0
        self._refused = 0
        self._finished = False
        self.goal = _goal(self._content)
        self._actions: dict[str, Callable[..., str | None]] = {
            "list_items": self._list_items,
            "inspect": self._inspect,
            "take_item": self._take_item,
            "finish": self._finish,
        }

    @property
    def finished(self) -> bool:
        """Whether `finish()` was called."""
        return self._finished

    def call(self, tool: str, arguments: dict[str, Any]) -> str | None:
        """Run one tool call; see `TOOLS`.

        Raises:
            ToolError: Unknown tool, wrong arguments, or against the rules; nothing has changed.
        """
        try:
            return self._checked(tool, arguments)
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

    def _checked(self, tool: str, arguments: dict[str, Any]) -> str | None:
        action = self._actions.get(tool) if isinstance(tool, str) else None
        if action is None:
            raise ToolError(f"unknown tool {_echo(tool)}; tools: {', '.join(self._actions)}")
        expected = [p.name for t in TOOLS if t.name == tool for p in t.parameters]
        if not isinstance(arguments, dict) or list(arguments) != expected:
            wanted = ", ".join(expected) or "no arguments"
            raise ToolError(f"{tool} takes {wanted}, got {_echo(arguments)}")
        if self._finished:
            raise ToolError("the task is finished")
        for name, value in arguments.items():
            if not isinstance(value, str):
                raise ToolError(f"{name} must be a str, got {type(value).__name__}")
            if value not in self._content.private.items:
                raise ToolError(f"no item {_echo(value)}")
        return action(**arguments)

    def _list_items(self) -> str:
        return json.dumps(self._content.public.item_ids, separators=(",", ":"))

    def _inspect(self, item_id: str) -> str:
        budget = self._content.public.inspect_budget
        if item_id not in self._inspected and len(self._inspected) >= budget:
            raise ToolError(f"inspection budget used up: {budget} of {budget}")
        self._inspected.add(item_id)
        item = self._content.private.items[item_id]
        properties = {"class": item.class_, "value": item.value, "weight": item.weight}
        return json.dumps(properties, separators=(",", ":"))

    def _take_item(self, item_id: str) -> None:
        if item_id in self._taken:
            raise ToolError(f"already taken: {item_id}")
        if self._strict and item_id not in self._inspected:
            raise ToolError(f"not inspected: {item_id}")
        item = self._content.private.items[item_id]
        if not self._content.allows(item.class_):
            raise ToolError(f"class {item.class_} is not allowed: {item_id}")
        free = self._content.public.capacity - self._weight
        if item.weight > free:
            raise ToolError(f"does not fit: {item_id} weighs {item.weight}, free capacity is {free}")
        self._taken[item_id] = None
        self._weight += item.weight
        self._value += item.value

    def _finish(self) -> None:
        self._finished = True


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


def _echo(value: object) -> str:
    """What the agent sent, short enough to repeat."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    text = text.encode("utf-8", "replace").decode()
    return repr(text if len(text) <= ECHO_CHARS else text[:ECHO_CHARS] + "…")
