"""What `dataset build --engine ray` takes of very many traces: python benchmarks/many_traces.py FOLDER [--count 200000]

Makes so many small traces below FOLDER (those that lie there stay), builds a data set of them on two nodes of one
processor each, and prints, every 15 seconds and in the end: traces a second, memory of the driver and of all processes
together (proportional shares, so that what they share counts once), files and bytes. With --local it is built by two
processes of this machine as well, and the bytes are compared. Needs the extra [ray] (make setup-ray). The traces stay;
one of them has 3 kB and two turns, so a real one takes as much longer as it is larger.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from cluster import nodes

from keepstate.dataset import BuildOptions, build_datasets
from keepstate.play.cluster import cluster
from keepstate.traces.schema import trace_json
from keepstate.traces.writer import trace_path
from keepstate.vocabulary import RuntimeName

SHARE = 1_000
"""Traces that a process makes at once."""
EVERY_SECONDS = 15.0
WRITTEN = ("train.jsonl", "val.jsonl", "index.jsonl", "left_out.jsonl", "manifest.json")


def make(folder: Path, start: int) -> int:
    """Write traces from a number on, without waiting for the disk."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from made_traces import make_trace

    for number in range(start, start + SHARE):
        path = trace_path(folder, f"knapsack-t{number}")
        if not path.exists():
            path.write_bytes(trace_json(make_trace(number)))
    return SHARE


class Memory:
    """The most memory that was seen, by a look a second."""

    def __init__(self) -> None:
        self.driver = self.all = 0.0
        """GiB."""

    def look(self) -> None:
        """Look now."""
        here = psutil.Process()
        shares = [_share(each) for each in (here, *here.children(recursive=True))]
        self.driver, self.all = max(self.driver, shares[0]), max(self.all, sum(shares))


def _share(process: psutil.Process) -> float:
    """GiB of a process, what it shares with others by its part of them."""
    try:
        return float(process.memory_full_info().pss) / 2**30
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


@contextmanager
def watched() -> Iterator[Memory]:
    """Look at the memory as long as the block lasts."""
    memory, over = Memory(), threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            memory.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


def build(name: str, root: Path, out: Path, tokenizer: Path, **how: Any) -> None:
    """Build the data set and print what it took."""
    started = told = time.monotonic()

    def note(done: tuple[int, int]) -> None:
        nonlocal told
        if time.monotonic() - told > EVERY_SECONDS:
            told = time.monotonic()
            print(
                f"  {name}: {done[0]:,} of {done[1]:,} after {told - started:.0f} s,"
                f" {memory.driver:.2f} GiB here, {memory.all:.2f} GiB in all",
                flush=True,
            )

    arms, folders = {RuntimeName.PERSISTENT: root}, {RuntimeName.PERSISTENT: out}
    options = BuildOptions()
    with watched() as memory:
        manifests = build_datasets(
            arms, folders, template=None, tokenizer_path=tokenizer, options=options, on_progress=note, **how
        )
    seconds, manifest = time.monotonic() - started, manifests[RuntimeName.PERSISTENT]
    size = sum(path.stat().st_size for path in out.iterdir())
    print(
        f"{name}: {manifest.read:,} traces in {seconds:.0f} s, {manifest.read / seconds:.0f} a second;"
        f" at most {memory.driver:.2f} GiB here, {memory.all:.2f} GiB in all;"
        f" data set {size / 2**20:.0f} MiB in {len([*out.iterdir()])} files, left out: {dict(manifest.left_out)}",
        flush=True,
    )


def main() -> None:
    """Make, build and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--tokenizer", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--local", action="store_true", help="also with two processes of this machine, and compare")
    options = parser.parse_args()
    root = options.folder / "traces"
    root.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        made = sum(pool.map(partial(make, root), range(0, options.count, SHARE)))
    size = sum(path.stat().st_size for path in root.iterdir())
    print(f"{made:,} traces, {size / 2**20:,.0f} MiB, made in {time.monotonic() - started:.0f} s", flush=True)
    outs = {"two nodes": options.folder / "ray", "two processes": options.folder / "local"}
    for out in outs.values():
        shutil.rmtree(out, ignore_errors=True)
    raised = nodes()
    try:
        with cluster(raised.address) as engine:
            build("two nodes", root, outs["two nodes"], options.tokenizer, cluster=engine)
    finally:
        raised.shutdown()
    if options.local:
        build("two processes", root, outs["two processes"], options.tokenizer, jobs=2)
        hashes = [[hashlib.sha256((out / name).read_bytes()).hexdigest() for name in WRITTEN] for out in outs.values()]
        print("the same bytes" if hashes[0] == hashes[1] else "OTHER BYTES", flush=True)


if __name__ == "__main__":
    main()
