"""What the harness itself costs: episodes a second with a model that answers at once.

    python benchmarks/harness.py [--runtime persistent] [--episodes 1000] [--concurrency 32] [--isolation auto]

Plays scripted five-step episodes of `mini` tasks through the real loop and the real sandbox, writes no files unless
`--write` names a folder, and prints episodes/s, CPU seconds and the growth of this process's memory. Target on two
cores: 150 episodes/s, flat memory. The time of a real model is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from keepstate.agents import EpisodeLimits, run_episode
from keepstate.models.scripted import ScriptedModel
from keepstate.runtimes import Sandbox
from keepstate.tasks import make_tasks
from keepstate.tasks.base import Task
from keepstate.traces import write_trace
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


async def play(tasks: Sequence[Task], runtime: RuntimeName, options: argparse.Namespace) -> Counter[str]:
    """Play every task, at most `concurrency` at once; how the episodes ended."""
    endings: Counter[str] = Counter()
    queue = iter(tasks)
    limits = EpisodeLimits.default(runtime)
    answers = script(runtime)

    async def worker(sandbox: Sandbox) -> None:
        for task in queue:
            trace = await run_episode(
                task, runtime=runtime, model=ScriptedModel(answers), sandbox=sandbox, limits=limits
            )
            endings[trace.failure.message if trace.failure else str(trace.finish_reason)] += 1
            if options.write:
                await asyncio.to_thread(write_trace, options.write, trace)

    async with Sandbox(isolation=options.isolation, allow_unsafe=True) as sandbox:
        print(f"isolation {sandbox.rung}", end="  ")
        await asyncio.gather(*(worker(sandbox) for _ in range(options.concurrency)))
    return endings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", choices=[str(name) for name in RuntimeName])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    tasks = list(islice(cycle(make_tasks("knapsack", "mini", 100, 0)), options.episodes))
    for name in options.runtime or list(RuntimeName):
        runtime = RuntimeName(name)
        before, started, cpu = memory_mib(), time.perf_counter(), time.process_time()
        endings = asyncio.run(play(tasks, runtime, options))
        took = time.perf_counter() - started
        print(
            f"{runtime:10}  {options.episodes / took:6.0f} episodes/s  host CPU {time.process_time() - cpu:5.1f} s of"
            f" {took:5.1f} s  memory {before:.0f} -> {memory_mib():.0f} MiB  {dict(endings)}"
        )


if __name__ == "__main__":
    main()
