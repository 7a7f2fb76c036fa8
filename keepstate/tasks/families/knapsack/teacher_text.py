"""What the scripted teacher writes: thoughts, code blocks and tool calls, in the formats of the agents.

Pure text from `Decisions` and what was learnt; decides nothing. Kept short: these answers train a 135M-parameter model,
so code does the arithmetic (CodeAct), and ids and numbers are copied, never computed, where a later block needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Known = Mapping[str, tuple[int, int]]
"""Value and weight of each usable item, by id, in the order of inspection."""

Seen = Mapping[str, tuple[str, int, int]]
"""Class, value and weight of each inspected item, by id."""

ORDERS = {"listed": 0, "third first": 2, "fifth first": 4}
"""Exploration orders, and by how many places each rotates the list of ids. Rotations, because react has no code to
reverse or shuffle with: its next id is the next in the list."""

START = (
    "Budget {budget}: {first}, then {rest}.",
    "I have {budget} inspections: {first}, then {rest}.",
    "With {budget} inspections I look at {first}, then at {rest}.",
)
MORE = ("Now {batch}.", "I go on with {batch}.", "Next {batch}.")
PLAN = (
    "All batches are inspected. I pack the best into {capacity} and finish.",
    "Nothing is left to inspect. I take the best packing for {capacity} and finish.",
    "The budget is used. Now the best packing for {capacity}, and finish.",
)
"""The first turn repeats the budget and names every batch, as slices of the ids; later turns copy from it. Measured on
a 135M model (60 traces, one pass): where it had to count the budget down it stopped early or overran it, and where the
budget was not repeated, every slice ended at 8."""
RESTATE = (
    "Variables are gone, so I write the items again.",
    "I define again what I saw.",
    "I restate the items.",
)
NAMES = ("known", "found", "usable")
"""What the dictionary of usable items is called."""


@dataclass(frozen=True, slots=True)
class Style:
    """The choices of wording of one task, equal in all runtimes."""

    start: str
    more: tuple[str, ...]
    plan: str
    restate: str
    name: str
    order: str


@dataclass(frozen=True, slots=True)
class Goal:
    """The numbers of the goal that code and thoughts repeat."""

    capacity: int
    allowed: tuple[str, ...]


def setup_code(style: Style) -> str:
    """The import and the ids in the order of exploration."""
    places = ORDERS[style.order]
    rotation = f"\nids = ids[{places}:] + ids[:{places}]" if places else ""
    return f"import json\nids = json.loads(list_items()){rotation}"


def batch_words(first: int, last: int) -> str:
    """A batch, as a slice of the ids: what thoughts announce and code inspects."""
    return f"ids[{first or ''}:{last}]"


def inspect_code(goal: Goal, style: Style, first: int, last: int) -> str:
    """Inspect ids[first:last] and keep the usable ones."""
    return (
        f"for i in {batch_words(first, last)}:\n"
        "    x = json.loads(inspect(i))\n"
        f"    if x['class'] in {list(goal.allowed)}:\n"
        f"        {style.name}[i] = x['value'], x['weight']"
    )


def report_code(style: Style, *, whole: bool) -> str:
    """Print the usable items where the next block needs to read them, else only their number."""
    return f"print({style.name})" if whole else f"print(len({style.name}))"


def pack_code(goal: Goal, style: Style) -> str:
    """The exact packing (dynamic programming over total weights), taken, and the end."""
    return (
        "best = {0: (0, [])}\n"
        f"for i, (v, w) in {style.name}.items():\n"
        "    for t, (b, p) in list(best.items()):\n"
        f"        if t + w <= {goal.capacity}:\n"
        "            best[t + w] = max(best.get(t + w, (0,)), (b + v, p + [i]))\n"
        "for i in max(best.values())[1]:\n"
        "    take_item(i)\n"
        "finish()"
    )


def best_packing(known: Known, capacity: int) -> list[str]:
    """What `pack_code` computes, for the runtime that runs no code."""
    best: dict[int, tuple[int, list[str]]] = {0: (0, [])}
    for item, (value, weight) in known.items():
        for total, (worth, pack) in list(best.items()):
            if total + weight <= capacity:
                best[total + weight] = max(best.get(total + weight, (0, [])), (worth + value, [*pack, item]))
    return max(best.values())[1]


def known_code(style: Style, batches: Sequence[Known]) -> str:
    """The usable items as literals, batch by batch as they were printed; none yet without batches."""
    return f"{style.name} = {' | '.join(str(dict(known)) for known in batches) or '{}'}"


def seen_words(seen: Seen, allowed: Sequence[str]) -> str:
    """What a batch showed, item by item in its order: id, class, value/weight and whether it can be used."""
    return ", ".join(
        f"{item} {class_} {value}/{weight} {'yes' if class_ in allowed else 'no'}"
        for item, (class_, value, weight) in seen.items()
    )


def packing_words(known: Known, pack: Sequence[str]) -> str:
    """The chosen items as a sum of value/weight."""
    parts = [known[item] for item in pack]
    total = f"{sum(value for value, _ in parts)}/{sum(weight for _, weight in parts)}"
    return f"{' + '.join(f'{value}/{weight}' for value, weight in parts) or 'nothing'} = {total}"
