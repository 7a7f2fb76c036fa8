"""The closed vocabulary of keepstate: every choice that is written to a file, shown on a page or typed as an option.

One word per idea, the same in code, command line, file names, plots and prose. Does not hold behaviour.
"""

from enum import StrEnum


class RuntimeName(StrEnum):
    """What executes an agent's actions."""

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
