"""What a task family is: one subclass of `Family`, in a file of its own anywhere. docs/tasks.md shows a whole one.

What must be written: `difficulties`, `sample` (or `instances`) and `environment`, a class with the tools, the goal and
the verdict. All else is optional, and what is absent is shown as absent: a reference answer, reference policies, a plan
for the scripted teacher.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from keepstate.tasks.base import Environment, Task
from keepstate.tasks.dice import Dice
from keepstate.tasks.plan import Move, PlannedScript, Step
from keepstate.tasks.tools import ToolError
from keepstate.vocabulary import RuntimeName

FLOOR, CEILING = "blind", "oracle"
"""The two policies between which a score is corrected for chance."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What a family samples: the parts of a `Task` that make it the problem it is. All must be JSON-able."""

    public: dict[str, Any]
    """What the agent may be told."""
    private: dict[str, Any] = field(default_factory=dict)
    """What only the environment knows."""
    reference: dict[str, Any] = field(default_factory=dict)
    """The best answer; empty where none is known."""


class Script(Protocol):
    """A scripted player of one task in one runtime."""

    def answer(self, messages: Sequence[Mapping[str, Any]], turn: int) -> str:
        """The assistant's next text.

        Args:
            messages: The conversation so far.
            turn: 0 for the first answer.

        Raises:
            ValueError: The last observation is none that its own actions can lead to; other lookup and type errors too.
        """


class Family:
    """A generator of tasks, and all that is known of playing them well."""

    name: ClassVar[str] = ""
    """In files and folders; that of the family's file where it is not set."""
    difficulties: ClassVar[Mapping[str, Any]]
    """Parameters of each difficulty, the default first: a pydantic model or a JSON-able dict. They seed the tasks."""
    rules: ClassVar[tuple[str, ...]] = ()
    """Rule sets, the default first, if there are several. The same instances exist under each: what differs is told in
    `public["rules"]`, which `make_tasks` writes."""
    policies: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Reference policies and what they do, weakest first. `blind` is the floor, without thought, and `oracle` the
    ceiling, which no player exceeds: where both are there, scores are corrected for chance."""
    environment: type[Environment]
    """Plays a task."""
    source: str | None = None
    """File or module it was loaded from, and the SHA-256 of its file and of what that imports of its own folder or
    package, set by keepstate; None where it comes with it."""

    def sample(self, dice: Dice, parameters: Any, rules: str | None) -> Instance:
        """Draw one instance: from `dice` alone, so that a seed gives the same tasks again.

        Args:
            dice: The only source of chance.
            parameters: Of the difficulty.
            rules: The rule set; None where the family has none.
        """
        raise NotImplementedError

    def instances(self, difficulty: str, rules: str | None) -> Sequence[Instance] | None:
        """All instances there are, for a family that does not sample: `read_questions` reads them from JSONL."""
        return None

    def gold(self, task: Task) -> Sequence[Move] | None:
        """Calls that reach the reference answer: they may use hidden data, and must score 1.0. None: not known."""
        return None

    def reference_scores(self, task: Task) -> Mapping[str, float]:
        """Score in [0, 1] of each of `policies` on `task`."""
        return {}

    def plan(self, task: Task, dice: Dice) -> Generator[Step, list[Any], None] | None:
        """How the scripted teacher plays `task`: yields a step, is sent the results of its calls, yields the next.

        It should use what an agent is told and has seen, nothing else: what cannot be known cannot be learnt.

        Args:
            task: What is played.
            dice: Varies wording and order by the teacher's seed, alike in all runtimes.
        """
        return None

    def script(self, task: Task, runtime: RuntimeName, *, seed: int, tool_calls: int) -> Script | None:
        """The scripted teacher's answers; None where there is no `plan`.

        Args:
            task: What is played.
            runtime: Whose format and whose memory the answers assume.
            seed: Of the teacher: another one plays the same task differently.
            tool_calls: The cap on calls in one action.
        """
        del tool_calls
        plan = self.plan(task, Dice(f"{task.content_hash}:{seed}"))
        return None if plan is None else PlannedScript(plan, runtime, self.environment.tools)

    def score(self, task: Task, moves: Sequence[Move]) -> float:
        """Score of playing these calls; refused ones are passed over."""
        environment = self.environment(task)
        for move in moves:
            try:
                environment.call(move.tool, dict(move.arguments))
            except ToolError:
                continue
        return environment.verdict().score
