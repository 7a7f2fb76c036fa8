"""How fast tasks are made, against a plainly written pure-Python generator in the same run on the same core.

    python benchmarks/tasks.py [--difficulty medium] [--count 300] [--files FOLDER]

Both draw instances by the same rules, solve each exactly and accept by the same checks; they differ in their random
streams, so their instances differ. `--files` also measures by the clock, with the files, in a new folder on the disk of
FOLDER: beside it what it takes to open, write and close as many files of the same bytes, and to wait for the disk once.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from keepstate.tasks import make_tasks, write_tasks
from keepstate.tasks.families.knapsack.sampling import DIFFICULTIES, KnapsackParameters

TARGET = 20 * 89
"""Least wanted tasks/s on `medium`: twenty times what was measured of the research generator (89/s)."""


def plain_task(parameters: KnapsackParameters, seed: int) -> dict[str, object]:
    """One instance in plain Python: lists, dicts and a table of capacities x items."""
    rng = random.Random(seed)
    while True:
        count = rng.randint(*parameters.items)
        allowed = rng.sample(range(parameters.classes), parameters.allowed_classes)
        items = {}
        for position in range(count):
            name = hashlib.sha256(str(rng.getrandbits(128)).encode()).hexdigest()[:12]
            class_ = rng.choice(allowed) if position == 0 else rng.randrange(parameters.classes)
            items[f"item_{name}"] = (class_, rng.randint(*parameters.weight), rng.randint(*parameters.value))
        usable = [item for item in items.values() if item[0] in allowed]
        if len(usable) < 5:
            continue
        ratio = rng.uniform(*parameters.capacity_ratio)
        capacity = max(round(ratio * sum(item[1] for item in usable)), min(item[1] for item in usable))
        best, chosen = plain_solve(usable, capacity)
        if len(chosen) < 3 or max(item[2] for item in chosen) > 0.4 * best:
            continue
        share = parameters.allowed_classes / parameters.classes
        wanted = max(1.5 * capacity / fmean(parameters.weight) / share, 1.1 * len(chosen))
        return {"items": items, "capacity": capacity, "budget": max(5, min(math.ceil(wanted), count)), "best": best}


def plain_solve(items: list[tuple[int, int, int]], capacity: int) -> tuple[int, list[tuple[int, int, int]]]:
    """The textbook table, cell by cell."""
    best = [[0] * (capacity + 1) for _ in range(len(items) + 1)]
    for row, (_, weight, value) in enumerate(items, 1):
        for free in range(capacity + 1):
            best[row][free] = best[row - 1][free]
            if weight <= free and best[row - 1][free - weight] + value > best[row][free]:
                best[row][free] = best[row - 1][free - weight] + value
    chosen, free = [], capacity
    for row in range(len(items), 0, -1):
        if best[row][free] != best[row - 1][free]:
            chosen.append(items[row - 1])
            free -= items[row - 1][1]
    return best[-1][capacity], chosen


def rate(make: Callable[[], object], count: int, repeats: int = 5) -> float:
    """Tasks per second of CPU time, the best of several repeats (other work on the machine only slows)."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        make()
        seconds.append(time.process_time() - started)
    return count / min(seconds)


def by_the_clock(difficulty: str, count: int, parent: Path) -> None:
    """Print tasks per second with their files, and plain files per second."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        started = time.perf_counter()
        paths = write_tasks(Path(name) / "tasks", make_tasks("knapsack", difficulty, count, 0))
        ours = count / (time.perf_counter() - started)
        contents = [path.read_bytes() for path in paths]
        started = time.perf_counter()
        (Path(name) / "plain").mkdir()
        for path, content in zip(paths, contents, strict=True):
            (Path(name) / "plain" / path.name).write_bytes(content)
        os.sync()
        plain = count / (time.perf_counter() - started)
    print(f"{difficulty} by the clock, with files: {ours:,.0f} tasks/s; plain files alone {plain:,.0f}/s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--difficulty", choices=list(DIFFICULTIES), default="medium")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--files", type=Path, help="Measure by the clock, with files, on the disk of this folder.")
    options = parser.parse_args()
    parameters = DIFFICULTIES[options.difficulty]
    ours = rate(lambda: list(make_tasks("knapsack", options.difficulty, options.count, 0)), options.count)
    few = max(1, options.count // 10)
    plain = rate(lambda: [plain_task(parameters, seed) for seed in range(few)], few)
    print(f"{options.difficulty}: keepstate {ours:,.0f} tasks/s, plain Python {plain:,.0f} tasks/s, one core each")
    print(f"ratio {ours / plain:.1f}")
    if options.files:
        by_the_clock(options.difficulty, options.count, options.files)
    if options.difficulty == "medium":
        print(f"target {TARGET:,} tasks/s: {'reached' if ours >= TARGET else 'MISSED'}")


if __name__ == "__main__":
    main()
