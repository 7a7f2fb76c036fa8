"""What two nodes of a Ray cluster cost beside one process, with a model that answers at once.

    python benchmarks/cluster.py [--runtime persistent] [--episodes 500] [--rounds 3] [--concurrency 32] [--scripted]

Plays the episodes of `benchmarks/harness.py` in this process, and over two nodes of this machine, in turn, in one run.
Answers come over HTTP from an instant server, as a benchmark's do, or (`--scripted`) from this process. Prints for each
round the clock and the CPU seconds of everything that plays (driver, nodes, sandboxes, all of Ray; not the server), and
in the end the medians and their ratios; with them what the driver alone takes an episode, which bounds how many nodes
it can keep busy, and the bytes of a trace. Needs the extra [ray] (make setup-ray). Target: 1.10 of the CPU seconds. The
time of a real model is not in it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from harness import instant_server, script

from keepstate import eventloop
from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource
from keepstate.bench.cells import make_cell
from keepstate.bench.run import play_cells
from keepstate.models.scripted import ScriptedModel
from keepstate.play.cluster import Cluster, cluster
from keepstate.vocabulary import RuntimeName

IDLE_SECONDS = 5.0
"""In which is measured what Ray takes that has nothing to do."""
NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@dataclass(frozen=True)
class Took:
    """Seconds of one round."""

    clock: float
    cpu: float
    driver: float


def cpu_seconds(*without: int) -> float:
    """Of this process and all below it, those that ended too, but for the processes `without`."""
    total = 0.0
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        if process.pid not in without:
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
    return total


def play(engine: Cluster | None, folder: Path, url: str, options: argparse.Namespace) -> Took:
    """Play all episodes once."""
    runtime = RuntimeName(options.runtime)
    tasks = TaskSource(difficulty="mini", count=options.episodes)
    config = BenchmarkConfig(name="cell", adapter=str(runtime), runtime=runtime, tasks=tasks, base_url=url)
    cell = make_cell(config, folder)
    answers = script(runtime)
    servers = [each.pid for each in psutil.Process().children() if "instant_server.py" in " ".join(each.cmdline())]
    started, cpu, driver = time.perf_counter(), cpu_seconds(*servers), time.process_time()
    (tally,) = eventloop.run(
        play_cells(
            [cell],
            player=(lambda _cell, _task: ScriptedModel(answers)) if options.scripted else None,
            concurrency=options.concurrency,
            engine=engine,
        )
    )
    assert (tally.played, tally.failures.total()) == (options.episodes, 0)
    return Took(time.perf_counter() - started, cpu_seconds(*servers) - cpu, time.process_time() - driver)


def told(name: str, took: Took, options: argparse.Namespace) -> None:
    """Print a round."""
    each = 1000 / options.episodes
    print(
        f"{name:9}  {options.episodes / took.clock:6.0f} episodes/s  CPU {took.cpu * each:5.1f} ms an episode,"
        f" {took.driver * each:5.1f} of them the driver's",
        flush=True,
    )


def nodes() -> Any:
    """Two nodes of one processor each, and a head that plays nothing."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
    os.environ |= {"RAY_AUTH_TOKEN": "0" * 64}
    from ray.cluster_utils import Cluster as Nodes

    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, **NODE})
    for _ in range(2):
        made.add_node(num_cpus=1, **NODE)
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", choices=[str(name) for name in RuntimeName], default="persistent")
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--scripted", action="store_true", help="answers of this process, not over HTTP")
    options = parser.parse_args()
    rounds: dict[str, list[Took]] = {"one": [], "two nodes": []}
    made = nodes()
    try:
        with (
            tempfile.TemporaryDirectory() as name,
            instant_server(Path(name)) as url,
            cluster(made.address) as engine,
        ):
            play(engine, Path(name) / "warm", url, options)  # loads keepstate on the nodes
            for number in range(options.rounds):
                for who, by in (("one", None), ("two nodes", engine)):
                    took = play(by, Path(name) / f"{who}-{number}", url, options)
                    told(who, took, options)
                    rounds[who].append(took)
            idle = -cpu_seconds()
            time.sleep(IDLE_SECONDS)
            idle = (idle + cpu_seconds()) / IDLE_SECONDS
            written = sum(path.stat().st_size for path in (Path(name) / "one-0").rglob("*.trace.json"))
    finally:
        made.shutdown()
    one, two = (
        Took(*(median(getattr(took, key) for took in rounds[who]) for key in ("clock", "cpu", "driver")))
        for who in rounds
    )
    print(
        f"two nodes / one process: CPU {two.cpu / one.cpu:.2f}, clock {two.clock / one.clock:.2f};"
        f" the driver alone: {options.episodes / two.driver:.0f} episodes a CPU second;"
        f" a trace: {written / options.episodes / 1024:.0f} KiB;"
        f" Ray without work: {idle:.2f} CPU seconds a second,"
        f" without them CPU {(two.cpu - idle * two.clock) / one.cpu:.2f}"
    )


if __name__ == "__main__":
    main()
