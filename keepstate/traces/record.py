"""The record of one episode: the trace, schema `keepstate.trace.v1`.

`keepstate.traces` writes and reads it. Everything that happened is here: what was sent, what came back byte for byte,
what was executed, what was shown, what it cost, and how it was graded. A trace without a verdict was not graded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, create_model, with_config

from keepstate.closed import Closed
from keepstate.models.base import Count, Message, TokenUsage
from keepstate.tasks.base import Task, Verdict
from keepstate.vocabulary import FinishReason, Origin, Rung, RuntimeName

TRACE_SCHEMA = "keepstate.trace.v1"
MISSING_VARIABLE = frozenset({"NameError", "UnboundLocalError"})
"""Errors of a name without a value: Python's NameError and its one subclass. What every figure on missing variables
counts. The class alone cannot tell a name that a reset took away from one that was never defined; both count."""


NO_PYTHON = frozenset({"SyntaxError", "IndentationError", "TabError"})
"""Errors of a block that could not be compiled: nothing of it ran."""
FORMAT_ERROR = "AnswerFormat"
"""The `error_type` of a step whose answer held no single action."""
CAP_HIT = "ToolCallLimit"
"""The `error_type` of an action that ran into the cap on tool calls."""


class TaskRef(Closed):
    """Which task was played, without what is hidden in it."""

    task_id: str
    """Its id in its family; with that, the name of the episode's files."""
    family: str
    """Who can play it."""
    difficulty: str
    """Name of its parameter set."""
    seed: int
    """Of the set that it was sampled in."""
    content_hash: str
    """SHA-256 of the problem itself: equal in two traces of the same problem under different ids."""

    @property
    def name(self) -> str:
        """`<family>-<task_id>`: the stem of the files."""
        return f"{self.family}-{self.task_id}"

    @classmethod
    def of(cls, task: Task) -> TaskRef:
        """The reference to `task`."""
        return cls(
            task_id=task.task_id,
            family=task.family,
            difficulty=task.difficulty,
            seed=task.seed,
            content_hash=task.content_hash,
        )


CODEACT_SECONDS = 900.0
REACT_SECONDS = 600.0
MOST_TURNS = 2**53
"""Whole numbers up to here are exact in every program that reads JSON."""


NO_CAP: Literal["none"] = "none"
"""Stands for the cap on tool calls where there is none."""


def _capped(cap: Any) -> Any:
    if cap != NO_CAP and cap < 1:
        raise ValueError("a cap is 1 or more, or none")
    return cap


Cap = Annotated[int | Literal["none"], AfterValidator(_capped)]
"""A cap on tool calls of an action."""
RUNAWAY_CALLS = 10_000
"""Calls of one action that has no cap, after which it is cut all the same: each is recorded."""


class Limits(Closed, allow_inf_nan=False):
    """Bounds of an episode and of each action in it; the defaults are the specification's.

    Reaching one ends the episode or the action, which is graded as it stands.
    """

    turns: int = Field(default=40, ge=1, le=MOST_TURNS)
    """Answers of the model."""
    seconds: float = Field(default=CODEACT_SECONDS, gt=0)
    """Of the model's answers and of the actions together; waiting for a server that does not answer is not counted.
    Where they are not given: 900, in react 600."""
    tool_calls: Cap = 25
    """In one action; `finish` is free. `none`: no cap, and the prompt names none; beyond 10,000 it is cut all the same.
    """
    action_seconds: float = Field(default=30.0, gt=0)
    """Wall-clock and CPU seconds of one action."""
    memory_mib: int = Field(default=256, ge=16, le=2**40)
    """Address space beyond an idle interpreter's."""
    output_chars: int = Field(default=10_000, ge=100)
    """Output of one action shown to the agent; the rest is cut with a notice."""

    @property
    def most_calls(self) -> int:
        """Tool calls of one action that are run."""
        return RUNAWAY_CALLS if self.tool_calls == NO_CAP else self.tool_calls

    def of(self, runtime: RuntimeName) -> Limits:
        """The same, with the seconds of an episode in `runtime` where none were given."""
        if "seconds" in self.model_fields_set:
            return self
        seconds = REACT_SECONDS if runtime is RuntimeName.REACT else CODEACT_SECONDS
        return self.model_copy(update={"seconds": seconds})


