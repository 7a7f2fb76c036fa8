"""A whole training on the CPU beside busy programs, as a share of the same training on an idle machine.

    python benchmarks/laptop.py [--runtime persistent] [--tasks 40] [--rounds 2] [--folder FOLDER]
                                  [--start | --replicas | --drafts]

Trains SmolLM2-135M's adapter by `keepstate train`'s own way on scripted traces of `mini` tasks, over and over: idle,
beside one program that keeps a processor busy at the lowest priority, beside one of our own priority, and again, so
that what changes over an hour changes all three. Prints tokens/s of each (all steps but the first), the seconds from
the command to the first step, and the shares of the medians. The losses of all runs are compared: to be equal they
must compute the same. Needs a machine on which nothing else runs: it says how much was idle before each run, and
refuses where that is less than 9 in 10 (`--anyway`).

`--start` measures instead where a training's and a server's start goes: seconds by the clock, and of the processors.
`--replicas` compares one server with a thread a processor and as many servers with one thread each, which share the
demo's kind of cells: both run side by side and are asked in turn. `--drafts` compares one without and one with drafts
in the same way.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from keepstate import eventloop, machine
from keepstate.bench import TaskSource, matrix_configs
from keepstate.bench.run import bench
from keepstate.dataset import BuildOptions, build_datasets
from keepstate.demo.run import CONTEXT, LIMITS, SAMPLING
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, collect
from keepstate.serve import plan_serving, serve
from keepstate.serve.launch import serve_all
from keepstate.serve.replicas import plan_replicas
from keepstate.serve.vllm_arguments import AS_MODEL, asked_for
from keepstate.setup import basemodel
from keepstate.tasks import make_tasks
from keepstate.train import TrainingProgress, TrainingRequest, train
from keepstate.train.axolotl_config import config_path
from keepstate.train.progress import PROGRESS, Follower
from keepstate.train.trained_for import TrainedFor, by_name
from keepstate.vocabulary import RuntimeName, Tracker

BUSY = "while True: pass"
WAYS = {"idle": None, "lowest priority": 19, "own priority": 0}
"""What runs beside the training, by its niceness."""
IDLE_SHARE = 0.9
"""Of the processors before a run, at least."""
SETTLE_SECONDS = 5.0
STEPS = 4
"""Of a training whose start is measured."""
DRAFTS = asked_for(max_num_seqs=None, gpu_memory=None, kv_cache=AS_MODEL, speculate="ngram")


@dataclass(frozen=True, slots=True)
class Run:
    """One training."""

    tokens_per_second: float
    first_step: float
    """Seconds from the command on."""
    losses: tuple[float, ...]


@contextmanager
def beside(niceness: int | None) -> Iterator[None]:
    """A program that keeps one processor busy while the block runs; none where None."""
    if niceness is None:
        yield
        return
    with subprocess.Popen(["nice", "-n", str(niceness), sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def make_data(folder: Path, runtime: RuntimeName, tasks: int) -> Path:
    """A data set of the scripted teacher's traces; that of an earlier call where it lies there."""
    traces, data = folder / "traces", folder / "data" / f"{runtime}-{tasks}"
    if not data.is_dir():
        plan = CollectPlan(
            list(make_tasks("knapsack", "mini", tasks, 0)),
            (runtime,),
            ScriptedTeacher,
            traces / str(tasks),
        )
        eventloop.run(collect(plan))
        options = BuildOptions(val_fraction=0.0)
        where = {runtime: traces / str(tasks) / runtime}
        build_datasets(where, {runtime: data}, template=None, tokenizer_path=basemodel.folder(), options=options)
    return data


def trained(data: Path, runtime: RuntimeName, output: Path) -> Run:
    """Train once."""
    began, first = time.monotonic(), list[float]()

    def note(state: TrainingProgress) -> None:
        if state.step > 0 and not first:
            first.append(time.monotonic() - began)

    request = TrainingRequest(
        config_path(runtime, laptop=True), dataset=data, output=output, base_model=basemodel.folder(), runtime=runtime
    )
    train(request, tracker=Tracker.NONE, on_progress=note, on_remark=lambda words: print(f"    {words}", flush=True))
    follower = Follower(output / PROGRESS)
    newest = follower.look()
    assert newest
    assert newest.mean_tokens_per_second
    return Run(newest.mean_tokens_per_second, first[0], tuple(loss for _, loss in follower.losses))


