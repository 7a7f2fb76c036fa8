"""The one place that knows the pipeline: its stages, their order, commands, and what they read and write.

`keepstate --help`, `make help` and the README's table are made from `STAGES`; tests compare them.
Run `python3 -m keepstate.stages` for the table in Markdown. Does not run any stage.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """One step from a seed to a report."""

    name: str
    """Also the command, `keepstate <name>`, and the package that does it, `keepstate/<name>/`."""
    summary: str
    """What it does, as `--help` says it."""
    reads: str
    writes: str


STAGES: tuple[Stage, ...] = (
    Stage("tasks", "sample problems with hidden state", "a seed", "task JSON"),
    Stage("traces", "let a teacher act in a runtime and record it", "tasks", "`.trace.json` files"),
    Stage("dataset", "turn traces into training conversations", "traces", "ShareGPT JSONL, manifest"),
    Stage("train", "fine-tune a LoRA adapter with Axolotl", "a data set", "an adapter"),
    Stage("serve", "serve base and adapters with vLLM", "adapters", "an HTTP endpoint"),
    Stage("bench", "run every adapter in every runtime", "tasks, a server", "traces, verdicts"),
    Stage("report", "say what the match or mismatch cost", "results", "tables, plots, HTML"),
)


def markdown_table() -> str:
    """The pipeline as a Markdown table, one row a stage."""
    rows = ["| stage | command | what it does | reads | writes |", "|---|---|---|---|---|"]
    rows += [f"| {s.name} | `keepstate {s.name}` | {s.summary} | {s.reads} | {s.writes} |" for s in STAGES]
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown_table())
