"""What every task family shares: the task file, the environment that plays it, its tools, its verdict.

A family samples `Task`s and makes an `Environment` from one. The environment holds the hidden state and lives in the
host process only; runtimes reach it through tool calls. Nothing here executes an agent's actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from keepstate.closed import Closed, explain
from keepstate.errors import UserError
from keepstate.files import content_hash
from keepstate.tasks.tools import BoundTool, Tool, ToolError, echo, tools_of

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
    """The best answer; empty where none is known: then a score is no share of an optimum."""
    family_source: str | None = None
    """File or module that the family was loaded from, and its SHA-256; null where it comes with keepstate."""

    @property
    def name(self) -> str:
        """`<family>-<task_id>`: the stem of the files of this task's episodes."""
        return f"{self.family}-{self.task_id}"

    @property
    def content_hash(self) -> str:
        """SHA-256 of what makes this task the problem it is (not of its id, seed or schema)."""
        return content_hash({"family": self.family, "public": self.public, "private": self.private})


class TaskContent(Closed):
    """A task's `public`, `private` and `reference` in a family's own types; its validators check that they agree."""

    @classmethod
    def of(cls, task: Task) -> Self:
        """The typed content of a task of the family.

        Raises:
            UserError: It is of another family, or it contradicts itself.
        """
        parts = {"public": task.public, "private": task.private, "reference": task.reference}
        try:
            return cls.model_validate(parts)
        except ValidationError as error:
            raise UserError(
                f"task {task.name} is not a valid {task.family} task: {explain(error, cls).message}",
                f"make it anew with: keepstate tasks generate --family {task.family}",
            ) from error


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
    """One task being played. Made anew for every episode; not thread-safe.

    Its tools are the methods marked with `@tool`.

    Args:
        task: What is played; `task.private` and `task.reference` are never shown to an agent by anything else.
    """

    tools: tuple[Tool, ...] = ()
    """What the agent is told of them, in the order of the methods."""
    goal: str
    """The first user message of the episode; set it in `__init__`."""
    finished: bool = False
    """Whether the episode is over by the agent's own doing: a tool sets it. Most have a tool called `finish` for that,
    which does not count against the cap on tool calls."""
    in_memory: bool = False
    """Whether every call returns within a millisecond: no files, no network, no long search. Such calls are run where
    all episodes are served; those of other environments in a thread, one after another, each 0.03 ms dearer."""
    _bound: dict[str, BoundTool] = {}  # noqa: RUF012 - replaced in every subclass, never changed

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._bound = tools_of(cls)
        if taken := sorted(cls._bound.keys() & vars(Environment).keys()):
            raise TypeError(f"a tool cannot be called {taken[0]!r}: every environment has something of that name")
        if cls._bound and "tools" not in vars(cls):  # else those that a parent tells of itself
            cls.tools = tuple(bound.told for bound in cls._bound.values())

    def __init__(self, task: Task) -> None:
        self.task = task

    @classmethod
    def bound_tools(cls) -> Mapping[str, BoundTool]:
        """The tools by name, with the types of their arguments and results."""
        return cls._bound

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Run one tool call and return a JSON-able value.

        `arguments` come from model-written code: any JSON value under any name must be expected.

        Raises:
            ToolError: No such tool, wrong arguments, or the tool's own reason; nothing has changed.
        """
        bound = self._bound.get(tool) if isinstance(tool, str) else None
        if bound is None:
            raise ToolError(f"unknown tool {echo(tool)}; tools: {', '.join(self._bound)}")
        if not bound.names(arguments):
            wanted = ", ".join(bound.types) or "no arguments"
            raise ToolError(f"{tool} takes {wanted}, got {echo(arguments)}")
        if self.finished:
            raise ToolError("the task is finished")
        return bound.method(self, **bound.checked(arguments))

    @abstractmethod
    def verdict(self) -> Verdict:
        """Grade the episode as it stands."""
