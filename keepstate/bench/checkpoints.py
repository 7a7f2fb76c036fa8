"""Checkpoints of a training as the models of a cell: which tasks they play, within which limits, and playing them.

`keepstate train --eval-cell` plans here and then runs, whenever there is room for it,

    python -m keepstate.bench.checkpoints ADAPTER 20,40 [VLLM-ARGUMENT...]

which serves the weights of those steps, plays what is missing into `ADAPTER/evals`, a run as any other, and ends. When
that is, `keepstate.train.evaluation` decides.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

from keepstate import eventloop, machine
from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource, read_benchmark_config
from keepstate.closed import Closed
from keepstate.dataset.manifest import INDEX, TEMPLATE
from keepstate.errors import UserError
from keepstate.files import content_hash, parse_json, write_atomic
from keepstate.model_files import model_folder, read_object
from keepstate.model_shape import read_shape
from keepstate.models.base import Sampling
from keepstate.places import find
from keepstate.play.tally import Tally, TallyDisplay
from keepstate.processes import sigterm_interrupts
from keepstate.serve.capacity import GPU_MEMORY, cpu_server_gib, gpu_tokens
from keepstate.tasks.base import Task
from keepstate.traces.record import Limits
from keepstate.train.evaluation import SETTINGS, Evaluation, Place
from keepstate.train.preflight import free_gib
from keepstate.train.scores import FOLDER, SCORES, STEP, Scores, StepScore, read_scores, step_folder
from keepstate.train.sizes import cpu_memory_gib, disk_gib, lora_parameters
from keepstate.train.training_plan import TrainingPlan
from keepstate.vocabulary import RuntimeName

SECONDS_BETWEEN_SCORES = 1.0
GPU_SPARE_GIB = 1.0
"""Of a GPU that is not asked for: what others hold of it grows a little."""
KEPT, WEIGHT_BYTES = 5, 4
"""Checkpoints, where nothing else was asked for, and bytes of a parameter in one."""
NAMED = 3
"""Tasks that a remark names."""


class Settings(Closed):
    """What is needed to play, in a file between the command that plans and the one that plays."""

    cell: str
    """In words."""
    configs: tuple[BenchmarkConfig, ...]
    """One a runtime; names, adapter and server are those of each step and start."""
    base_model: str
    template: Path
    context: int

    def of_step(self, step: int, base_url: str) -> list[BenchmarkConfig]:
        """The cells of a checkpoint on a server."""
        name = f"{STEP}{step}"
        return [
            config.model_copy(update={"name": f"{name}-{config.name}"[:80], "adapter": name, "base_url": base_url})
            for config in self.configs
        ]


def plan_evaluation(planned: TrainingPlan, *, cell: str, steps: int | None, share: float) -> Evaluation:
    """Everything about the evaluations of a training that can be decided before it starts.

    Args:
        planned: The training.
        cell: `TASKS` or `TASKS:N`: a folder, a task-set JSON, a benchmark config or a difficulty, and how many of it.
        steps: A checkpoint every so many; None: five.
        share: Of the training's time, at most.

    Raises:
        UserError: There are no such tasks, or the config is none.
    """
    source, given = _asked(cell)
    tasks = source.load()
    rows = _rows(planned.dataset)
    settings, bounds = _settings(planned, rows, source, tasks, given)
    runtimes = " and ".join(config.runtime for config in settings.configs)
    words = f"{len(tasks)} tasks of {tasks[0].difficulty} in {runtimes}"
    remarks = [f"--eval-cell: {words}, {bounds}"]
    if known := _trained_on(rows, tasks):
        names = ", ".join(known[:NAMED]) + (", ..." if len(known) > NAMED else "")
        remarks.append(f"{len(known)} of its {len(tasks)} tasks are called as tasks of the training data: {names}")
    _require_disk(planned)
    beside = partial(_beside, planned, settings.context)
    if not planned.gpus and beside() is None:
        remarks.append("there is no memory for a server beside the training: the cell is played after it")
    elif share == 0:
        remarks.append("the cell is played when the training is over")
    settings = settings.model_copy(update={"cell": words})
    decides = {"adapter", "model"}
    return Evaluation(
        cell=words,
        command=(sys.executable, "-m", "keepstate.bench.checkpoints"),
        decisive={
            "tasks": content_hash([[task.name, task.content_hash] for task in tasks]),
            **{
                config.runtime: {key: value for key, value in config.decisive().items() if key not in decides}
                for config in settings.configs
            },
        },
        settings=settings.model_dump(mode="json"),
        episodes=len(tasks) * len(settings.configs),
        share=share,
        steps=steps,
        beside=beside if share else lambda: None,
        after=Place(environment=machine.only(planned.gpus[:1])),
        remarks=tuple(remarks),
    )


def _require_disk(planned: TrainingPlan) -> None:
    """Refuse where the weights of five checkpoints, links to the trainer's at first, will not fit beside the rest."""
    if shape := read_shape(str(planned.config["base_model"])):
        own = disk_gib(planned.config, shape, gpu=bool(planned.gpus))
        gib = round(own + KEPT * WEIGHT_BYTES * lora_parameters(planned.config, shape) / machine.GIB, 1)
        machine.require_disk(
            planned.output, gib, "the training with its played checkpoints", "name another folder: --out"
        )


