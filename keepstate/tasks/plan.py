"""The scripted teacher's steps as text, for each runtime: the same calls, only state is carried in another way.

`persistent` keeps what calls return in the list `seen`; `forget` writes that list again in every block; `react` has the
results in its conversation. Knows no family and no model.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from keepstate.tasks.tools import Tool
from keepstate.vocabulary import RuntimeName


@dataclass(frozen=True, slots=True)
class Move:
    """One tool call."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of the teacher."""

    thought: str
    calls: Sequence[Move]
    """In order; none may be refused. The last call of a plan ends the episode."""
    code: str | None = None
    """Python that makes exactly these calls, and may read `seen`, all results so far of calls that return something;
    written from `calls` if None. Unless it ends the episode, it must add their results to `seen`, and print them."""


def codeact(thought: str, code: str) -> str:
    """An answer of a CodeAct agent."""
    return f"{thought}\n\n```python\n{code}\n```"


def react(thought: str, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """An answer of a ReAct agent."""
    action = json.dumps([{"tool": tool, "args": dict(arguments)} for tool, arguments in calls], separators=(",", ":"))
    return f"Thought: {thought}\nAction: {action}"


class PlannedScript:
    """Writes a family's plan in a runtime's format, and reads back what its calls returned.

    Args:
        plan: Of one task; it is used up.
        runtime: Where it is played.
        tools: Of the environment: their types say how a result reads.
    """

    def __init__(self, plan: Generator[Step, list[Any], None], runtime: RuntimeName, tools: Sequence[Tool]) -> None:
        self._plan, self._runtime = plan, runtime
        self._returns = {tool.name: tool.returns for tool in tools}
        self._seen: list[Any] = []
        self._last: Step | None = None

    def answer(self, messages: Sequence[Mapping[str, Any]], turn: int) -> str:
        """The assistant's text for the next step of the plan.

        Raises:
            ValueError: The observation does not hold the results of the last step's calls, or the plan is at its end.
        """
        results: list[Any] = []
        if self._last is not None:
            results = self._results(messages[-1]["content"])
            told = zip(self._last.calls, results, strict=True)
            self._seen += [result for move, result in told if self._tells(move)]
        try:
            step = next(self._plan) if self._last is None else self._plan.send(results)
        except StopIteration:
            raise ValueError("the plan is at its end and the episode is not") from None
        self._last = step
        if self._runtime is RuntimeName.REACT:
            return react(step.thought, [(move.tool, move.arguments) for move in step.calls])
        first = [f"seen = {self._seen!r}"] if turn == 0 or self._runtime is not RuntimeName.PERSISTENT else []
        return codeact(step.thought, "\n".join([*first, step.code or self._code(step.calls)]))

    def _code(self, calls: Sequence[Move]) -> str:
        """The calls as Python: results go into `seen` and are printed."""
        lines, telling = [], 0
        for move in calls:
            call = f"{move.tool}({', '.join(f'{name}={value!r}' for name, value in move.arguments.items())})"
            lines.append(f"seen.append({call})" if self._tells(move) else call)
            telling += self._tells(move)
        return "\n".join([*lines, *([f"print(seen[-{telling}:])"] if telling else [])])

    def _results(self, observation: str) -> list[Any]:
        assert self._last is not None
        calls = self._last.calls
        if self._runtime is not RuntimeName.REACT:
            told = json.loads(observation)
            if told.get("error"):
                raise ValueError("its code failed")
            printed = ast.literal_eval(told["output"].strip() or "[]")
            if len(printed) != sum(map(self._tells, calls)):
                raise ValueError("it did not print the results of its calls")
            rest = iter(printed)
            return [next(rest) if self._tells(move) else None for move in calls]
        lines = observation.split("\n")
        return [self._value(move.tool, line) for move, line in zip(calls, lines, strict=True)]

    def _tells(self, move: Move) -> bool:
        """Whether a call returns something."""
        return self._returns.get(move.tool) != "None"

    def _value(self, tool: str, line: str) -> Any:
        start = f"Observation: [{tool}] "
        text = line.removeprefix(start)
        if text == line or text.startswith("error: "):
            raise ValueError(f"{tool} was refused, or was not called")
        if self._returns[tool] != "str":
            return json.loads(text)
        with suppress(ValueError):
            if text.startswith('"') and not (whole := json.loads(text)).isprintable():
                return whole  # a text of several lines comes as JSON
        return text
