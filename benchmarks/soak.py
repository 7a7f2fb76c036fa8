"""Faults, tried for real: does a run that is killed again and again end with the tables of an undisturbed one?

    python benchmarks/soak.py [--minutes 30] [--episodes 40] [--seed 0] [--small-disk FOLDER]

Each round plays three cells (persistent, forget, react) of scripted episodes by `keepstate bench run` against a server
that now and then refuses (429 and 503 with `Retry-After`), sends half a body, hangs up or never answers. The run is
killed with SIGKILL at random points, and the server is stopped and started again; then the command is repeated, until
it says that all is done. Checked: every figure of every episode but its seconds is that of a run without faults, no
episode is missing or not graded, no unfinished file and no process is left. Over all sittings, too: tokens are those of
a run without faults, in the summaries as in the traces; seconds on the episodes' clocks are at least what the server
takes for its answers, and those of whole episodes at most what the sittings lasted. Prints a line a round; exit code 1
at the first difference. With `--small-disk`, a folder on a disk of its own (`mount -t tmpfs -o size=16m tmpfs FOLDER`),
runs are played there, and the disk is full in every third attempt. What it does not try: a read-only folder, a clock
that is set (tests/bench, tests/agents).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from harness import script
from instant_server import Connection, completion, http

from keepstate.bench.results import read_results
from keepstate.files import TEMPORARY
from keepstate.traces.reader import iter_traces
from keepstate.traces.record import ModelResponseEvent, Trace
from keepstate.traces.summary import seconds
from keepstate.vocabulary import RuntimeName

RUNTIMES = (RuntimeName.PERSISTENT, RuntimeName.FORGET, RuntimeName.REACT)
FAULTS = {"429": 0.03, "503": 0.03, "half a body": 0.03, "hangs up": 0.03, "never answers": 0.0005}
"""Share of requests with each fault."""
LONGEST_LIFE_SECONDS = 12.0
"""A run is killed within this time, if it has not ended; twenty attempts later within twice the time, and so on, lest a
busy machine never gets beyond the start."""
MOST_ATTEMPTS = 200
ANSWER_SECONDS = 0.02
"""What the server takes for an answer."""
AT_ONCE = 8
"""Episodes."""
LARGEST_DISK = 64 << 20
"""Bytes of one that is filled."""
REFUSAL = b"HTTP/1.1 %s Busy\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nbusy"


class Faulty(Connection):
    """Answers as `Connection` does, or with a fault."""

    def _answer(self, body: bytes) -> bytes:
        fault = random.choices([*FAULTS, None], [*FAULTS.values(), 1 - sum(FAULTS.values())])[0]
        match fault:
            case "429" | "503":
                return REFUSAL % fault.encode()
            case "half a body" | "hangs up":
                whole = super()._answer(body)
                self._transport.write(whole[: len(whole) // 2 if fault == "half a body" else 0])
                self._transport.close()
                return b""
            case "never answers":
                return b""
        return super()._answer(body)


async def serve(port: int, faulty: bool) -> None:
    """Serve each runtime's script as a model of its name, until killed."""
    scripts = {str(runtime): script(runtime) for runtime in RUNTIMES}
    answers = {model: [completion(model, text) for text in texts] for model, texts in scripts.items()}
    cards = [{"id": model, "object": "model", "created": 0} for model in scripts]
    models = http(json.dumps({"object": "list", "data": cards}).encode())
    kind = Faulty if faulty else Connection
    made = partial(kind, answers, models, ANSWER_SECONDS)
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Server:
    """The server as a process that can be killed and started again at its port."""

    def __init__(self, faulty: bool) -> None:
        self._faulty, self.port = faulty, 0
        self.start()

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, __file__, "--serve", str(self.port), *(["--faulty"] if self._faulty else [])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


def configs(folder: Path, port: int, episodes: int) -> list[str]:
    """Paths of the cells' configs."""
    paths = []
    for runtime in RUNTIMES:
        values = {"name": str(runtime), "adapter": str(runtime), "runtime": str(runtime), "concurrency": AT_ONCE}
        values |= {"tasks": {"difficulty": "mini", "count": episodes}, "base_url": f"http://127.0.0.1:{port}/v1"}
        paths.append(folder / f"{runtime}.yaml")
        paths[-1].write_text(yaml.safe_dump(values))
    return list(map(str, paths))


def table(run: Path) -> dict[str, Any]:
    """Every figure of every episode that is the same in every undisturbed run."""
    kept = ("score", "solved", "steps", "prompt_tokens", "completion_tokens", "finish_reason", "errors")
    figures: dict[str, Any] = {}
    for cell in read_results(run):
        figures[cell.name] = {"missing": cell.missing, "not graded": cell.not_graded, "unreadable": cell.unreadable}
        for episode in cell.episodes:
            figures[f"{cell.name} {episode.task}"] = {key: getattr(episode, key) for key in kept}
    return figures


def sums(run: Path) -> dict[str, float]:
    """Tokens and seconds of all episodes that lie in a run: as its summaries have them, and as its traces do."""
    found: Counter[str] = Counter()
    for path in run.glob("*/summary_*.json"):
        told = json.loads(path.read_text())
        found["tokens of summaries"] += round(told["average_total_tokens"] * told["num_graded"])
        found["seconds of summaries"] += told["average_runtime"] * told["num_graded"]
    for _, trace in iter_traces(run):
        assert isinstance(trace, Trace)
        found["tokens"] += trace.summary.token_usage.total_tokens or 0
        found["seconds"] += seconds(trace) or 0.0
        answers = [event.seconds for event in trace.events if isinstance(event, ModelResponseEvent)]
        found["answers"] += len(answers)
        found["seconds on the clock"] += sum(answers) + sum(step.interpreter_result.seconds for step in trace.steps)
        found["answers too fast"] += sum(each < ANSWER_SECONDS for each in answers)
    return dict(found)


