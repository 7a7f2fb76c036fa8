"""Tasks: sample problem instances, hold their hidden state, answer tool calls, score.

What a family of your own needs is imported from here; docs/tasks.md shows one. Run `keepstate tasks --help`. Nothing
here executes an agent's actions or knows of models.
"""

from keepstate.tasks.base import Environment, Task, Verdict
from keepstate.tasks.dice import Dice
from keepstate.tasks.families import environment_for, reference_scores, use_family
from keepstate.tasks.family import Family, Instance
from keepstate.tasks.generate import make_tasks, problem_hash, require_disjoint
from keepstate.tasks.plan import Move, Step
from keepstate.tasks.questions import read_questions
from keepstate.tasks.store import load_tasks, read_task, read_tasks, write_tasks
from keepstate.tasks.tools import ToolError, tool

__all__ = [
    "Dice",
    "Environment",
    "Family",
    "Instance",
    "Move",
    "Step",
    "Task",
    "ToolError",
    "Verdict",
    "environment_for",
    "load_tasks",
    "make_tasks",
    "problem_hash",
    "read_questions",
    "read_task",
    "read_tasks",
    "reference_scores",
    "require_disjoint",
    "tool",
    "use_family",
    "write_tasks",
]
