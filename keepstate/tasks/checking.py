"""`keepstate tasks check`: what a family promises, tried on tasks of each of its difficulties and rule sets.

Proves that a seed gives the same tasks again, that they are JSON and playable, that the reference answer scores 1 and
ends the episode, and that policies and the plan do what they should. Says what the family has none of. Plays nothing in
a runtime: `keepstate.play.rehearse` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from pydantic import ValidationError

from keepstate.closed import explain
from keepstate.errors import UserError
from keepstate.tasks.base import Environment, Task, Verdict
from keepstate.tasks.dice import Dice
from keepstate.tasks.families import environment_for, reference_scores, told
from keepstate.tasks.family import CEILING, FLOOR, Family
from keepstate.tasks.generate import make_tasks
from keepstate.tasks.plan import Move

MOST_STEPS = 1_000
"""Of a plan: one that goes on beyond them does not end."""


def check_family(family: Family, count: int) -> Iterator[str]:
    """Prove a family; yields what was found, line by line.

    Args:
        family: Loaded.
        count: Tasks of every difficulty and rule set; of a family that has fewer, all.

    Raises:
        UserError: It breaks a promise; tells which, on which task, and the line of the family's file.
    """
    yield f"{family.name}: {family.source or 'comes with keepstate'}"
    for tool in family.environment.tools:
        yield f"tool {tool.signature}: {tool.description}"
    tasks: list[Task] = []
    for difficulty, rules in product(family.difficulties, family.rules or (None,)):
        made = _some(family, difficulty, rules, count)
        if made != _some(family, difficulty, rules, count):
            raise broken(family, f"{difficulty}: the same seed gives other tasks the second time")
        yield f"{difficulty}{f', {rules} rules' if rules else ''}: {len(made)} tasks, the same again by their seed"
        tasks += made
    for task in tasks:
        _verdict(family, task, environment_for(task), "before anything is done")
    yield _reference(family, tasks)
    yield _policies(family, tasks)
    if not has_script(family):
        yield _plan(family, tasks)


def has_script(family: Family) -> bool:
    """Whether its scripted teacher is not made of its plan, and must be played to be proven."""
    return type(family).script is not Family.script


def sampled(family: Family, count: int) -> list[Task]:
    """Tasks of every difficulty and rule set, `count` of each."""
    kinds = product(family.difficulties, family.rules or (None,))
    return [task for difficulty, rules in kinds for task in _some(family, difficulty, rules, count)]


def _some(family: Family, difficulty: str, rules: str | None, count: int) -> list[Task]:
    with told(family, "instances"):
        given = family.instances(difficulty, rules)
    count = count if given is None else max(1, min(count, len(given)))
    return list(make_tasks(family.name, difficulty, count, 0, rules=rules))


def _reference(family: Family, tasks: list[Task]) -> str:
    """Whether the reference answer scores 1 and ends the episode."""
    known = 0
    for task in tasks:
        with told(family, "gold"):
            moves = family.gold(task)
        if moves is None:
            continue
        known += 1
        environment = environment_for(task)
        for move in moves:
            _call(family, environment, move)
        verdict = _verdict(family, task, environment, "after its reference answer")
        if verdict.score != 1.0 or not verdict.is_solved:
            scores = f"scores {verdict.score:g}, is_solved is {verdict.is_solved}"
            raise broken(family, f"{task.name}: its reference answer {scores}")
        if not environment.finished:
            raise broken(family, f"{task.name}: its reference answer does not end the episode: set self.finished")
        if not task.reference:
            raise broken(family, f"{task.name}: it has gold calls, but Instance.reference is empty")
    if not known:
        return "no reference answer (gold): a score is no share of an optimum"
    return f"reference answers score 1 and end the episode: {known} of {len(tasks)}"


def _call(family: Family, environment: Environment, move: Move) -> Any:
    """Make a call, and check that what it returns is JSON of the type that the agent was told."""
    with told(family, f"tool {move.tool}"):
        result = environment.call(move.tool, dict(move.arguments))
        bound = family.environment.bound_tools().get(move.tool)
        if bound is None:
            return result
        try:
            bound.result_check.validate_json(json.dumps(result, allow_nan=False), strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise TypeError(f"it returned {result!r:.80}, but is declared -> {bound.told.returns}: {found}") from None
    return result


def _verdict(family: Family, task: Task, environment: Environment, when: str) -> Verdict:
    with told(family, f"verdict, {when}, of {task.name}"):
        try:
            return Verdict.model_validate(environment.verdict())
        except ValidationError as error:
            raise TypeError(f"it is no Verdict: {explain(error, Verdict).message}") from None


def _policies(family: Family, tasks: list[Task]) -> str:
    """Whether the reference policies are those that the family names, and score in [0, 1]."""
    for task in tasks:
        scores = reference_scores(task)
        if set(scores) != set(family.policies):
            given = f"{', '.join(scores) or 'none'}; policies names {', '.join(family.policies) or 'none'}"
            raise broken(family, f"{task.name}: reference_scores gives {given}")
        if bad := [name for name, score in scores.items() if not 0 <= score <= 1]:
            raise broken(family, f"{task.name}: the policy {bad[0]} scores {scores[bad[0]]}, not in [0, 1]")
        if {FLOOR, CEILING} <= set(scores) and scores[FLOOR] > scores[CEILING]:
            raise broken(family, f"{task.name}: the floor ({FLOOR}) scores more than the ceiling ({CEILING})")
    lacking = [name for name in (FLOOR, CEILING) if name not in family.policies]
    end = f"; without {' and '.join(lacking)} no score is corrected for chance" if lacking else ""
    return f"reference policies: {', '.join(family.policies) or 'none'}{end}"


def _plan(family: Family, tasks: list[Task]) -> str:
    """Whether the plan plays every task to its end, without a refused call."""
    scores = []
    for task in tasks:
        with told(family, "plan"):
            plan = family.plan(task, Dice(f"{task.content_hash}:0"))
        if plan is None:
            continue
        environment, results = environment_for(task), None
        for _ in range(MOST_STEPS):
            with told(family, "plan"):
                calls = plan.send(results).calls  # type: ignore[arg-type] # None starts it
            results = []
            for move in calls:
                results += [] if environment.finished else [_call(family, environment, move)]
            if environment.finished:
                break
        else:
            raise broken(family, f"its plan does not end {task.name} within {MOST_STEPS} steps")
        scores.append(_verdict(family, task, environment, "after its plan").score)
    if not scores:
        return "no plan: its traces need a model as teacher (keepstate traces collect --teacher llm)"
    return f"the plan plays {len(scores)} tasks to their end, mean score {sum(scores) / len(scores):.3f}"


def broken(family: Family, words: str) -> UserError:
    """The error that a broken promise of `family` is."""
    return UserError(f"{family.name}: {words}", f"mend {(family.source or family.name).partition(' ')[0]}")
