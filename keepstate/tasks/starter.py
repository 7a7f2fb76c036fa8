"""A family of tasks: find a hidden number by asking whether a guess is too low or too high.

Change it step by step, and prove it after each: `keepstate tasks check FILE.py`. Needed are `difficulties`, `sample`,
and an environment with a goal, tools and a verdict. What stands below "optional" may go: it is then shown as absent.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from keepstate.tasks import Dice, Environment, Family, Instance, Move, Step, Task, ToolError, Verdict, tool


class Guessing(Environment):
    """One task being played. It runs in keepstate's own process; an agent reaches it through its tools alone."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.most: int = task.public["most"]
        self.number: int = task.private["number"]
        self.asked = 0
        self.answer: int | None = None
        self.goal = (
            f"Find the hidden whole number between 1 and {self.most}.\n"
            f"{self.most.bit_length()} questions are enough; more cost points.\n"
            "Call finish(number) with your answer."
        )

    @tool
    def compare(self, guess: int) -> str:
        """Whether the hidden number is "lower" than the guess, "higher" or "equal". Counts as a question."""
        if not 1 <= guess <= self.most:
            raise ToolError(f"guess must be between 1 and {self.most}")  # the agent reads this; the call has no effect
        self.asked += 1
        if guess == self.number:
            return "equal"
        return "lower" if self.number < guess else "higher"

    @tool
    def finish(self, number: int) -> None:
        """Answer, and end the task."""
        self.answer = number
        self.finished = True

    def verdict(self) -> Verdict:
        """The score is in [0, 1]; metrics may be any numbers."""
        right = self.answer == self.number
        enough = self.most.bit_length()
        score = enough / max(enough, self.asked) if right else 0.0
        return Verdict(is_solved=right, score=score, metrics={"asked": self.asked})


class Guess(Family):
    """Samples the tasks."""

    difficulties = {"mini": {"most": 15}, "easy": {"most": 100}, "hard": {"most": 10_000}}
    environment = Guessing

    def sample(self, dice: Dice, parameters: Any, rules: str | None) -> Instance:
        """One task; all chance comes from `dice`, which is a random.Random."""
        most = parameters["most"]
        number = dice.randint(1, most)
        return Instance(public={"most": most}, private={"number": number}, reference={"number": number})

    # optional: calls that reach the reference answer, and must score 1. Without it there is no optimum.
    def gold(self, task: Task) -> list[Move]:
        """Answer at once."""
        return [Move("finish", {"number": task.private["number"]})]

    # optional: what scores are compared with. Without `blind` and `oracle` they are not corrected for chance.
    policies = {"blind": "answers the middle without asking", "oracle": "knows the number"}

    def reference_scores(self, task: Task) -> dict[str, float]:
        """Score of each policy."""
        middle = Move("finish", {"number": (1 + task.public["most"]) // 2})
        return {"blind": self.score(task, [middle]), "oracle": self.score(task, self.gold(task))}

    # optional: how a scripted teacher plays. Without it, traces need a model as teacher.
    def plan(self, task: Task, dice: Dice) -> Generator[Step, list[Any], None]:
        """Halve what is left; yields each step, and is sent the results of its calls."""
        low, high = 1, task.public["most"]
        while low < high:
            middle = (low + high) // 2
            thought = f"It is between {low} and {high}. I try {middle}."
            (said,) = yield Step(thought, [Move("compare", {"guess": middle})])
            if said == "equal":
                low = high = middle
            elif said == "lower":
                high = middle - 1
            else:
                low = middle + 1
        yield Step(f"Only {low} is left.", [Move("finish", {"number": low})])
