"""Episodes whose actions had given results, noted by the real recorder."""

from acted import acted

from keepstate.agents.recorder import Recorder
from keepstate.models.base import Reply
from keepstate.models.scripted import ScriptedModel
from keepstate.tasks.base import Task, Verdict
from keepstate.traces.observations import render_observation
from keepstate.traces.record import ActionResult, Limits, Trace
from keepstate.vocabulary import FinishReason, RuntimeName

GOOD = acted("1")
NAME_ERROR = acted("", error="NameError: x", error_type="NameError")


def played(number: int, *results: ActionResult, runtime: RuntimeName = RuntimeName.PERSISTENT) -> Trace:
    """An episode whose actions had these results."""
    recorder = Recorder(trace_task(number), runtime, ScriptedModel([]), Limits().of(runtime), seed=0)
    recorder.opened("You act.", f"Task {number}.")
    for turn, result in enumerate(results):
        recorder.asked(turn, turn)
        recorder.answered(turn, Reply(f"answer {turn}"), 0.1)
        seen = None if turn == len(results) - 1 else render_observation(runtime, result)
        recorder.stepped(turn, Reply(f"answer {turn}"), "pass", result, seen)
    return recorder.graded(FinishReason.FINISHED, Verdict(is_solved=True, score=1.0))


def trace_task(number: int) -> Task:
    return Task(
        task_id=f"t{number}", family="knapsack", difficulty="mini", seed=number, public={"n": number}, private={},
        reference={},
    )  # fmt: skip
