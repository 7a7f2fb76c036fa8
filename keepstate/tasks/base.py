"""What every task family shares: the task file, the environment that plays it, its tools, its verdict.

A family samples `Task`s and makes an `Environment` from one. The environment holds the hidden state and lives in the
host process only; runtimes reach it through tool calls. Nothing here executes an agent's actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field

from keepstate.closed import Closed
from keepstate.files import content_hash

TASK_SCHEMA: Literal["keepstate.task.v1"] = "keepstate.task.v1"
RESEARCH_TASK_SCHEMA = "pythonformer.task.v1"
MOST = 1e300
"""Of a metric: sums and means of a hundred million of them are still numbers."""


class Task(Closed):
    """One seeded problem instance.

    `public` is what an agent may be told, `private` what only its environment knows, `reference` the best answer.
    """

    schema_: Literal["keepstate.task.v1", "pythonformer.task.v1"] = Field(default=TASK_SCHEMA, alias="schema")
    """Names this format, or the research code's."""
    task_id: str
    """Part of the names of its files."""
    family: str
    """Who can play it."""
    difficulty: str
    """Name of the parameter set; `research` in a file of the research code."""
    seed: int
    """Of the set that it was sampled in."""
    public: dict[str, Any]
    """What an agent may be told."""
    private: dict[str, Any]
    """What only its environment knows."""
    reference: dict[str, Any]
    """The best answer."""

    @property
    def name(self) -> str:
        """`<family>-<task_id>`: the stem of the files of this task's episodes."""
        return f"{self.family}-{self.task_id}"

    @property
    def content_hash(self) -> str:
        """SHA-256 of what makes this task the problem it is (not of its id, seed or schema)."""
        return content_hash({"family": self.family, "public": self.public, "private": self.private})


class Parameter(Closed):
    """One argument of a tool."""

    name: str
    type: str


class Tool(Closed):
    """What an agent is told about one tool."""

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    returns: str = "None"

    @property
    def signature(self) -> str:
        """The Python signature, e.g. `inspect(item_id: str) -> str`."""
        arguments = ", ".join(f"{p.name}: {p.type}" for p in self.parameters)
        return f"{self.name}({arguments}) -> {self.returns}"


class ToolError(Exception):
    """A tool refused a call; the agent sees the message: a Python exception in CodeAct, an error line in ReAct."""


class Verdict(Closed, strict=True, allow_inf_nan=False, revalidate_instances="always"):
    """How well an episode went, by its environment's own state.

    Strict: a score that is none (not finite, outside [0, 1], a bool, text) is refused wherever it comes from, a family,
    a file or another tool; an instance that was made past the checks is checked again when it enters a trace.
    """

    is_solved: bool
    """Whether the goal of the task was reached."""
    score: float = Field(ge=0, le=1)
    """In [0, 1]; 1.0 is the optimum."""
    metrics: dict[str, Annotated[float, Field(ge=-MOST, le=MOST)]] = Field(default={})
    """Whatever else a family counts."""


class Environment(ABC):
    """One task being played. Made anew for every episode; not thread-safe."""

    tools: tuple[Tool, ...]
    """Every family has a `finish()` tool or ends by its goal; `finish` never counts against the cap on tool calls."""
    goal: str
    """The first user message of the episode."""
    in_memory: bool = False
    """Whether every call returns within a millisecond: no files, no network, no long search. Such calls are run where
    all episodes are served; those of other environments in a thread, one after another, each 0.03 ms dearer."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the episode is over by the agent's own doing."""

    @abstractmethod
    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Run one tool call and return a JSON-able value.

        `arguments` come from model-written code: any JSON value under any name must be expected.

        Raises:
            ToolError: The call is refused; nothing has changed.
        """

    @abstractmethod
    def verdict(self) -> Verdict:
        """Grade the episode as it stands."""
