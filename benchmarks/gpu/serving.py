"""keepstate's server and benchmark on a GPU: how it starts, how fast it answers, how many episodes it plays.

    python benchmarks/gpu/serving.py --base-model FOLDER --lora NAME=FOLDER ... --out FILE \
        start 64x16 256x48 stop start stop              # the first start compiles, the second finds it compiled
    python benchmarks/gpu/serving.py ... "start:--kv-cache fp8" raw:64:mixed 64x16 stop
    python benchmarks/gpu/serving.py ... --tasks FOLDER --replay FILE start 256x48 stop "start:--speculate ngram" 4x12

Steps, in their order; each writes a line of JSON to --out when it is done, so that what a cut call measured is kept,
and a row of a table to a file beside it:

    start[*N][:WORDS]       `keepstate serve`, N replicas, with more words; NAME=VALUE sets a variable. Stages and cache
    raw:N:WHO           N requests at once of 400 new tokens; WHO: base, an adapter, or mixed (all models in turn)
    CxK[@1]             `keepstate bench matrix` with K tasks a cell, C episodes at once on each replica, or (@1)
                        on the last one alone: easy ones in six turns of 400 tokens, or those of --tasks as they come
    profile:N:WHO       the GPU's kernels in 20 steps of raw:N:WHO into the folder of --profile, for step_kernels.py
    stop                SIGTERM

Weights may be random (weights.py): then every episode goes to its last turn, and figures say nothing of scores. With
--replay the answers are recorded ones (replay.py), whatever the weights: episodes of real length, whose text allows
the drafts that it allows. `steady` is the rate between the end of the first fifth of a matrix's episodes and that of
the fourth: without the start of the command and the last ones, which run alone.

Several of these programs with one --in-turn FILE start their servers at the same time, each with its share of the
GPU (`--gpu-memory`, `--vllm-arg kv-cache-memory-bytes=`), and measure one step at a time, none while another starts.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

KEEPSTATE = [sys.executable, "-m", "keepstate"]
REPLAY_SERVE = Path(__file__).resolve().parent / "replay_serve.py"
TURNS, NEW_TOKENS = 6, 400
_STAGE = re.compile(r" *([\d.]+) s  (.+)")
_POOL = re.compile(r"KV cache size: ([\d,]+) tokens")
_VARIABLE = re.compile("[A-Z]")
UNKNOWN = " is not known, "
"""What the replay plugin says of a prompt that no recorded answer belongs to."""
COLUMNS = ("server", "step", "episodes", "seconds", "episodes_per_minute", "steady", "output_tokens_per_second")
COLUMNS += ("ms_per_token", "ms_per_step", "tokens_a_step", "prefix_hits", "missed_tokens_per_request", "preemptions")


def rates(grown: dict[str, float], seconds: float) -> dict[str, Any]:
    """Figures from what vLLM's counters grew by in some seconds.

    Its latency between tokens is one between steps, which write several tokens where drafts are accepted.
    """
    requests = max(1, grown["vllm:time_to_first_token_seconds_count"])
    queries, hits = grown["vllm:prefix_cache_queries_total"], grown["vllm:prefix_cache_hits_total"]
    tokens = grown["vllm:generation_tokens_total"]
    accepted = grown.get("vllm:spec_decode_num_accepted_tokens_total", 0)
    writing = 1000 * grown["vllm:inter_token_latency_seconds_sum"]
    return {
        "seconds": round(seconds, 1),
        "output_tokens_per_second": round(tokens / seconds),
        "ms_per_token": round(writing / max(1, tokens - requests), 2),
        "ms_per_step": round(writing / max(1, grown["vllm:inter_token_latency_seconds_count"]), 2),
        "tokens": round(tokens),
        "drafts": round(grown.get("vllm:spec_decode_num_drafts_total", 0)),
        "tokens_a_step": round((tokens - requests) / max(1, tokens - requests - accepted), 3),
        "prefix_hits": round(hits / max(1, queries), 4),
        "missed_tokens_per_request": round((queries - hits) / requests, 1),
        "preemptions": grown["vllm:num_preemptions_total"],
    }


def steady(ends: Sequence[float]) -> float | None:
    """Episodes a minute between the end of the first fifth of them and that of the fourth; None of fewer than ten.

    Args:
        ends: When each ended, in seconds, in any order.
    """
    if len(ends) < 10:
        return None
    ends = sorted(ends)
    first, last = len(ends) // 5, 4 * len(ends) // 5
    return round(60 * (last - first) / max(1e-9, ends[last] - ends[first]), 1)


def profiler(folder: Path) -> str:
    """vLLM's configuration for `profile:`, whose traces are written there; costs nothing before."""
    told = {"profiler": "torch", "torch_profiler_dir": str(folder.resolve()), "torch_profiler_with_stack": False}
    return json.dumps(told | {"ignore_frontend": True, "max_iterations": 20})


