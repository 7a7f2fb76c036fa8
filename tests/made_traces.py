"""Traces for tests of data sets, noted by the real recorder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acted import acted

from keepstate.agents.recorder import Recorder
from keepstate.dataset import BuildOptions, Manifest, build_datasets
from keepstate.errors import EpisodeFailure
from keepstate.models.base import Reply
from keepstate.models.scripted import ScriptedModel
from keepstate.tasks.base import Task, Verdict
from keepstate.traces import write_trace
from keepstate.traces.record import Limits, Trace
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

ANSWERS = ("Look first.\n```python\nitems = list_items()\n```", "Take it.\n```python\ntake_item('a')\nfinish()\n```")
OBSERVATION = '{"output": "[]", "globals": ["items"]}'


def make_trace(
    number: int = 0,
    *,
    answers: Sequence[str] = ANSWERS,
    observation: str = OBSERVATION,
    goal: str | None = None,
    system: str = "You act by writing Python.",
    runtime: RuntimeName = RuntimeName.PERSISTENT,
    score: float = 1.0,
    finish: FinishReason = FinishReason.FINISHED,
    failed: bool = False,
    truncated: bool = False,
) -> Trace:
    """The trace of task `number`, with these texts."""
    task = Task(
        task_id=f"t{number}",
        family="knapsack",
        difficulty="mini",
        seed=number,
        public={"number": number},
        private={},
        reference={},
    )
    recorder = Recorder(task, runtime, ScriptedModel([]), Limits().of(runtime), seed=0)
    recorder.opened(system, f"Task {number}." if goal is None else goal)
    for turn, text in enumerate(answers):
        recorder.asked(turn, turn)
        reply = Reply(text, truncated=truncated)
        recorder.answered(turn, reply, 0.1)
        recorder.stepped(turn, reply, text, acted(), None if turn == len(answers) - 1 else observation)
    if failed:
        return recorder.failed(EpisodeFailure(Origin.SANDBOX, "gone"))
    return recorder.graded(finish, Verdict(is_solved=score == 1.0, score=score))


def write_traces(folder: Path, traces: Sequence[Trace]) -> Path:
    """Write them and return the folder."""
    for trace in traces:
        write_trace(folder, trace)
    return folder


def build_one(
    root: Path,
    runtime: RuntimeName,
    out: Path,
    *,
    tokenizer: Path,
    template: str | Path | None = None,
    jobs: int | None = None,
    **chosen: Any,
) -> Manifest:
    """Build the data set of one arm; `chosen` are fields of `BuildOptions`."""
    choices: dict[str, Any] = {"template": template, "tokenizer_path": tokenizer, "options": BuildOptions(**chosen)}
    return build_datasets({runtime: root}, {runtime: out}, jobs=jobs, **choices)[runtime]