DEFAULT_LIMITS = Limits()


@with_config(ConfigDict(extra="forbid"))  # no pydantic model: that takes .9 us to make, and this .46
@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call as the host saw it."""

    tool: str
    """Its name."""
    arguments: dict[str, Any]
    """By name."""
    output: Any = None
    """What it gave back: any JSON value."""
    error: str | None = None
    """Why the environment refused it; None where it did not."""


class ActionResult(Closed):
    """What one action did, as the agent may see it."""

    output: str
    """stdout and stderr in order, and the value of a last expression; already cut to the limit."""
    error: str | None
    """The agent's own error (traceback of its frames, a cap, the time limit), or None."""
    error_type: str | None
    """Class of that error: an exception's name such as `NameError`, or `ToolCallLimit`, `TimeLimit`, `InterpreterExit`.
    """
    globals: tuple[str, ...] | None
    """Sorted names the agent defined that exist now; None in a runtime without an interpreter."""
    results: tuple[ToolCall, ...]
    """The tool calls, in order."""
    state_lost: bool = False
    """A persistent interpreter had to be replaced; its variables are gone (the agent is told in `error`)."""
    seconds: float = 0.0
    """What it took; 0 where nothing ran or nobody measured."""


class StartEvent(Closed):
    """The episode begins."""

    type: Literal["StartEvent"] = "StartEvent"
    task: TaskRef
    """That which is played."""


class SystemPromptEvent(Closed):
    """The system messages, in order. Ours has exactly one."""

    type: Literal["SystemPromptEvent"] = "SystemPromptEvent"
    prompts: tuple[str, ...]
    """Their texts."""


class ModelCallEvent(Closed):
    """The model is asked."""

    type: Literal["ModelCallEvent"] = "ModelCallEvent"
    turn: int
    """Counted from 0."""
    seed: int
    """Of the sampling: the same for this task, run seed and turn wherever it is played."""
    num_messages: int
    """The first so many of the trace's `messages` were sent."""
    prompt_hash: str
    """Content hash of exactly these messages, taken when they were sent: proves that the conversation only grew."""


class ModelResponseEvent(Closed):
    """The model answered; the text is in `messages` and in the `StepEvent`."""

    type: Literal["ModelResponseEvent"] = "ModelResponseEvent"
    turn: int
    """That of the `ModelCallEvent` before it."""
    token_usage: TokenUsage
    """Of this call."""
    truncated: bool
    """The answer was cut at its token limit."""
    seconds: float
    """On the episode's clock: of the request that was answered; refusals, retries and waiting for them apart."""


class StepEvent(Closed):
    """One turn: the answer, the action in it, and what the agent saw."""

    type: Literal["StepEvent"] = "StepEvent"
    turn: int
    """That of the answer."""
    assistant_text: str
    """The answer, byte for byte as received."""
    code: str | None
    """What was executed: Python source or a JSON list of calls; None where the answer held no single action."""
    interpreter_result: ActionResult
    """What the action did."""
    observation: str | None
    """The user message that answers; None where the episode ended with this step."""
    token_usage: TokenUsage
    """Of the call that the answer came from."""


class ErrorEvent(Closed):
    """A failure of ours."""

    type: Literal["ErrorEvent"] = "ErrorEvent"
    origin: Origin
    """Where it arose."""
    message: str
    """What happened."""
    traceback: str | None = None
    """The end of Python's; None in imported traces."""


