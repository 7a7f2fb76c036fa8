"""Tasks: sample problem instances, hold their hidden state, answer tool calls, score.

Run `keepstate tasks --help`. Nothing here executes an agent's actions or knows of runtimes and models.
"""

from keepstate.tasks.generate import environment_for, make_tasks, problem_hash, require_disjoint
from keepstate.tasks.store import load_tasks, read_task, read_tasks, write_tasks

__all__ = [
    "environment_for",
    "load_tasks",
    "make_tasks",
    "problem_hash",
    "read_task",
    "read_tasks",
    "require_disjoint",
    "write_tasks",
]
