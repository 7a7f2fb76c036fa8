"""Results of a benchmark, written through the real cell and trace files, with scores of our choosing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from acted import acted

from keepstate.agents.recorder import Recorder
from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource
from keepstate.bench.cells import make_cell
from keepstate.errors import EpisodeFailure
from keepstate.models.base import Reply, TokenUsage
from keepstate.models.scripted import ScriptedModel
from keepstate.tasks.base import Task, Verdict
from keepstate.traces import Trace, write_trace
from keepstate.train.trained_for import TrainedFor
from keepstate.vocabulary import FinishReason, Origin, Rung, RuntimeName


@dataclass(frozen=True)
class Made:
    """One episode to note down."""

    score: float = 1.0
    steps: int = 3
    prompt: int | None = 1000
    completion: int = 100
    error_type: str | None = None
    failure: Origin | None = None
    reason: FinishReason = FinishReason.FINISHED
    code: str = "code"
    """Of every step."""


def made_trace(task: Task, config: BenchmarkConfig, made: Made) -> Trace:
    """A trace of `made`, noted by the real recorder."""
    model = ScriptedModel([], name=config.served_name)
    model.sampling = config.sampling  # type: ignore[attr-defined]
    recorder = Recorder(task, config.runtime, model, config.limits, config.seed)
    recorder.rung = Rung.NONE if config.runtime is RuntimeName.REACT else Rung.NAMESPACES
    recorder.opened("system", "goal")
    for turn in range(made.steps):
        recorder.asked(turn, turn)
        cached = made.prompt and made.prompt // 2
        usage = TokenUsage(prompt_tokens=made.prompt, completion_tokens=made.completion, cached_tokens=cached)
        reply = Reply(f"answer {turn}", usage)
        recorder.answered(turn, reply, 0.1)
        failed = made.error_type if turn == 1 else None
        names = ("x",) if config.runtime is RuntimeName.PERSISTENT else ()
        result = acted(error="trouble" if failed else None, error_type=failed, globals=names)
        recorder.stepped(turn, reply, made.code, result, None if turn == made.steps - 1 else "seen")
    if made.failure is not None:
        return recorder.failed(EpisodeFailure(made.failure, "lost"))
    return recorder.graded(made.reason, Verdict(is_solved=made.score == 1.0, score=made.score, metrics={}))


def write_made_cell(
    run: Path,
    adapter: str,
    runtime: RuntimeName,
    episode: Callable[[int], Made | None],
    count: int = 12,
    difficulty: str = "mini",
    trained_for: TrainedFor | None = None,
    served: Mapping[str, object] | None = None,
    **settings: object,
) -> BenchmarkConfig:
    """Write a cell whose episode on task i is `episode(i)`; None leaves the task unplayed.

    `trained_for` is what the adapter's card says; without one its name counts. `served`: what else its server told.
    """
    common = {"name": f"{adapter}-{runtime}-{difficulty}", "tasks": TaskSource(difficulty=difficulty, count=count)}
    config = BenchmarkConfig.model_validate({"adapter": adapter, "runtime": runtime} | common | settings)
    cell = make_cell(config, run, {"trained_for": trained_for} | dict(served or {}))
    cell.write()
    for index, task in enumerate(cell.tasks):
        made = episode(index)
        if made is not None:
            write_trace(cell.folder, made_trace(task, config, made))
    return config