class FinishEvent(Closed):
    """The episode is over."""

    type: Literal["FinishEvent"] = "FinishEvent"
    reason: FinishReason
    """Why."""


Event = Annotated[
    StartEvent | SystemPromptEvent | ModelCallEvent | ModelResponseEvent | StepEvent | ErrorEvent | FinishEvent,
    Field(discriminator="type"),
]


class Failure(Closed):
    """A failure of ours: such an episode is not graded."""

    origin: Origin
    """Where it arose."""
    message: str
    """What happened."""


class Summary(Closed):
    """The episode in a few figures."""

    task: TaskRef
    """That which was played."""
    system_prompts: tuple[str, ...]
    """Texts of the system messages."""
    num_steps: Count
    """Turns with an answer."""
    finish_reason: FinishReason
    """Why it ended."""
    errors: dict[str, Count]
    """How many steps ended in an error of the agent's own, by class of error (`NameError`, `ToolCallLimit`, ...)."""
    token_usage: TokenUsage
    """Of all calls."""


_Told = create_model(  # type: ignore[call-overload]
    "Limits",
    __base__=Closed,
    __doc__=Limits.__doc__,
    **{key: (field.annotation, ...) for key, field in Limits.model_fields.items()},
)


def _as_played(limits: Any) -> Limits:
    """Limits in a trace: each is told, as none is made up; the bounds bind what is asked for, not what was played."""
    return limits if isinstance(limits, Limits) else Limits.model_construct(**dict(_Told.model_validate(limits)))


class Trace(Closed):
    """One episode."""

    schema_: Literal["keepstate.trace.v1"] = Field(default="keepstate.trace.v1", alias="schema")
    started_at: str
    """ISO 8601, UTC."""
    finished_at: str
    """ISO 8601, UTC: `started_at` and what the episode took, also where the clock was set meanwhile."""
    summary: Summary
    """The figures that most readers want."""
    runtime: RuntimeName
    """What executed the actions."""
    rung: Rung | None
    """How the model's code was isolated; None where the episode failed before that was known."""
    agent: str
    """`codeact` or `react`."""
    model: str
    """Name of the base or the adapter as served, or of the teacher."""
    sampling: dict[str, Any] | None
    """Temperature, top_p and new tokens a turn; None for a model that does not sample."""
    seed: int
    """Of the run; the seed of each turn is in its `ModelCallEvent`."""
    limits: Annotated[Limits, BeforeValidator(_as_played, json_schema_input_type=_Told)] | None
    """Those that held; None where nobody tells."""
    versions: dict[str, str]
    """Of keepstate and Python, and `family`: file and SHA-256 of a family that was not keepstate's. An imported trace
    names its source, its place there (file and line) and what was not carried over instead."""
    failure: Failure | None
    """A failure of ours; None in a graded episode."""
    verdict: Verdict | None
    """None where the episode was not graded."""
    messages: tuple[Message, ...]
    """The conversation, append-only: what was sent and received, so it ends with the last answer."""
    events: tuple[Event, ...]
    """What happened, in order; the kind of each is its `type`."""

    @property
    def task(self) -> TaskRef:
        """The task that was played."""
        return self.summary.task

    @property
    def finish_reason(self) -> FinishReason:
        """Why the episode ended."""
        return self.summary.finish_reason

    @property
    def steps(self) -> tuple[StepEvent, ...]:
        """The steps, in order."""
        return tuple(event for event in self.events if isinstance(event, StepEvent))

    @property
    def missed_variable(self) -> bool:
        """Whether any step ended in one of `MISSING_VARIABLE`: the agent relied on a name that had no value."""
        return any(self.summary.errors.get(name) for name in MISSING_VARIABLE)


class TraceError(ValueError):
    """The content is no trace; the message says why."""


def json_kind(value: Any) -> str:
    """What a value is in JSON's words, for a message: `a JSON null`."""
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return f"a JSON {kinds.get(type(value), 'number')}"
