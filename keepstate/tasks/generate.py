"""Making tasks from seeds.

The generator of a task is seeded by a hash of (family, parameters, seed, index), so two seeds never share a task and a
longer list begins with the shorter one. The rule set is not part of the hash: the same instances exist under both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

import numpy as np

from keepstate.errors import UserError
from keepstate.files import canonical_json, content_hash
from keepstate.tasks.base import Environment, Task
from keepstate.tasks.families import family
from keepstate.vocabulary import Difficulty, RuleSet


def make_tasks(
    family_name: str,
    difficulty: Difficulty | str,
    count: int,
    seed_start: int,
    *,
    rules: RuleSet | str = RuleSet.STRICT,
    apart_from: Collection[Task] = (),
) -> Iterator[Task]:
    """Sample `count` tasks.

    Args:
        family_name: Name of the family, e.g. `knapsack`.
        difficulty: A difficulty that the family has.
        count: How many; task i of a longer list is the same task.
        seed_start: The seed all of them share; each has its own index.
        rules: How much the environment tells.
        apart_from: Tasks whose problems must not recur here; a recurring one is passed over (its index is left out).

    Raises:
        UserError: An argument has no meaning here.
    """
    source = family(family_name)
    if difficulty not in source.difficulties:
        known = ", ".join(str(name) for name in source.difficulties)
        raise UserError(f"family {family_name} has no difficulty {str(difficulty)!r}", f"difficulties: {known}")
    if count < 1:
        raise UserError(f"cannot make {count} tasks", "ask for one or more, e.g. --count 100")
    parameters = source.difficulties[Difficulty(difficulty)]
    taken = {problem_hash(task) for task in apart_from}
    key = canonical_json([family_name, parameters.model_dump(mode="json"), seed_start])
    index = made = 0
    while made < count:
        digest = hashlib.sha256(f"{key}:{index}".encode()).digest()
        bits = np.random.PCG64(int.from_bytes(digest))
        instance = source.sample(bits, parameters, RuleSet(rules))
        task = Task(
            task_id=f"{difficulty}-{rules}-s{seed_start}-{index:05d}",
            family=family_name,
            difficulty=str(difficulty),
            seed=seed_start,
            public=instance.public,
            private=instance.private,
            reference=instance.reference,
        )
        index += 1
        if not taken or problem_hash(task) not in taken:
            made += 1
            yield task


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
            "generate the held-out tasks with another --seed",
        )


def environment_for(task: Task) -> Environment:
    """A new environment that plays `task`.

    Raises:
        UserError: The family is unknown, or the content is not valid.
    """
    return family(task.family).environment(task)
