"""What the harness itself costs: episodes a second with a model that answers at once.

    python benchmarks/harness.py [--runtime persistent] [--episodes 1000] [--rounds 1] [--concurrency 32] [--server]
                                   [--replay] [--reference]

Plays scripted five-step episodes of `mini` tasks by the real benchmark runner: the real loop, the real sandbox, traces
and verdicts written durably. The model is in this process, or (`--server`) behind HTTP, asked by the real client.
`--replay` then repeats all of them under the recorded contract, as `keepstate bench replay` does. `--reference` first
plays the same blocks plainly in the same run: `exec` in a thread of this process, one JSON file an episode. It isolates
nothing, waits for no disk, and is what a rate is a share of.
Prints episodes/s, CPU seconds of this process, and its memory after every round. Target on two idle cores: 250
episodes/s (forget 130, react 500), flat memory. The time of a real model is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime_references import NaiveThread

from keepstate import eventloop
from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource
from keepstate.bench.cells import Cell, make_cell
from keepstate.bench.replay import Contract, replay
from keepstate.bench.run import play_cells
from keepstate.models.scripted import ScriptedModel
from keepstate.tasks import make_tasks
from keepstate.tasks.families import environment_for
from keepstate.vocabulary import RuntimeName

CODE = (
    "items = __import__('json').loads(list_items())\nprint(len(items))",
    "seen = {i: inspect(i) for i in __import__('json').loads(list_items())[:5]}\nprint(seen)",
    "import math\ndef area(r):\n    return math.pi * r * r\nprint(area(2))",
    "print(sorted(range(50), key=lambda x: -x))",
    "finish()",
)
CALLS = (["list_items"], ["list_items"] * 5, ["list_items"], ["list_items"], ["finish"])


def script(runtime: RuntimeName) -> list[str]:
    """Five answers that work in `runtime`."""
    if runtime is RuntimeName.REACT:
        return [
            "Thought: go on\nAction: " + json.dumps([{"tool": name, "args": {}} for name in names]) for names in CALLS
        ]
    return [f"Go on.\n```python\n{code}\n```" for code in CODE]


def memory_mib() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@contextmanager
def instant_server(folder: Path) -> Iterator[str]:
    """Base URL of a server that answers at once; each runtime's script is a model of its name."""
    path = folder / "answers.json"
    path.write_text(json.dumps({str(runtime): script(runtime) for runtime in RuntimeName}))
    command = [sys.executable, str(Path(__file__).with_name("instant_server.py")), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def play(cell: Cell, options: argparse.Namespace) -> None:
    """Play a cell and print what it took."""
    model = ScriptedModel(script(cell.config.runtime))
    started, cpu = time.perf_counter(), time.process_time()
    tallies = eventloop.run(
        play_cells(
            [cell],
            player=None if options.server else lambda _cell, _task: ScriptedModel(model.answers),
            concurrency=options.concurrency,
            isolation=options.isolation,
            allow_unsafe=True,
        )
    )
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    endings = Counter({"graded": tallies[0].graded}) + tallies[0].failures
    print(
        f"{cell.config.runtime:10}  {options.episodes / took:6.0f} episodes/s  host CPU {cpu:5.1f} s of {took:5.1f} s"
        f"  memory {memory_mib():.0f} MiB  {dict(endings)}",
        flush=True,
    )


async def play_plainly(folder: Path, options: argparse.Namespace) -> None:
    """Play and record the blocks without keepstate's loop, sandbox, limits or trace, and print what it took."""
    left = iter(list(make_tasks("knapsack", "mini", options.episodes, 0)))

    async def play_some() -> None:
        for task in left:
            environment = environment_for(task)
            interpreter = NaiveThread(environment)
            steps = [{"code": code, "output": await interpreter.run(code)} for code in CODE]
            record = {"task": task.name, "steps": steps, "score": environment.verdict().score}
            (folder / f"{task.name}.json").write_text(json.dumps(record))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(options.concurrency):
            group.create_task(play_some())
    print(f"reference   {options.episodes / (time.perf_counter() - started):6.0f} episodes/s", flush=True)


def replay_all(run: Path, options: argparse.Namespace) -> None:
    """Replay every cell of a run, and print what it took."""
    started, cpu = time.perf_counter(), time.process_time()
    how = {"concurrency": options.concurrency, "isolation": options.isolation, "allow_unsafe": True}
    repeated = replay([run], Contract(), **how)
    folders = eventloop.run(repeated)
    took, cpu = time.perf_counter() - started, time.process_time() - cpu
    same, episodes = sum(folder.same for folder in folders), sum(folder.tested for folder in folders)
    print(
        f"replay      {episodes / took:6.0f} episodes/s  host CPU {cpu:5.1f} s of {took:5.1f} s"
        f"  memory {memory_mib():.0f} MiB  {same} of {episodes} the same",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", choices=[str(name) for name in RuntimeName])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--server", action="store_true", help="ask over HTTP")
    parser.add_argument("--replay", action="store_true", help="replay what was played")
    parser.add_argument("--reference", action="store_true", help="play plainly first")
    parser.add_argument("--profile", choices=["tottime", "cumtime"], help="print where this process spends its time")
    options = parser.parse_args()
    tasks = TaskSource(difficulty="mini", count=options.episodes)
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as name, instant_server(Path(name)) as url:
        if options.reference:
            (Path(name) / "plainly").mkdir()
            asyncio.run(play_plainly(Path(name) / "plainly", options))
        for runtime in options.runtime or list(RuntimeName):
            for number in range(options.rounds):
                config = BenchmarkConfig(
                    name=f"{runtime}-{number}",
                    adapter=str(runtime),
                    runtime=RuntimeName(runtime),
                    tasks=tasks,
                    base_url=url,
                )
                cell = make_cell(config, Path(name))
                if options.profile:
                    profile.runcall(play, cell, options)
                else:
                    play(cell, options)
        if options.replay:
            replay_all(Path(name), options)
    if options.profile:
        pstats.Stats(profile).sort_stats(options.profile).print_stats(40)


if __name__ == "__main__":
    main()