def wrong_sums(found: dict[str, float], wanted: dict[str, float], lasted: float) -> list[str]:
    """What is wrong with the sums of a run.

    Args:
        found: Its `sums`.
        wanted: Those of an undisturbed run.
        lasted: Seconds of all its sittings together.
    """
    checks = {
        "tokens and answers are those of an undisturbed run": all(
            found[key] == wanted[key] for key in ("tokens", "tokens of summaries", "answers")
        ),
        "summaries count the tokens of the traces": found["tokens of summaries"] == found["tokens"],
        "summaries count the seconds of the traces": math.isclose(found["seconds of summaries"], found["seconds"]),
        "every answer took its time": not found["answers too fast"],
        "an episode lasts as long as its clock ran at least": found["seconds on the clock"] <= 1.01 * found["seconds"],
        "no second was counted in which nothing was played": found["seconds"] <= AT_ONCE * lasted,
    }
    return [f"not so: {what}" for what, holds in checks.items() if not holds]


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill a disk to its last byte for a while."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


def play(
    run: Path, paths: list[str], server: Server, dice: random.Random | None, small: Path | None = None
) -> Counter[str]:
    """Repeat the command until all is done; kill it and the server at random points, and fill the small disk, where
    there are dice."""
    happened: Counter[str] = Counter()
    command = [sys.executable, "-m", "keepstate", "bench", "run", *paths, "--run", str(run)]
    for attempt in range(MOST_ATTEMPTS):
        is_full = bool(small and dice and attempt % 3 == 1)
        happened["disk full"] += is_full
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            with full(small) if small and is_full else nullcontext():
                longest = LONGEST_LIFE_SECONDS * (1 + attempt / 20)
                errors = process.communicate(timeout=dice.uniform(0.5, longest) if dice else None)[1]
        except subprocess.TimeoutExpired:
            if dice and dice.random() < 0.3:
                happened["server stopped"] += 1
                server.kill()
                time.sleep(dice.uniform(0, 2))
                server.start()
            process.send_signal(signal.SIGKILL)
            process.communicate()
            happened["killed"] += 1
            continue
        if process.returncode == 0:
            return happened
        happened[f"exit {process.returncode}"] += 1
        if "Traceback" in errors:
            raise SystemExit(f"a traceback:\n{errors}")
    raise SystemExit(f"not done after {MOST_ATTEMPTS} attempts: {dict(happened)}")


def left_behind(run: Path) -> list[str]:
    """Unfinished files, and processes of a sandbox whose host is gone."""
    left = [str(path) for path in run.rglob(f"*{TEMPORARY}")]
    for entry in Path("/proc").glob("[0-9]*/status"):
        try:
            name, parent = entry.parent.joinpath("cmdline").read_bytes(), entry.read_text().split("PPid:\t")[1]
        except (OSError, IndexError):
            continue
        if b"sandbox/guest" in name and parent.startswith("1\n") and entry.stat().st_uid == os.getuid():
            left.append(f"process {entry.parent.name}")
    return left


def _told(total: dict[str, float]) -> str:
    clock, whole = total["seconds on the clock"], total["seconds"]
    return f"{total['tokens']:,.0f} tokens, {clock:.1f} s on the clock in episodes of {whole:.1f} s"


def main() -> None:
    """Play rounds until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--episodes", type=int, default=40, help="of each of the three cells, in a round")
    parser.add_argument("--seed", type=int, default=0, help="of the points in time at which is killed")
    parser.add_argument("--small-disk", type=Path, help="a folder on a disk of some MiB, to play in and to fill")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--faulty", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve, options.faulty))
        return
    if options.small_disk and shutil.disk_usage(options.small_disk).total > LARGEST_DISK:
        parser.error(f"{options.small_disk} is on a disk of more than {LARGEST_DISK >> 20} MiB, which would be filled")
    dice, ends = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder, number = Path(name), 0
        server = Server(faulty=False)
        try:
            play(folder / "undisturbed", configs(folder, server.port, options.episodes), server, None)
            wanted, wanted_sums = table(folder / "undisturbed"), sums(folder / "undisturbed")
            print(f"undisturbed: {_told(wanted_sums)}", flush=True)
            server.kill()
            server = Server(faulty=True)
            paths = configs(folder, server.port, options.episodes)
            while time.monotonic() < ends:
                number += 1
                run, started = (options.small_disk or folder) / f"round-{number}", time.monotonic()
                happened = play(run, paths, server, dice, options.small_disk)
                lasted, found, total = time.monotonic() - started, table(run), sums(run)
                differs = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
                print(f"round {number}: {lasted:.0f} s, {dict(happened)}; {_told(total)}", flush=True)
                left = [*left_behind(run), *wrong_sums(total, wanted_sums, lasted)]
                if differs or left:
                    for key in sorted(differs)[:5]:
                        print(f"  {key}: {wanted.get(key)} undisturbed, {found.get(key)} here")
                    raise SystemExit(f"{len(differs)} differences, beside them: {left}")
                shutil.rmtree(run)
        finally:
            server.kill()
    print(f"{number} rounds of {len(RUNTIMES) * options.episodes} episodes: all as undisturbed, nothing left behind")


if __name__ == "__main__":
    main()
