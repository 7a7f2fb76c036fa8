"""Making tasks from seeds.

The generator of a task is seeded by a hash of (family, parameters, seed, index), so two seeds never share a task and a
longer list begins with the shorter one. The rule set is not part of the hash: the same instances exist under both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict

from keepstate.errors import UserError
from keepstate.files import canonical_json, content_hash
from keepstate.tasks.base import Task
from keepstate.tasks.dice import Dice
from keepstate.tasks.families import family, told
from keepstate.tasks.family import Family, Instance
from keepstate.tasks.loading import parameters_of

PROVEN = 3
"""Instances of a user's family that are drawn twice: a sampler with chance of its own shows at the first."""


def make_tasks(
    family_name: str,
    difficulty: str,
    count: int,
    seed_start: int,
    *,
    rules: str | None = None,
    apart_from: Collection[Task] = (),
) -> Iterator[Task]:
    """Sample `count` tasks.

    Args:
        family_name: Name of the family, e.g. `knapsack`.
        difficulty: A difficulty that the family has.
        count: How many; task i of a longer list is the same task.
        seed_start: The seed all of them share; each has its own index.
        rules: A rule set that the family has, its first where None.
        apart_from: Tasks whose problems must not recur here; a recurring one is passed over (its index is left out).

    Raises:
        UserError: An argument has no meaning here, or the family has no more tasks, or fails.
    """
    source = family(family_name)
    if count < 1:
        raise UserError(f"cannot make {count} tasks", "ask for one or more, e.g. --count 100")
    rules = checked_rules(source, rules)
    draw = _drawer(source, checked_difficulty(source, difficulty), rules, seed_start)
    name = f"{difficulty}-{rules}" if rules else difficulty
    taken = {problem_hash(task) for task in apart_from}
    index = made = 0
    while made < count:
        instance = draw(index)
        if instance is None:
            apart = f", {index - made} of them not apart from those given" if index > made else ""
            raise UserError(
                f"the family {family_name} has {index} tasks of {difficulty}{apart}; {count} were asked for",
                f"ask for fewer: --count {made}" if made else f"give {family_name} more tasks",
            )
        task = Task(
            task_id=f"{name}-s{seed_start}-{index:05d}",
            family=family_name,
            difficulty=difficulty,
            seed=seed_start,
            public=instance.public | ({"rules": rules} if rules else {}),
            private=instance.private,
            reference=instance.reference,
            family_source=source.source,
        )
        index += 1
        if not taken or problem_hash(task) not in taken:
            made += 1
            yield task


def checked_difficulty(source: Family, difficulty: str | None) -> str:
    """A difficulty that the family has; its first where None.

    Raises:
        UserError: It has none of that name.
    """
    if difficulty is None:
        return next(iter(source.difficulties))
    if difficulty not in source.difficulties:
        known = ", ".join(source.difficulties)
        raise UserError(f"family {source.name} has no difficulty {difficulty!r}", f"difficulties: {known}")
    return difficulty


def checked_rules(source: Family, rules: str | None) -> str | None:
    """A rule set that the family has; its first where None, if it has any.

    Raises:
        UserError: It has none of that name.
    """
    if rules is None:
        return next(iter(source.rules), None)
    if rules not in source.rules:
        known = f"rule sets: {', '.join(source.rules)}" if source.rules else "leave --rules out"
        raise UserError(f"family {source.name} has no rule set {rules!r}", known)
    return rules


def _drawer(source: Family, difficulty: str, rules: str | None, seed: int) -> Callable[[int], Instance | None]:
    """What draws the instance of an index; None beyond the last of a family that does not sample."""
    parameters = source.difficulties[difficulty]
    key = canonical_json([source.name, parameters_of(parameters), seed])
    with told(source, "instances"):
        given = source.instances(difficulty, rules)
    if given is not None:
        listed = [_plain(source, instance) for instance in given]
        Dice(f"{key}:order").shuffle(listed)
        return lambda index: listed[index] if index < len(listed) else None

    def sampled(index: int) -> Instance:
        with told(source, "sample"):
            instance = source.sample(Dice(f"{key}:{index}"), parameters, rules)
            if source.source is None:
                return instance
            plain = _plain(source, instance)
            if index < PROVEN and plain != _plain(source, source.sample(Dice(f"{key}:{index}"), parameters, rules)):
                raise ValueError("it drew two instances from one seed: take chance from dice alone")
        return plain

    return sampled


def _plain(source: Family, instance: Instance) -> Instance:
    """What a user's family gave, as it will be read back from a task file.

    Raises:
        UserError: It is no instance, or no JSON.
    """
    with told(source, "its instance"):
        if not isinstance(instance, Instance):
            raise TypeError(f"{type(instance).__name__} is no Instance(public={{...}}, private={{...}})")
        return Instance(**json.loads(json.dumps(asdict(instance), allow_nan=False)))


def problem_hash(task: Task) -> str:
    """SHA-256 of the problem alone: equal for one instance under two rule sets, whatever its id, seed and schema."""
    public = {key: value for key, value in task.public.items() if key != "rules"}
    return content_hash({"family": task.family, "public": public, "private": task.private})


def require_disjoint(train: Collection[Task], held_out: Collection[Task]) -> None:
    """Check that no problem is in both lists.

    Raises:
        UserError: One is; it is named.
    """
    seen = {problem_hash(task): task.name for task in train}
    shared = [(task.name, seen[problem_hash(task)]) for task in held_out if problem_hash(task) in seen]
    if shared:
        here, there = shared[0]
        raise UserError(
            f"{len(shared)} of {len(held_out)} held-out tasks are training tasks too, first {here} = {there}",
            "generate the held-out tasks with another --seed-start",
        )
