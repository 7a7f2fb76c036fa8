"""The laptop loop, stage by stage: every stage is the one that its own command runs, and does only what is missing.

A stage that was cut goes on where it stopped: recorded episodes, proven data sets, training checkpoints and graded
episodes are kept. Where they lie: `keepstate.demo.folder`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console

from keepstate import eventloop
from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource, matrix_configs
from keepstate.bench.cells import make_cell
from keepstate.bench.run import bench
from keepstate.dataset import BuildOptions, build_datasets, build_mixed, read_manifest
from keepstate.dataset.check import CheckOptions, DatasetCheck, check_datasets
from keepstate.demo.folder import DemoFolder, is_proven, keep_only
from keepstate.errors import EXIT_PARTIAL, UserError
from keepstate.files import content_hash, file_hash, write_atomic
from keepstate.live import LIVE_FILE
from keepstate.models.base import Sampling
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, collect
from keepstate.play.tally import TallyDisplay
from keepstate.report import HTML_FILE, build_report
from keepstate.report.tables import print_report
from keepstate.runtimes.sandbox.sandbox import admissible
from keepstate.serve import StartDisplay, plan_serving, serve
from keepstate.serve.ports import check_port
from keepstate.setup import basemodel, environments, installing
from keepstate.tasks import load_tasks, make_tasks, write_tasks
from keepstate.tasks.base import Task
from keepstate.tasks.generate import require_disjoint
from keepstate.traces.record import Limits
from keepstate.train import TrainingDisplay, TrainingRequest, train
from keepstate.train.axolotl_config import config_path
from keepstate.train.result import WEIGHTS
from keepstate.train.trained_for import TrainedFor, by_name
from keepstate.vocabulary import BASE, MIXED, RuntimeName, Tracker

TRAIN_SEED, EVAL_SEED = 0, 123_456_789
CONTEXT = 4_096
"""As the adapters were trained with. Half of SmolLM2's positions: twice the episodes fit the server's cache at once."""
LIMITS = Limits(turns=4, seconds=600, action_seconds=10)
"""The teacher needs three turns (react four). An untrained base talks until its limits: with five turns and 12 tasks it
wrote two thirds of all tokens, and the benchmark took 13 minutes on two cores."""
OPEN = 80
"""Episodes at once, all that there are by default, as far as the server's cache has room. With 64 the last of the
base's, which are the longest, began 66 to 76 s after the first and ended last, with few beside them."""
SAMPLING = Sampling(temperature=0.0, max_tokens=512)
"""Greedy: one adapter of 135M parameters, no draws. The longest answer of the teacher has about 450 tokens."""