def _asked(cell: str) -> tuple[TaskSource, BenchmarkConfig | None]:
    """What `--eval-cell` names: tasks, and the config that names them where it is one."""
    name, colon, number = cell.rpartition(":")
    count = int(number) if colon and number.isdecimal() else None
    name = name if count is not None else cell
    if count == 0:
        raise UserError("--eval-cell of no tasks", f"one at least: {name}:10")
    path = find(name)
    if path.suffix in (".yaml", ".yml"):
        config = read_benchmark_config(path)
        source = config.tasks.model_copy(update={"count": count or config.tasks.count})
        return source, config
    if path.exists():
        return TaskSource.model_validate({"folder" if path.is_dir() else "config": path, "count": count}), None
    if "/" in name or name.startswith("."):
        raise UserError(f"--eval-cell: there is no {name}", "a folder of tasks, a task set, a config, or mini:10")
    return TaskSource(difficulty=name, count=count), None


def _settings(
    planned: TrainingPlan,
    rows: Sequence[Mapping[str, Any]],
    source: TaskSource,
    tasks: Sequence[Task],
    given: BenchmarkConfig | None,
) -> tuple[Settings, str]:
    """The cells, and words on where their limits come from: a config, else what the training data shows."""
    base = str(planned.config["base_model"])
    if given:
        common: dict[str, Any] = given.model_dump(exclude={"name", "adapter", "model", "runtime", "tasks", "base_url"})
        common["limits"] = given.limits
        bounds = f"limits of {given.name}"
    else:
        turns, tokens = _longest(rows)
        limits = Limits(turns=turns + 1) if turns else Limits()
        context = min(int(planned.config["sequence_len"]), _positions(base))
        common = {"limits": limits, "sampling": Sampling(temperature=0.0, max_tokens=tokens or context // 2)}
        common["context"] = context
        bounds = f"at most {limits.turns} turns and {common['sampling'].max_tokens:,} tokens an answer, greedily"
    label = re.sub("[^a-z0-9_-]+", "-", tasks[0].difficulty.lower())
    seen = source.beside(Path.cwd())
    configs = tuple(
        BenchmarkConfig(name=f"{runtime}-{label}"[:60], adapter=STEP + "0", runtime=runtime, tasks=seen, **common)
        for runtime in planned.manifest.runtimes
    )
    settings = Settings(
        cell="", configs=configs, base_model=base, template=planned.dataset / TEMPLATE, context=configs[0].context
    )
    return settings, bounds


def _positions(base: str) -> int:
    """Tokens that a base model has positions for; more than any where that is not known."""
    folder = model_folder(base)
    told = read_object(folder / "config.json").get("max_position_embeddings") if folder else None
    return told if isinstance(told, int) else sys.maxsize


def _rows(dataset: Path) -> list[dict[str, Any]]:
    """What stands in a data set's index; nothing where it has none."""
    try:
        return [json.loads(line) for line in (dataset / INDEX).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _longest(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Most answers of a training row, and most tokens of all answers of one together: no single one is longer."""
    return max((row["turns"] for row in rows), default=0), max((row["trained_tokens"] for row in rows), default=0)


def _trained_on(rows: Sequence[Mapping[str, Any]], tasks: Sequence[Task]) -> list[str]:
    """Tasks that a training row is named after."""
    trained = {row["task"] for row in rows}
    return [task.name for task in tasks if task.name in trained]


def _beside(planned: TrainingPlan, context: int) -> Place | None:
    """Where there is room for a server now: another GPU, else what the training leaves of its own, or of memory."""
    shape = read_shape(str(planned.config["base_model"]))
    if shape is None:
        return None
    if not planned.gpus:
        longest = max(split.longest for split in planned.manifest.splits.values())
        trains = cpu_memory_gib(min(longest, int(planned.config["sequence_len"])), shape)
        fits = machine.memory_gib() > trains * planned.processes + cpu_server_gib(shape, context)
        return Place(pauses=True) if fits else None
    own = {gpu.uuid for gpu in planned.gpus}
    for gpu in sorted(machine.visible_gpus(), key=lambda gpu: (gpu.uuid in own, -free_gib(gpu))):
        share = min(GPU_MEMORY, floor(100 * (free_gib(gpu) - GPU_SPARE_GIB) / gpu.memory_gib) / 100)
        if share > 0 and gpu_tokens(shape, gpu.memory_gib, share=share) >= 2 * context:
            return Place(gpu.uuid in own, machine.only([gpu]), (f"gpu-memory-utilization={share}",))
    return None


def play(adapter: Path, steps: Sequence[int], vllm_args: Sequence[str] = ()) -> None:
    """Serve the weights of steps and play what is missing of their cells.

    Args:
        adapter: The adapter's folder.
        steps: Whose weights lie in it.
        vllm_args: See `plan_serving`.

    Raises:
        UserError: The server or a cell could not be had.
    """
    from keepstate.bench.run import bench  # with it the sandbox: planning needs none
    from keepstate.serve import StartDisplay, plan_serving, serve

    folder = adapter / FOLDER
    settings = Settings.model_validate(parse_json((folder / SETTINGS).read_bytes()))
    planned = plan_serving(
        base_model=settings.base_model,
        adapters=[f"{STEP}{step}={step_folder(adapter, step)}" for step in steps],
        template=settings.template,
        port=0,
        context=settings.context,
        log=folder / "serve.log",
        vllm_args=vllm_args,
    )
    started = time.monotonic()
    with ExitStack() as stack:
        with StartDisplay() as starting:
            server = stack.enter_context(serve(planned, on_progress=starting))
        configs = [config for step in steps for config in settings.of_step(step, server.base_url)]
        writer = _Writer(adapter, settings.cell, configs, time.monotonic() - started)
        shown = stack.enter_context(TallyDisplay())

        def note(tallies: Sequence[Tally]) -> None:
            shown(tallies)
            writer(tallies)

        try:
            eventloop.run(bench(configs, folder, on_progress=note))
        finally:
            writer.write()


class _Writer:
    """Keeps `scores.json` up to date while cells are played."""

    def __init__(self, adapter: Path, cell: str, configs: Sequence[BenchmarkConfig], start_seconds: float) -> None:
        self._path, self._configs, self._tallies = adapter / FOLDER / SCORES, configs, list[Tally]()
        before = read_scores(adapter) or Scores(cell=cell)
        self._before = before.model_copy(update={"cell": cell, "start_seconds": start_seconds})
        self._began, self._written = time.monotonic(), 0.0

    def __call__(self, tallies: Sequence[Tally]) -> None:
        """Take a new state, and write it where the last was written a while ago."""
        self._tallies = list(tallies)
        if time.monotonic() - self._written > SECONDS_BETWEEN_SCORES:
            self.write()

    def write(self) -> None:
        """Write what is known now."""
        self._written = time.monotonic()
        points = {(point.step, point.runtime): point for point in self._before.points}
        for config, tally in zip(self._configs, self._tallies, strict=False):
            step = int(config.adapter.removeprefix(STEP))
            points[step, config.runtime] = StepScore(
                step=step,
                runtime=config.runtime,
                tasks=tally.total,
                graded=tally.graded,
                solved=tally.solved,
                not_graded=tally.failures.total(),
                score=tally.score / tally.graded if tally.graded else None,
            )
        played = sum(tally.done - tally.kept for tally in self._tallies)
        took = (self._written - self._began) / played if played else self._before.episode_seconds
        ordered = tuple(points[key] for key in sorted(points, key=lambda key: (key[0], RuntimeName(key[1]).place)))
        scores = self._before.model_copy(update={"points": ordered, "episode_seconds": took})
        write_atomic(self._path, scores.model_dump_json(indent=1) + "\n", durable=False)


def main(words: Sequence[str]) -> int:
    """Play, and return the exit code."""
    try:
        with sigterm_interrupts():
            play(Path(words[0]), [int(step) for step in words[1].split(",")], words[2:])
    except UserError as error:
        print(f"error: {error.message}\nhint:  {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
