"""Traces for tests, noted by the real recorder."""

from typing import Any

from acted import acted

from keepstate.agents.recorder import Recorder
from keepstate.errors import EpisodeFailure
from keepstate.models.base import Reply, Sampling, TokenUsage
from keepstate.models.scripted import ScriptedModel
from keepstate.tasks.base import Task, Verdict
from keepstate.traces.record import Limits, ToolCall, Trace
from keepstate.vocabulary import FinishReason, Origin, Rung, RuntimeName


def note_episode(
    texts: list[str],
    *,
    task_id: str = "t0",
    runtime: RuntimeName = RuntimeName.PERSISTENT,
    secret: int = 0,
    failure: str | None = None,
    score: float = 1.0,
    arguments: Any = None,
    error_type: str | None = None,
    counted: bool = True,
) -> Trace:
    """A trace whose answers, codes, outputs and observations are `texts`, counted or not: three tokens an answer."""
    task = Task(
        task_id=task_id,
        family="knapsack",
        difficulty="mini",
        seed=1,
        public={},
        private={"secret": secret},
        reference={},
    )
    model = ScriptedModel([])
    model.sampling = Sampling()  # type: ignore[attr-defined]
    recorder = Recorder(task, runtime, model, Limits().of(runtime), seed=0)
    recorder.rung = Rung.NAMESPACES
    recorder.opened("system", texts[0] if texts else "goal")
    for turn, text in enumerate(texts):
        recorder.asked(turn, turn)
        counts = {"prompt_tokens": 10 * (turn + 1), "completion_tokens": 3, "cached_tokens": turn or None}
        reply = Reply(text, TokenUsage(**counts) if counted else TokenUsage())
        recorder.answered(turn, reply, 0.25)
        result = acted(text, results=(ToolCall("inspect", arguments or {"a": text}, output=text),))
        if error_type:
            result = result.model_copy(update={"error": text or "e", "error_type": error_type})
        last = turn == len(texts) - 1
        recorder.stepped(turn, reply, text, result, None if last else text)
    if failure is not None:
        return recorder.failed(EpisodeFailure(Origin.SANDBOX, failure))
    return recorder.graded(FinishReason.FINISHED, Verdict(is_solved=score == 1.0, score=score, metrics={"value": 2.0}))