def compare(folder: Path, given: argparse.Namespace) -> None:
    """Train in every company, and print the shares."""
    runtime = RuntimeName(given.runtime)
    data = make_data(folder, runtime, given.tasks)
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        for way, niceness in WAYS.items():
            time.sleep(SETTLE_SECONDS)
            idle = machine.idle_cores(2.0)
            if idle < IDLE_SHARE * machine.cores() and not given.anyway:
                sys.exit(f"{idle:.1f} of {machine.cores()} processors are idle: end what runs, or --anyway")
            with beside(niceness):
                run = trained(data, runtime, folder / "out" / f"{runtime}-{way.partition(' ')[0]}-{number}")
            runs[way].append(run)
            print(
                f"{way:16} {run.tokens_per_second:6.0f} tokens/s, first step after {run.first_step:4.0f} s"
                f" (before it {idle:.1f} of {machine.cores()} processors idle)",
                flush=True,
            )
    median = {way: statistics.median(run.tokens_per_second for run in of) for way, of in runs.items()}
    for way, speed in median.items():
        print(f"{way:16} {speed:6.0f} tokens/s, {100 * speed / median['idle']:3.0f} %")
    all_losses = [run.losses for of in runs.values() for run in of]
    apart = max(max(step) - min(step) for step in zip(*all_losses, strict=True))
    print(f"losses of the same step: at most {apart:.2g} apart over {len(all_losses)} trainings")


def starts(folder: Path, given: argparse.Namespace) -> None:
    """Print what the start of a training and of a server takes."""
    runtime = RuntimeName(given.runtime)
    data = make_data(folder, runtime, STEPS)
    for what in (f"training of {STEPS} steps", "server of the base and the adapter"):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        if what.startswith("training"):
            trained(data, runtime, folder / "out" / f"{runtime}-start")
        else:
            planned = plan_serving(
                base_model=basemodel.folder(), adapters=[folder / "out" / f"{runtime}-start"], port=0, context=4096,
                log=folder / "serve.log",
            )  # fmt: skip
            with serve(planned) as server:
                for stage, seconds in server.stages:
                    print(f"    {stage}: {seconds:.1f} s")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"{what}: {time.monotonic() - began:.1f} s by the clock, {cpu:.1f} s of processors", flush=True)


def servers(folder: Path, given: argparse.Namespace) -> None:
    """Print what two ways of serving play of the same cells, in turn."""
    runtime, cores = RuntimeName(given.runtime), machine.cores()
    adapter = folder / "out" / f"{runtime}-start"
    trained(make_data(folder, runtime, STEPS), runtime, adapter)
    adapters = {"base": by_name("base"), str(runtime): TrainedFor(runtimes=(runtime,))}
    ways: dict[str, tuple[int, list[str]]] = {
        f"1 with {cores} threads": (1, []),
        f"{cores} with 1 thread" if given.replicas else "1 with drafts": (cores, []) if given.replicas else (1, DRAFTS),
    }
    speeds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        for name, (count, arguments) in ways.items():
            planned = plan_serving(
                base_model=basemodel.folder(), adapters=[adapter], port=0, context=CONTEXT,
                log=folder / f"{name.replace(' ', '-')}.log", vllm_args=arguments,
            )  # fmt: skip
            running = stack.enter_context(serve_all(plan_replicas(planned, count, any_port=True)))
            urls[name] = running[0].base_url
        for number in range(given.rounds):
            for name, url in urls.items():
                tasks = TaskSource(difficulty="mini", count=given.tasks, seed_start=number)
                settings = {"limits": LIMITS, "sampling": SAMPLING, "context": CONTEXT, "base_url": url}
                configs = list(matrix_configs(tasks, "mini", adapters=adapters, **settings))
                began = time.monotonic()
                run = Path(tempfile.mkdtemp(dir=folder))
                written = sum(
                    (tally.tokens or 0) - (tally.prompt_tokens or 0) for tally in eventloop.run(bench(configs, run))
                )
                speeds.setdefault(name, []).append(written / (time.monotonic() - began))
                print(f"servers: {name}: {speeds[name][-1]:.0f} tokens/s written", flush=True)
    medians = [statistics.median(of) for of in speeds.values()]
    print(f"the second: {medians[1] / medians[0]:.2f} times the first")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="persistent", choices=[str(name) for name in RuntimeName])
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where data, adapters and logs stay; else a folder that goes")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--start", action="store_true", help="where a start goes")
    way.add_argument("--replicas", action="store_true", help="one server, and several with a thread each")
    way.add_argument("--drafts", action="store_true", help="a server without drafts, and one with")
    parser.add_argument("--anyway", action="store_true", help="also where the machine is busy")
    given = parser.parse_args()
    basemodel.ensure_base_model()
    with tempfile.TemporaryDirectory() as scratch:
        measure = starts if given.start else servers if given.replicas or given.drafts else compare
        measure(given.folder or Path(scratch), given)


if __name__ == "__main__":
    main()