class Bench:
    """One server at a time, and what is measured on it."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.base, self.loras, self.out, self.port = given.base_model, given.lora, given.out, given.port
        self.tasks: Path | None = given.tasks
        self.replay: Path | None = given.replay
        self.context, self.profile = given.context, given.profile
        self.seconds, self.until = given.step_seconds, time.time() + given.budget
        self.in_turn: Path | None = given.in_turn
        self.started = ""
        self.log = Path(os.devnull)
        self.urls = [f"http://127.0.0.1:{self.port}"]
        self.process: subprocess.Popen[str] | None = None

    def run(self, step: str) -> None:
        """One step, and its line; none but `stop` once the time is over."""
        if time.time() > self.until and step != "stop":
            print(f"left out, the time is over: {step}", flush=True)
            return
        with self._turn(alone=step != "stop" and not step.startswith("start")):
            began = time.monotonic()
            figures = self._step(step)
        figures |= {"step": step, "wall": round(time.monotonic() - began, 1), "server": self.started}
        with self.out.open("a") as file:
            print(json.dumps(figures), file=file)
        if "output_tokens_per_second" in figures:
            table = self.out.with_suffix(".md")
            head = "" if table.exists() else f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"
            with table.open("a") as file:
                print(f"{head}|", " | ".join(str(figures.get(column, "")) for column in COLUMNS), "|", file=file)
        print(json.dumps(figures), flush=True)

    @contextmanager
    def _turn(self, *, alone: bool) -> Iterator[None]:
        """Hold the lock that several of these programs share, for itself where it measures."""
        if self.in_turn is None:
            yield
            return
        with self.in_turn.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield

    def _step(self, step: str) -> dict[str, Any]:
        if step == "stop":
            return self.stop()
        if step.startswith("start"):
            many, _, options = step.removeprefix("start").partition(":")
            return self.start(int(many.removeprefix("*") or 1), shlex.split(options))
        if step.startswith("raw:"):
            _, at_once, who = step.split(":")
            return self._counted(lambda: asyncio.run(self._raw(int(at_once), who)))
        if step.startswith("profile:"):
            _, at_once, who = step.split(":")
            return self._profile(int(at_once), who)
        load, _, alone = step.partition("@")
        episodes, tasks = map(int, load.split("x"))
        return self._counted(lambda: self._matrix(self.urls[-1 if alone else 0], episodes, tasks))

    def start(self, replicas: int, more: list[str]) -> dict[str, Any]:
        """The start's stages, and what vLLM says of its cache; of the last replica."""
        self.urls = [f"http://127.0.0.1:{self.port + number}" for number in range(replicas)]
        self.started = " ".join(more) or "plain"
        words = [sys.executable, str(REPLAY_SERVE)] if self.replay else [*KEEPSTATE, "serve"]
        words += ["--base-model", self.base, "--port", str(self.port), "--replicas", str(replicas)]
        words += [word for lora in self.loras for word in ("--lora", lora)]
        words += ["--vllm-arg", f"profiler-config={profiler(self.profile)}"] if self.profile else []
        variables = dict(word.split("=", 1) for word in more if _VARIABLE.match(word))
        words += [word for word in more if not _VARIABLE.match(word)]
        if self.replay:
            variables["KEEPSTATE_REPLAY"] = str(self.replay.resolve())
        self.process = subprocess.Popen(
            words, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | variables
        )
        assert self.process.stderr
        said = []
        late = threading.Timer(self.seconds, self.process.terminate)
        late.daemon = True  # it must not hold this process back from ending
        late.start()
        for line in self.process.stderr:
            said.append(line.rstrip())
            print(said[-1], flush=True)
            if "its log: " in line and sum("its log: " in line for line in said) == replicas:
                break
        else:
            sys.exit(f"it did not start: {self.process.wait()}")
        late.cancel()
        self.log = Path(said[-1].partition("its log: ")[2])
        log = self.log.read_text(errors="replace")
        (self.out.parent / f"vllm-{int(time.time())}.log").write_text(log)
        stages = {found[2]: float(found[1]) for line in said if (found := _STAGE.fullmatch(line))}
        pool = _POOL.search(log)
        return {"stages": stages, "pool_tokens": int(pool[1].replace(",", "")) if pool else None}

    def stop(self) -> dict[str, Any]:
        """End it; not by SIGINT, which what a shell runs in the background never gets."""
        if self.process:
            self.process.terminate()
            self.process.wait(60)
        self.process = None
        return {}

    def _counted(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the server counted meanwhile."""
        unknown, before, began = self._unknown(), self._counters(), time.monotonic()
        figures = work()
        seconds, after = time.monotonic() - began, self._counters()
        grown = {name: after[name] - before.get(name, 0) for name in after}
        if self.replay:
            figures["unknown_prompts"] = self._unknown() - unknown
        return figures | rates(grown, seconds)

    def _unknown(self) -> int:
        return self.log.read_text(errors="replace").count(UNKNOWN)

    def _counters(self) -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for url in self.urls:
            for line in httpx2.get(f"{url}/metrics", trust_env=False).text.splitlines():
                if line.startswith("vllm:") and "_bucket" not in line:
                    name, _, value = line.rpartition(" ")
                    found[name.partition("{")[0]] += float(value)
        return found

    async def _raw(self, at_once: int, who: str) -> dict[str, Any]:
        """Answers of a fixed length to different short prompts."""
        names = ["base", *(lora.partition("=")[0] for lora in self.loras)] if who == "mixed" else [who]
        rng = random.Random(at_once)

        async def ask(client: httpx2.AsyncClient, number: int) -> None:
            body = {
                "model": names[number % len(names)],
                "prompt": [rng.randrange(1000, 40_000) for _ in range(200)],
                "max_tokens": NEW_TOKENS,
                "temperature": 1.0,
                "ignore_eos": True,
            }
            reply = await client.post(f"{self.urls[0]}/v1/completions", json=body, timeout=self.seconds)
            reply.raise_for_status()

        async with httpx2.AsyncClient(trust_env=False, limits=httpx2.Limits(max_connections=None)) as client:
            await asyncio.gather(*(ask(client, number) for number in range(at_once)))
        return {}

    def _profile(self, at_once: int, who: str) -> dict[str, Any]:
        """Let vLLM trace some steps of writing, 1 s after the requests, which were read by then."""
        load = threading.Thread(target=lambda: asyncio.run(self._raw(at_once, who)))
        load.start()
        time.sleep(1)
        for what in ("start", "stop"):
            httpx2.post(f"{self.urls[0]}/{what}_profile", timeout=self.seconds, trust_env=False).raise_for_status()
            time.sleep(2 * (what == "start"))
        load.join()
        return {}

    def _matrix(self, url: str, at_once: int, count: int) -> dict[str, Any]:
        """All cells of the server, `count` tasks each."""
        with tempfile.TemporaryDirectory() as folder:
            words = [*KEEPSTATE, "bench", "matrix", "--base-url", f"{url}/v1"]
            if self.tasks:
                words += ["--tasks", str(self.tasks.resolve()), "--context", str(self.context)]
            else:
                words += ["--difficulty", "easy", "--turns", str(TURNS), "--max-tokens", str(NEW_TOKENS)]
                words += ["--temperature", "1.0"]
            words += ["--count", str(count), "--concurrency", str(at_once), "--run", "speed"]
            began = time.monotonic()
            with (Path(folder) / "said").open("w") as said:
                code = _finished(subprocess.Popen(words, cwd=folder, stdout=said, stderr=said), self.seconds)
            seconds = time.monotonic() - began
            ends = [file.stat().st_mtime for file in Path(folder).rglob("*.trace.json")]
            if code:
                print((Path(folder) / "said").read_text()[-2000:], flush=True)
        return {
            "exit_code": code,
            "episodes": len(ends),
            "episodes_per_minute": round(60 * len(ends) / seconds, 1),
            "steady": steady(ends),
        }


def _finished(process: subprocess.Popen[Any], seconds: float) -> int:
    """Its exit code; ended after so many seconds, when what it played by then counts."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        return process.wait(60)


def main() -> None:
    """Do the steps; whatever happens, no server is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--lora", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--tasks", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--profile", type=Path, help="a folder for traces of profile:, whose server can write them")
    parser.add_argument("--context", type=int, default=40_960, help="of --tasks: least tokens, as bench has it")
    parser.add_argument("--step-seconds", type=float, default=600, help="the longest that one step may take")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no step begins")
    parser.add_argument("--in-turn", type=Path, metavar="FILE", help="a lock that several of these programs share")
    parser.add_argument("--out", type=Path, default=Path("serving.jsonl"))
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("steps", nargs="+")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(given)
    try:
        for step in given.steps:
            bench.run(step)
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
