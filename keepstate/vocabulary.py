"""The closed vocabulary of keepstate: every choice that is written to a file, shown on a page or typed as an option.

One word per idea, the same in code, command line, file names, plots and prose. Does not hold behaviour.
"""

from __future__ import annotations

import re
from enum import StrEnum

BETWEEN_RUNTIMES = re.compile(r"lifetime-([2-9]|[1-9][0-9]{1,2})|carry-after-cap(-announced)?|variables-only")
"""The runtimes between `persistent` and `forget`: what each keeps is in `keepstate.state`."""
RUNTIME_WORDS = (
    "persistent, forget, react, or between the first two: lifetime-N (N from 2 to 999), carry-after-cap,"
    " carry-after-cap-announced, variables-only"
)


class RuntimeName(StrEnum):
    """What executes an agent's actions. Between `persistent` and `forget` there are `lifetime-N`, `carry-after-cap`,
    `carry-after-cap-announced` and `variables-only` (`docs/runtimes.md`), which are no part of "all runtimes"."""

    PERSISTENT = "persistent"
    """CodeAct, one interpreter for the whole episode."""
    FORGET = "forget"
    """CodeAct, a fresh interpreter for every block."""
    REACT = "react"
    """Thought and tool calls, no interpreter."""

    @property
    def agent(self) -> str:
        """The kind of agent that acts here: `codeact` or `react`."""
        return "react" if self is RuntimeName.REACT else "codeact"

    @property
    def place(self) -> tuple[int, str]:
        """Sorts them: the three in their order, then those between by name."""
        return [*RuntimeName, self].index(self), self

    @classmethod
    def _missing_(cls, value: object) -> RuntimeName:
        """A runtime between, one object for one name as the three are; it is not met when iterating."""
        if not isinstance(value, str) or not BETWEEN_RUNTIMES.fullmatch(value):
            raise ValueError(f"{value!r} is no runtime; there are {RUNTIME_WORDS}")
        made = str.__new__(cls, value)
        made._name_ = made._value_ = value
        return cls._value2member_map_.setdefault(value, made)  # type: ignore[return-value]


class FinishReason(StrEnum):
    """Why an episode ended."""

    FINISHED = "finished"
    """The agent called `finish()` (or reached the goal of its task)."""
    TURN_LIMIT = "turn_limit"
    """The model gave as many answers as it may."""
    TIME_LIMIT = "time_limit"
    """Answers and actions together took as long as they may."""
    CONTEXT_LIMIT = "context_limit"
    """The conversation no longer fits the model's context."""
    FAILED = "failed"
    """A failure of ours; such an episode is not graded."""


class FormatError(StrEnum):
    """What keeps an answer from being one action, so that nothing is executed."""

    NO_ACTION = "no_action"
    """No python block, or no line `Action:`."""
    SEVERAL = "several_actions"
    """More than one."""
    UNCLOSED = "unclosed_block"
    """The python block has no end."""
    NO_CALLS = "no_list_of_calls"
    """What follows `Action:` is no JSON list."""
    TEXT_AFTER = "text_after_action"
    """The JSON list is not the end of the answer."""


class Origin(StrEnum):
    """Where a failure of ours arose. An error in the agent's own code is an observation and has no origin."""

    MODEL = "model"
    """The server or teacher that answers could not be asked."""
    RUNTIME = "runtime"
    """What executes actions failed by itself."""
    SANDBOX = "sandbox"
    """An isolated interpreter could not be had."""
    TASK = "task"
    """The task's environment failed in a tool."""
    GRADER = "grader"
    """The environment could not grade the episode."""


class Rung(StrEnum):
    """How strongly model-written code is isolated, strongest first. Recorded in every trace."""

    NAMESPACES = "namespaces"
    """Root, processes and network of its own: the host is not seen."""
    LANDLOCK = "landlock"
    """Of files only the standard library; names, sizes and process ids of the host can be told."""
    SECCOMP = "seccomp"
    """No file and no socket; process ids of the host can be told."""
    PROCESS = "process"
    """A separate process with limits only: not a sandbox, used on explicit request alone."""
    NONE = "none"
    """Nothing to isolate: the react runtime executes no code."""


LADDER = (Rung.NAMESPACES, Rung.LANDLOCK, Rung.SECCOMP, Rung.PROCESS)
"""The rungs that execute code, strongest first."""
AUTO, OR_STRONGER = "auto", "+"
"""How an `isolation` asks for the strongest rung there is, and for at least the one it names (`landlock+`)."""


BASE = "base"
"""The base model alone: its name as who is measured, and on the server."""
MIXED = "mixed"
"""The name of data of several runtimes, and of the adapter that is trained on it; of one runtime it is that one's."""
ADAPTER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,99}$"
"""What an adapter may be called."""
CELL_NAME = r"^[a-z0-9][a-z0-9_-]{0,79}$"
"""What a cell may be called."""
SPLIT_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
"""What a set of tasks may be called."""
ISOLATION = rf"^({AUTO}|({'|'.join(LADDER)})\{OR_STRONGER}?)$"
"""How a rung may be asked for."""
IN_WORDS = {
    ADAPTER_NAME: "up to 100 letters, digits and ._/:@+-, the first a letter or digit",
    CELL_NAME: "up to 80 of a-z, 0-9, _ and -, the first a letter or digit",
    SPLIT_NAME: "up to 40 of a-z, 0-9, _ and -, the first a letter or digit",
    ISOLATION: f"{AUTO}, {', '.join(LADDER)}; {OR_STRONGER} behind a rung allows stronger ones",
}
"""What these patterns allow, for who wrote something else."""


class Tracker(StrEnum):
    """Who draws the curves of a training."""

    TRACKIO = "trackio"
    """A local SQLite file with a local dashboard."""
    WANDB = "wandb"
    """Weights & Biases; `WANDB_MODE=offline` keeps it here."""
    MLFLOW = "mlflow"
    """The server that `MLFLOW_TRACKING_URI` names."""
    NONE = "none"
    """Only `progress.jsonl`, which is always written."""


class Engines(StrEnum):
    """Which versions of Axolotl and vLLM an environment holds."""

    MEASURED = "measured"
    """Those that the published figures are of."""
    CURRENT = "current"
    """The newest that keepstate's plugins were tested with."""