@dataclass
class Demo:
    """One demo: sizes, places, and the stages in order."""

    folder: DemoFolder
    train_tasks: int = 60
    eval_tasks: int = 10
    port: int = 8000
    isolation: str = "auto"
    allow_unsafe: bool = False
    mixed: bool = False
    """Also train one adapter on the data of both code runtimes, and measure it beside the others."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What each stage took in this run."""

    @property
    def arms(self) -> dict[str, tuple[RuntimeName, ...]]:
        """The data sets and adapters, by name, and the runtimes of each."""
        specialists = {str(runtime): (runtime,) for runtime in RuntimeName}
        return specialists | ({MIXED: (RuntimeName.PERSISTENT, RuntimeName.FORGET)} if self.mixed else {})

    def run(self) -> None:
        """Every stage, then the report's table and path.

        Raises:
            UserError: A stage could not be done; what was done before it is kept.
        """
        admissible(self.isolation, self.allow_unsafe)  # not after the environments, which take minutes
        if self._cells_owed():
            check_port(self.port)  # the server comes last: who holds its port should be known first
        stages: tuple[tuple[str, Callable[[], object]], ...] = (
            ("environments", self.make_environments),
            ("base model", basemodel.ensure_base_model),
            ("tasks", self.make_tasks),
            ("traces", self.record_traces),
            ("data", self.build_data),
            ("training", self.train_adapters),
            ("serving and benchmark", self.play_cells),
        )
        for number, (name, stage) in enumerate(stages, 1):
            with self._timed(f"[{number}/{len(stages) + 1}] {name}"):
                stage()
        with self._timed(f"[{len(stages) + 1}/{len(stages) + 1}] report"):
            report = build_report(self.folder.bench, self.folder.report)
        words = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.seconds.items())
        _say(f"seconds: {words}; {sum(self.seconds.values()):.0f} in all")
        print_report(report, Console())
        click.echo(f"\nreport: {self.folder.report / HTML_FILE}")
        if any(sum(f.cell.not_graded.values()) for group in report.groups for f in group.figures):
            sys.exit(EXIT_PARTIAL)

    def make_environments(self) -> None:
        """`.venv-train` and `.venv-serve`."""
        for name in environments.NAMES:
            installing.ensure(name)

    def make_tasks(self) -> None:
        """Training and held-out tasks, disjoint by content."""
        training = list(make_tasks("knapsack", "mini", self.train_tasks, TRAIN_SEED))
        held_out = list(make_tasks("knapsack", "mini", self.eval_tasks, EVAL_SEED, apart_from=training))
        require_disjoint(training, held_out)
        for folder, tasks in ((self.folder.tasks("train"), training), (self.folder.tasks("eval"), held_out)):
            keep_only(folder.glob("*.json"), ".json", tasks)
            write_tasks(folder, tasks)

    def record_traces(self) -> None:
        """The scripted teacher on the training tasks, in all three runtimes."""
        tasks = load_tasks(self.folder.tasks("train"))
        self.folder.keep_traces_of(tasks)

        def teacher(task: Task, runtime: RuntimeName) -> ScriptedTeacher:
            return ScriptedTeacher(task, runtime)

        plan = CollectPlan(tasks, tuple(RuntimeName), teacher, self.folder.traces, fresh=True)

        with TallyDisplay() as shown:
            tallies = eventloop.run(
                collect(plan, isolation=self.isolation, allow_unsafe=self.allow_unsafe, on_progress=shown)
            )
        if failed := [tally for tally in tallies if tally.failures]:
            raise UserError(
                f"{sum(tally.failures.total() for tally in failed)} episodes could not be recorded; first:"
                f" {failed[0].first_failure}",
                "see keepstate doctor, then repeat the command: it plays these again",
            )
        for tally in tallies:
            _say(
                f"{tally.name}: {tally.played} recorded, {tally.kept} kept, mean score {tally.score / tally.graded:.3f}"
            )

    def build_data(self) -> None:
        """One data set a runtime, of the same tasks, every turn proven against Axolotl's own tokens."""
        key = content_hash(
            [[str(path.relative_to(self.folder.root)), file_hash(path)] for path in self.folder.trace_files()]
        )
        note = self.folder.built_from
        folders = [self.folder.dataset(arm) for arm in self.arms]
        if note.is_file() and note.read_text().strip() == key and all(map(is_proven, folders)):
            _say("built and proven already")
            return
        note.unlink(missing_ok=True)
        options = BuildOptions(max_tokens=CONTEXT, paired=True, val_fraction=0.0)
        build_datasets(
            {runtime: self.folder.traces / runtime for runtime in RuntimeName},
            {runtime: self.folder.dataset(runtime) for runtime in RuntimeName},
            template=None,
            tokenizer_path=basemodel.folder(),
            options=options,
        )
        if self.mixed:
            build_mixed(
                {runtime: self.folder.traces / runtime for runtime in self.arms[MIXED]},
                self.folder.dataset(MIXED),
                template=None,
                tokenizer_path=basemodel.folder(),
                options=options,
            )
        for folder, report in zip(folders, check_datasets([CheckOptions(folder) for folder in folders]), strict=True):
            _require_proven(folder, report)
        write_atomic(note, key + "\n")

    def train_adapters(self) -> None:
        """The adapters, by configs that differ in data and output only."""
        for arm in self.arms:
            with TrainingDisplay(arm, self.folder.adapter(arm)) as show:
                adapter = train(
                    TrainingRequest(
                        config_path(arm, laptop=True),
                        dataset=self.folder.dataset(arm),
                        output=self.folder.adapter(arm),
                        base_model=basemodel.folder(),
                        runtime=arm,
                    ),
                    fresh=True,  # that of a demo of another size makes way, as its traces did
                    tracker=Tracker.NONE,  # 3 s of imports a training; its folder has every loss in progress.jsonl
                    on_progress=show,
                    on_remark=_say,
                )
            loss = "" if adapter.final_loss is None else f", loss {adapter.final_loss:.3f}"
            _say(f"{arm}: {adapter.steps} steps in {adapter.seconds:.0f} s{loss}")

    def play_cells(self) -> None:
        """Base and adapters on one server, in every runtime whose answers they can give; all cells at once."""
        if not self._cells_owed():
            _say("every cell is graded already")
            return
        planned = plan_serving(
            base_model=basemodel.folder(),
            adapters=[self.folder.adapter(arm) for arm in self.arms],
            context=CONTEXT,
            port=self.port,
            log=self.folder.server_log,
        )
        with ExitStack() as stack:
            with StartDisplay() as starting:
                server = stack.enter_context(serve(planned, on_progress=starting))
            _say(f"server: {', '.join(server.names)} answer at {server.base_url} ({server.seconds:.0f} s)")
            shown = stack.enter_context(TallyDisplay(page=self.folder.bench / LIVE_FILE))
            tallies = eventloop.run(
                bench(
                    self._configs(),
                    self.folder.bench,
                    concurrency=OPEN,
                    fresh=True,  # results of adapters that were trained anew make way
                    isolation=self.isolation,
                    allow_unsafe=self.allow_unsafe,
                    on_progress=shown,
                )
            )
        for tally in tallies:
            if tally.failures:
                _say(f"{tally.name}: not graded {tally.failures.total()}; first: {tally.first_failure}")

    def _cells_owed(self) -> bool:
        """Whether an episode of the weights that lie there now is still to be played. Asks no server."""
        if not self.folder.tasks("eval").is_dir():
            return True
        for config in self._configs():
            weights = self.folder.adapter(config.adapter) / WEIGHTS
            served = {"weights": file_hash(weights) if weights.is_file() else None}
            cell = make_cell(config, self.folder.bench, served)
            if cell.changes() or len(cell.recorded()[0]) < len(cell.tasks):
                return True
        return False

    def _configs(self) -> list[BenchmarkConfig]:
        tasks = TaskSource(folder=self.folder.tasks("eval"), count=self.eval_tasks)
        base_url = f"http://127.0.0.1:{self.port}/v1"
        adapters = {BASE: by_name(BASE)} | {arm: TrainedFor(runtimes=of) for arm, of in self.arms.items()}
        settings = {"limits": LIMITS, "sampling": SAMPLING, "context": CONTEXT, "base_url": base_url}
        return list(matrix_configs(tasks, "mini", adapters=adapters, **settings))

    @contextmanager
    def _timed(self, title: str) -> Iterator[None]:
        click.secho(title, bold=True, err=True)
        started = time.monotonic()
        yield
        self.seconds[title.partition("] ")[2]] = round(time.monotonic() - started, 1)


def _require_proven(folder: Path, report: DatasetCheck) -> None:
    """Say what was proven of a data set.

    Raises:
        UserError: A row is not proven.
    """
    if report.bad:
        trace, row = report.bad[0]
        raise UserError(
            f"{folder}: {len(report.bad)} of {report.rows} rows are not what the server sees, first {trace}"
            + (f": {row.problem}" if row.problem else ""),
            f"see the first difference: keepstate dataset check {folder}",
        )
    for line in read_manifest(folder).words(folder):
        _say(line)
    _say(f"  proven: {report.turns} turns, {report.tokens:,} tokens")


def _say(text: str) -> None:
    click.echo(text, err=True)
