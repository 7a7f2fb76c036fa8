"""Rule diagnosis: find a hidden rule y = ax + b, or y = (ax + b) mod m, by trying few inputs.

Score 1 where the submitted parameters give the same rule, else 0. Submitting ends the episode.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from keepstate.closed import Closed
from keepstate.tasks.base import Environment, Task, TaskContent, Verdict
from keepstate.tasks.dice import Dice
from keepstate.tasks.family import Family, Instance
from keepstate.tasks.plan import Move, Step
from keepstate.tasks.tools import ToolError, tool

MOST_X = 100
"""Inputs lie between -100 and 100."""
PRIMES = (5, 7, 11, 13, 17, 19, 23, 29, 31)
Rule = tuple[int, int, int]
"""m, a, b; m is 0 for `linear_int`, and a and b lie in [0, m) for `affine_mod`."""


class DiagnosisParameters(Closed):
    """What is drawn uniformly, and from where; ranges include both ends."""

    a: tuple[int, int]
    """Never 0, nor a multiple of m."""
    b: tuple[int, int]
    moduli: tuple[int, ...]
    probes: tuple[int, int]


class RulePublic(DiagnosisParameters):
    """What the goal tells: the rules that may be, and how many inputs may be tried."""

    probes: int = Field(ge=1)  # type: ignore[assignment]


class RulePrivate(Closed):
    """The rule."""

    kind: Literal["linear_int", "affine_mod"]
    a: int
    b: int
    m: int | None = None


class RuleReference(Closed):
    """What to submit."""

    params: dict[str, int]


class RuleContent(TaskContent):
    """A whole instance, checked for agreement with itself."""

    public: RulePublic
    private: RulePrivate
    reference: RuleReference

    @property
    def rule(self) -> Rule:
        """The hidden rule."""
        return rule_of(self.private.a, self.private.b, self.private.m)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.private.kind == "affine_mod") != (self.private.m is not None):
            raise ValueError("private.m belongs to affine_mod")
        if self.rule not in rules_of(self.public.a, self.public.b, self.public.moduli):
            raise ValueError("the hidden rule is none of those that public tells")
        params = self.reference.params
        if set(params) - {"m"} != {"a", "b"} or rule_of(**params) != self.rule:
            raise ValueError("reference.params gives another rule")
        return self


def rule_of(a: int, b: int, m: int | None = None) -> Rule:
    """The rule of these parameters: equal for all that give the same outputs."""
    return (m, a % m, b % m) if m else (0, a, b)


def output(rule: Rule, x: int) -> int:
    """What a rule makes of an input."""
    m, a, b = rule
    return (a * x + b) % m if m else a * x + b


@functools.lru_cache(maxsize=32)
def rules_of(a: tuple[int, int], b: tuple[int, int], moduli: tuple[int, ...]) -> dict[Rule, int]:
    """Every rule that may be, and its row in `outputs_of`."""
    pairs = [(p, q) for p in range(a[0], a[1] + 1) for q in range(b[0], b[1] + 1)]
    found = [rule_of(p, q, m) for m in (None, *moduli) for p, q in pairs if (p % m if m else p)]
    return {rule: row for row, rule in enumerate(dict.fromkeys(found))}


@functools.lru_cache(maxsize=32)
def outputs_of(a: tuple[int, int], b: tuple[int, int], moduli: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """The output of every rule (rows) for every input from -100 to 100 (columns)."""
    m, slope, offset = np.array(list(rules_of(a, b, moduli))).T
    y: npt.NDArray[np.int64] = slope[:, None] * np.arange(-MOST_X, MOST_X + 1) + offset[:, None]
    wraps = m > 0
    y[wraps] %= m[wraps, None]
    return y


def telling_input(left: npt.NDArray[np.int64]) -> int:
    """The input that leaves the fewest rules on average; of several, the one nearest to 0.

    Args:
        left: Outputs of the rules that still may be; rows and columns as in `outputs_of`.
    """

    def expected(column: int) -> int:
        return int((np.unique(left[:, column], return_counts=True)[1] ** 2).sum())

    return min(range(-MOST_X, MOST_X + 1), key=lambda x: (expected(x + MOST_X), abs(x), x))


class DiagnosisEnvironment(Environment):
    """Which inputs were tried, and what was submitted.

    Raises:
        UserError: The task's content is not valid.
    """

    in_memory = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        content = RuleContent.of(task)
        self._public, self._rule = content.public, content.rule
        self._tried: set[int] = set()
        self._right = False
        a, b = (f"{low} to {high}" for low, high in (self._public.a, self._public.b))
        self.goal = (
            "Find the hidden rule. It is linear_int, y = a*x + b, or affine_mod, y = (a*x + b) mod m.\n"
            f"a: {a}, not 0 (mod m). b: {b}. m: one of {', '.join(map(str, self._public.moduli))}.\n"
            f"You may try {self._public.probes} inputs, whole numbers from -{MOST_X} to {MOST_X}.\n"
            'Then submit {"a": ..., "b": ...}, with "m" too if the rule is affine_mod. You can submit once.'
        )

    @tool
    def test_input(self, x: int) -> int:
        """The rule's output for x. Each distinct x costs one try."""
        if not -MOST_X <= x <= MOST_X:
            raise ToolError(f"x must be between -{MOST_X} and {MOST_X}")
        if x not in self._tried and len(self._tried) >= self._public.probes:
            raise ToolError(f"tries used up: {self._public.probes} of {self._public.probes}")
        self._tried.add(x)
        return output(self._rule, x)

    @tool
    def submit(self, params: dict[str, int]) -> None:
        """Answer with the rule's "a" and "b", and "m" if it is affine_mod. Ends the task."""
        if set(params) - {"m"} != {"a", "b"}:
            raise ToolError('params needs "a" and "b", and "m" if the rule is affine_mod; nothing else')
        if params.get("m", 1) < 1:
            raise ToolError("m must be 1 or more")
        self._right = rule_of(**params) == self._rule
        self.finished = True

    def verdict(self) -> Verdict:
        """Right or not."""
        metrics: dict[str, float] = {"tries": len(self._tried), "most_tries": self._public.probes}
        return Verdict(is_solved=self._right, score=float(self._right), metrics=metrics)


