"""How agents used their runtimes: the columns of that table, and where two cells are shown to differ, in words.

The figures themselves are made in `keepstate.traces.behaviour`; docs/behaviour.md has the rule of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from keepstate.bench.results import Episode
from keepstate.report.statistics import Estimate, all_known, median_of
from keepstate.report.words import NONE, plain
from keepstate.traces.behaviour import FIGURES, BehaviourFigures


@dataclass(frozen=True, slots=True)
class BehaviourDifference:
    """A figure of behaviour in which two cells are shown to differ on the tasks that they share."""

    figure: str
    """Its key in `behaviour`."""
    difference: Estimate
    """First minus second: the median of the tasks' differences, with an interval that excludes 0."""


def behaviour_differences(
    first: Mapping[str, Sequence[Episode]], second: Mapping[str, Sequence[Episode]], tasks: Sequence[str]
) -> tuple[BehaviourDifference, ...]:
    """In which figures two cells are shown to differ.

    Args:
        first: Graded episodes by content hash of the task.
        second: Those of the other cell.
        tasks: Content hashes of the tasks to compare; one on which a figure is not known in both counts not for it.
    """
    found = []
    for name, figure in FIGURES.items():
        pairs = [
            [all_known([figure(each.behaviour) for each in cell[task]]) for cell in (first, second)] for task in tasks
        ]
        differences = [sum(a) / len(a) - sum(b) / len(b) for a, b in pairs if a and b]
        difference = median_of(differences, -math.inf)
        if difference is not None and difference.excludes(0):
            found.append(BehaviourDifference(name, difference))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class BehaviourColumn:
    """One column of the table, and how its figure is said of a difference."""

    title: str
    meaning: str
    text: Callable[[BehaviourFigures], str]


def _mean(name: str, scale: float = 1.0, digits: int = 2) -> Callable[[BehaviourFigures], str]:
    return lambda figures: plain(getattr(figures, name), scale, digits)


def _kinds(counts: Mapping[str, int]) -> str:
    if not counts:
        return "0"
    return f"{sum(counts.values())} ({', '.join(f'{kind} {count}' for kind, count in counts.items())})"


def _seconds(figures: BehaviourFigures) -> str:
    parts = [plain(getattr(figures, f"{who}_seconds"), 1.0, 2) for who in ("model", "sandbox", "other")]
    return NONE if {*parts} == {NONE} else " + ".join(parts)


def _tokens(figures: BehaviourFigures) -> str:
    parts = [plain(getattr(figures, name), 1.0, 0) for name in ("prompt_tokens", "cached_tokens", "written_tokens")]
    return NONE if {*parts} == {NONE} else " / ".join(parts)


BEHAVIOUR_COLUMNS = (
    BehaviourColumn("state use", "names an action reads that an earlier action defined, mean", _mean("state_use")),
    BehaviourColumn("life", "steps from a name's definition to its last use by a later action, mean", _mean("life")),
    BehaviourColumn("imports", "import statements an action, mean", _mean("imports")),
    BehaviourColumn(
        "redundancy %",
        "code tokens that define again what the runtime still holds (the amnesia tax)",
        _mean("redundancy", 100.0, 1),
    ),
    BehaviourColumn(
        "repeated calls %",
        "answered tool calls that were answered before in the episode",
        _mean("repeated_calls", 100.0, 1),
    ),
    BehaviourColumn("cap hits %", "actions that ran into the cap on tool calls", _mean("cap_hits", 100.0, 1)),
    BehaviourColumn(
        "missing variables", "steps of an episode that ended in a missing variable, mean", _mean("missing_variables")
    ),
    BehaviourColumn(
        "format errors", "answers without a single action, in all episodes, by kind", lambda f: _kinds(f.format_errors)
    ),
    BehaviourColumn(
        "other errors",
        "steps that ended in another error of the agent's own, in all episodes, by class",
        lambda f: _kinds(f.other_errors),
    ),
    BehaviourColumn("prompt / cached / written", "tokens of an episode, mean", _tokens),
    BehaviourColumn(
        "billed again",
        "prompt tokens of an episode that the call before held already and that came from no cache, mean",
        _mean("billed_again", 1.0, 0),
    ),
    BehaviourColumn("seconds", "of an episode: waiting for the model + in the sandbox + elsewhere, mean", _seconds),
    BehaviourColumn(
        "unread", "episodes with code that could not be read, in no figure of state", lambda f: str(f.unknown)
    ),
)
_SAID: Mapping[str, tuple[str, float, int]] = {
    "actions": ("actions", 1.0, 1),
    "state_use": ("state use", 1.0, 2),
    "life": ("life of names", 1.0, 2),
    "imports": ("imports an action", 1.0, 2),
    "redundancy": ("redundancy in points", 100.0, 1),
    "repeated_calls": ("repeated calls in points", 100.0, 1),
    "cap_hits": ("cap hits in points", 100.0, 1),
    "missing_variables": ("missing variables", 1.0, 2),
    "prompt_tokens": ("prompt tokens", 1.0, 0),
    "written_tokens": ("written tokens", 1.0, 0),
    "billed_again": ("tokens billed again", 1.0, 0),
}
"""How a difference is said: words, scale and digits. Seconds are not: they depend on the machine's load."""


def said_differences(differences: Sequence[BehaviourDifference]) -> Iterator[str]:
    """`redundancy in points +38.0 (31.2 to 44.9)`, for each figure that does not depend on the machine."""
    for each in differences:
        if each.figure in _SAID:
            words, scale, digits = _SAID[each.figure]
            value, low, high = (
                f"{scale * end:+,.{digits}f}"
                for end in (each.difference.value, each.difference.low or 0.0, each.difference.high or 0.0)
            )
            yield f"{words} {value} ({low} to {high})"
