"""What the study plays, in which order and on which server. Starts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from study_sizes import ARMS, RUN, Size

from keepstate import machine
from keepstate.setup import basemodel
from keepstate.vocabulary import BASE

PLAYED_AT = 0.2
"""Temperature of the draws."""
DRAWN = 0
"""Training seed of the adapters that are drawn from, and of the second round."""
GPU_SHARE = 0.84
"""Of a GPU's memory, what several servers on it take together: each has a context of CUDA's own beside it."""
BESIDE_CACHE_GIB = 5
"""Of a server's share: weights, activations and CUDA graphs. Told the size of its cache, vLLM need not measure what is
free, which goes wrong while others start on the same GPU."""


@dataclass(frozen=True, slots=True)
class Match:
    """One `bench matrix`."""

    name: str
    tasks: str
    cap: int
    played: tuple[str, ...]
    """The models."""
    server: int
    """Its number."""
    seeds: tuple[int, ...]
    """The training seeds of all adapters there: what is done is so for these."""
    draws: tuple[int, ...] = ()
    """Seeds of sampled episodes; none: greedy."""
    run: str = RUN

    def words(self, size: Size, port: int, concurrency: int) -> list[Any]:
        """Its command. `port`: of the first server."""
        made = ["bench", "matrix", "--tasks", f"tasks/{self.tasks}", "--tool-calls", self.cap, "--run", self.run]
        made += ["--base-url", f"http://127.0.0.1:{port + self.server}/v1", "--turns", size.turns]
        made += ["--max-tokens", size.max_tokens, "--context", size.context, "--concurrency", max(1, concurrency)]
        made += ["--seconds", size.seconds] if size.seconds else []
        made += ["--temperature", PLAYED_AT if self.draws else 0]
        made += ["--seeds", ",".join(map(str, self.draws))] if self.draws else []
        return made + [word for model in self.played for word in ("--adapter", model)]


def names(seeds: Sequence[int]) -> list[str]:
    """The adapters of these trainings."""
    return [f"{arm}-seed{seed}" for seed in seeds for arm in ARMS]


def servers(size: Size) -> list[tuple[int, ...]]:
    """The training seeds of each server."""
    return [(seed,) for seed in size.seeds] if size.server_each else [size.seeds]


def serve_words(
    size: Size, adapters: Sequence[str], folder: Path, port: int, *, of: int = 1, context: int | None = None
) -> list[Any]:
    """`keepstate serve` of the base and adapters, one of the study's `of` servers, or of more, on a GPU."""
    words: list[Any] = ["serve", "--base-model", basemodel.ensure_base_model(), "--port", port]
    words += ["--context", context or size.context]
    for name in adapters:
        words += ["--lora", f"{name}={folder / 'adapters' / name}"]
    if not size.on_gpu:
        return words
    words += ["--max-num-seqs", size.concurrency]
    gpus, of = machine.visible_gpus(), max(of, size.gpu_servers)
    if of > 1 and gpus:
        share = GPU_SHARE / of
        cache = int(share * gpus[0].memory_gib - BESIDE_CACHE_GIB) << 30
        words += ["--gpu-memory", round(share, 3), "--vllm-arg", f"kv-cache-memory-bytes={cache}"]
    return words


def groups(size: Size) -> Iterator[list[Match]]:
    """Matches that are played at one time, in the order of the groups: primary ones first, base and draws last."""
    of = servers(size)
    for cap in size.caps:
        yield [
            Match(
                f"play-trained-{tasks}-calls{cap}" + (f"-seed{seeds[0]}" if size.server_each else ""),
                tasks,
                cap,
                tuple(names(seeds)),
                server,
                seeds,
            )
            for server, seeds in enumerate(of)
            for tasks in size.sets
        ]
    last = [
        Match(f"play-{BASE}-{tasks}-calls{cap}", tasks, cap, (BASE,), number % len(of), of[number % len(of)])
        for number, (cap, tasks) in enumerate(product(size.caps, size.sets))
    ]
    if size.draws and DRAWN in size.seeds:
        server = next(number for number, seeds in enumerate(of) if DRAWN in seeds)
        drawn = tuple(names([DRAWN]))
        last.append(Match("play-draws", size.sets[0], size.caps[0], drawn, server, of[server], size.draws))
    yield last


def commands(size: Size, port: int, matches: Sequence[Match]) -> dict[str, list[Any]]:
    """The commands of matches that are played at one time: those of one server share its places."""
    at = Counter(match.server for match in matches)
    return {match.name: match.words(size, port, size.concurrency // at[match.server]) for match in matches}
