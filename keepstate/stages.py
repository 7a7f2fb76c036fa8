"""The one place that knows the pipeline: its stages, their order, commands, and what they read and write.

`keepstate --help`, `make help` and the README's table are made from `STAGES`; a test compares them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One step from a seed to a report."""

    name: str
    command: str
    summary: str
    reads: str
    writes: str


STAGES: tuple[Stage, ...] = (
    Stage("tasks", "keepstate tasks", "sample problems with hidden state", "a seed", "task JSON"),
    Stage("traces", "keepstate traces", "let a teacher act in a runtime and record it", "tasks", "`.trace.json`"),
    Stage("dataset", "keepstate dataset", "turn traces into training conversations", "traces", "JSONL, manifest"),
    Stage("train", "keepstate train", "fine-tune a LoRA adapter with Axolotl", "a data set", "an adapter"),
    Stage("serve", "keepstate serve", "serve base and adapters with vLLM", "adapters", "an HTTP endpoint"),
    Stage("bench", "keepstate bench", "run every adapter in every runtime", "tasks, a server", "traces, verdicts"),
    Stage("report", "keepstate report", "say what the match or mismatch cost", "results", "tables, plots, HTML"),
)
