"""What two nodes of a Ray cluster cost beside one process, with a model that answers at once.

    python benchmarks/cluster.py [--runtime persistent] [--episodes 500] [--rounds 3] [--concurrency 32] [--scripted]
                                 [--writer nodes]

Plays the episodes of `benchmarks/harness.py` in this process, which is the reference, and over two nodes of this
machine, in turn, in one run. Answers come over HTTP from an instant server, as a benchmark's do, or (`--scripted`) from
this process. Prints for each round the clock and the CPU seconds (user and system) an episode of the driver, of the
nodes' processes with their sandboxes, and of Ray's own processes (two raylets and a head's, which take most of that
whether something is played or not); the server's are in none. In the end medians and their ratios; what the driver
alone takes bounds how many nodes it can keep busy. Needs the extra [ray] (make setup-ray). Target: 1.10 of the CPU
seconds. The time of a real model is not in it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, fields
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

NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@dataclass(frozen=True)
class Took:
    """Seconds of one round: by the clock, and the CPU's by who took them."""

    clock: float
    driver: float
    nodes: float
    ray: float


def whose(process: psutil.Process) -> str:
    """Whose CPU seconds those of a process below this one are; empty: the server's."""
    words = " ".join(process.cmdline())
    if words.startswith("ray::Node"):
        return "nodes"
    if "site-packages/ray/" in words or words.startswith("ray::"):
        return "ray"
    if "instant_server.py" in words:
        return ""
    parent = process.parent()
    return "driver" if parent is None or parent.pid == psutil.Process().pid else whose(parent)


def cpu_seconds() -> Counter[str]:
    """Of this process and all below it, those that ended too."""
    here, total = psutil.Process(), Counter[str]()
    total["driver"] += sum(here.cpu_times()[:4])
    for process in here.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total[whose(process)] += sum(process.cpu_times()[:4])
    return total


def play(engine: Cluster | None, folder: Path, url: str, options: argparse.Namespace) -> Took:
    """Play all episodes once."""
    runtime = RuntimeName(options.runtime)
    tasks = TaskSource(difficulty="mini", count=options.episodes)
    config = BenchmarkConfig(name="cell", adapter=str(runtime), runtime=runtime, tasks=tasks, base_url=url)
    cell = make_cell(config, folder)
    answers = script(runtime)
    started, cpu = time.perf_counter(), cpu_seconds()
    (tally,) = eventloop.run(
        play_cells(
            [cell],
            player=(lambda _cell, _task: ScriptedModel(answers)) if options.scripted else None,
            concurrency=options.concurrency,
            engine=engine,
        )
    )
    assert (tally.played, tally.failures.total()) == (options.episodes, 0)
    clock, after = time.perf_counter() - started, cpu_seconds()
    of = {name: after[name] - cpu[name] for name in ("driver", "nodes", "ray")}
    return Took(clock, **of) if engine else Took(clock, of["driver"], 0, 0)  # Ray idles beside it: none of its


def told(name: str, took: Took, options: argparse.Namespace) -> None:
    """Print a round."""
    each = 1000 / options.episodes
    print(
        f"{name:9}  {options.episodes / took.clock:6.0f} episodes/s  CPU ms an episode:"
        f" driver {took.driver * each:.1f}, nodes {took.nodes * each:.1f}, Ray {took.ray * each:.1f}"
        f"  load {os.getloadavg()[0]:.0f}",
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
    parser.add_argument("--writer", choices=["driver", "nodes"], default="driver")
    parser.add_argument("--scripted", action="store_true", help="answers of this process, not over HTTP")
    options = parser.parse_args()
    rounds: dict[str, list[Took]] = {"one": [], "two nodes": []}
    made = nodes()
    try:
        with (
            tempfile.TemporaryDirectory() as name,
            instant_server(Path(name)) as url,
            cluster(made.address, nodes_write=options.writer == "nodes") as engine,
        ):
            play(engine, Path(name) / "warm", url, options)  # loads keepstate on the nodes
            for number in range(options.rounds):
                for who, by in (("one", None), ("two nodes", engine)):
                    took = play(by, Path(name) / f"{who}-{number}", url, options)
                    told(who, took, options)
                    rounds[who].append(took)
    finally:
        made.shutdown()
    one, two = (
        Took(*(median(getattr(took, key.name) for took in rounds[who]) for key in fields(Took))) for who in rounds
    )
    ours = two.driver + two.nodes
    print(
        f"two nodes / one process: CPU {(ours + two.ray) / one.driver:.2f}, {ours / one.driver:.2f} without Ray's own"
        f" processes; clock {two.clock / one.clock:.2f};"
        f" the driver alone: {options.episodes / two.driver:.0f} episodes a CPU second"
    )


if __name__ == "__main__":
    main()