class RuleDiagnosis(Family):
    """The family."""

    name = "rule_diagnosis"
    environment = DiagnosisEnvironment
    difficulties = MappingProxyType(
        {
            "mini": DiagnosisParameters(a=(-3, 3), b=(-5, 5), moduli=(5, 7), probes=(3, 5)),
            "easy": DiagnosisParameters(a=(-4, 4), b=(-10, 10), moduli=(5, 7, 11), probes=(3, 5)),
            "medium": DiagnosisParameters(a=(-10, 10), b=(-20, 20), moduli=(13, 17, 19, 23), probes=(10, 15)),
            "hard": DiagnosisParameters(a=(-12, 12), b=(-50, 50), moduli=PRIMES, probes=(6, 12)),
        }
    )
    policies = MappingProxyType(
        {
            "blind": "submits a rule that may be, without trying anything: the floor",
            "split": "tries what leaves the fewest rules, then submits one of them",
            "oracle": "knows the rule",
        }
    )

    def sample(self, dice: Dice, parameters: DiagnosisParameters, rules: str | None) -> Instance:
        """Draw one instance: either kind as often."""
        m = dice.choice(parameters.moduli) if dice.randint(0, 1) else None
        a = 0
        while not (a % m if m else a):
            a = dice.randint(*parameters.a)
        b = dice.randint(*parameters.b)
        public = parameters.model_dump(mode="json") | {"probes": dice.randint(*parameters.probes)}
        params = {"a": a, "b": b} | ({"m": m} if m else {})
        kind = "affine_mod" if m else "linear_int"
        return Instance(public=public, private={"kind": kind, **params}, reference={"params": params})

    def gold(self, task: Task) -> Sequence[Move]:
        """Submit the rule."""
        return [Move("submit", {"params": RuleContent.of(task).reference.params})]

    def reference_scores(self, task: Task) -> dict[str, float]:
        """Scores of the policies."""
        public, hidden = RuleContent.of(task).public, RuleContent.of(task).rule
        every = list(rules_of(public.a, public.b, public.moduli))
        guess = Dice(f"{task.content_hash}:blind").choice(every)
        left = outputs_of(public.a, public.b, public.moduli)
        ids = np.arange(len(every))
        for _ in range(public.probes):
            if len(ids) == 1:
                break
            x = telling_input(left[ids])
            ids = ids[left[ids, x + MOST_X] == output(hidden, x)]
        found = every[int(ids[0])]
        return {
            "blind": self.score(task, [_submit(guess)]),
            "split": self.score(task, [_submit(found)]),
            "oracle": self.score(task, self.gold(task)),
        }

    def plan(self, task: Task, dice: Dice) -> Generator[Step, list[Any], None]:
        """A great input tells the kind; then 0 tells b of a linear rule, or else what leaves the fewest rules."""
        public = RulePublic.model_validate(task.public)
        every = list(rules_of(public.a, public.b, public.moduli))
        left, ids = outputs_of(public.a, public.b, public.moduli), np.arange(len(every))
        words, x, tried = dice.choice(("I try {}.", "Next input: {}.", "Now {}.")), MOST_X, [MOST_X]
        thought = f"If the rule is linear_int, x = {x} gives more than any modulus. {words.format(x)}"
        while True:
            (y,) = yield Step(thought, [Move("test_input", {"x": x})])
            ids = ids[left[ids, x + MOST_X] == y]
            if len(ids) == 1 or len(tried) == public.probes:
                break
            linear = not any(every[row][0] for row in ids)
            x = 0 if linear else telling_input(left[ids])
            tried.append(x)
            kind = "linear_int, and x = 0 gives b" if linear else f"affine_mod; {len(ids)} rules fit"
            thought = f"y = {y}, so the rule is {kind}. {words.format(x)}"
        rule = every[int(ids[0])]
        kind = "affine_mod" if rule[0] else "linear_int"
        code = _code(rule, tried, public.moduli)
        yield Step(f"y = {y}. I compute the {kind} rule that fits, and submit it.", [_submit(rule)], code)


def _submit(rule: Rule) -> Move:
    m, a, b = rule
    return Move("submit", {"params": {"a": a, "b": b} | ({"m": m} if m else {})})


def _code(rule: Rule, tried: Sequence[int], moduli: Sequence[int]) -> str | None:
    """How code finds the rule from the outputs seen; None where they are too few for that."""
    if not rule[0]:
        if list(tried) != [MOST_X, 0]:
            return None
        return f"b = seen[1]\na = (seen[0] - b) // {MOST_X}\nsubmit({{'a': a, 'b': b}})"
    wanted = [output(rule, x) for x in tried]
    every = ((m, a, b) for m in moduli for a in range(1, m) for b in range(m))
    if next(each for each in every if [output(each, x) for x in tried] == wanted) != rule:
        return None
    return (
        f"tried = {list(tried)}\n"
        f"fit = [(m, a, b) for m in {list(moduli)} for a in range(1, m) for b in range(m)\n"
        "       if all((a * x + b) % m == y for x, y in zip(tried, seen))]\n"
        "m, a, b = fit[0]\n"
        "submit({'a': a, 'b': b, 'm': m})"
    )
