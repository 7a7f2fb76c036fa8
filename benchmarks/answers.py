"""What a cache of 8 bits, drafts and a base through NF4 change of answers: `keepstate serve` with and without.

    python benchmarks/answers.py --lora persistent=FOLDER ... --traces DATA/persistent ... --out answers.json
    python benchmarks/answers.py ... --variant plain --variant fp8 --tasks FOLDER     # and scores of the aligned cells
    python benchmarks/answers.py ... --variant plain --variant nf4 --together         # on a GPU with room for both

Each adapter goes on, and so does the base, with conversations of `--traces` (the folder of its name, else the first),
at every answer: how the log-probabilities of the recorded answer's tokens differ, and whether the greedy answers are
the same. `again` is a plain server once more, asked in another order: what differs there is of neither. An adapter is
played in the runtime that its name begins with (`persistent-nf4` in persistent).

KL a token is taken over the 20 likeliest tokens of the first server and all others as one, which is at most the whole.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import Any

import httpx2

from keepstate.serve import plan_serving, serve
from keepstate.serve.nf4 import on_nf4
from keepstate.serve.vllm_arguments import KV_CACHE, NGRAM, SPECULATION
from keepstate.traces import BadTrace, iter_traces
from keepstate.vocabulary import BASE

LIKELIEST = 20
AGAIN, NF4 = "again", "nf4"
VARIANTS = {
    "plain": [],
    AGAIN: [],
    "fp8": [f"{KV_CACHE}=fp8"],
    "ngram": [f"{SPECULATION}={json.dumps(NGRAM)}"],
    NF4: [],
}
"""What vLLM is told; the server of `nf4` has `--base nf4-dequantised`."""
PLAYED = ["--turns", "20", "--max-tokens", "2048", "--concurrency", "256"]
"""The study's limits, and all at once: an adapter beside other weights than its own may write on and on."""

Distribution = dict[str, float]


class Asker:
    """One server."""

    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=600, trust_env=False)

    def greedy(self, model: str, messages: Sequence[Any], tokens: int) -> str:
        """The likeliest answer."""
        body = {"model": model, "messages": list(messages), "max_tokens": tokens, "temperature": 0}
        reply = self._client.post("chat/completions", json=body).raise_for_status().json()
        return str(reply["choices"][0]["message"]["content"])

    def distributions(self, model: str, messages: Sequence[Any]) -> list[tuple[str, Distribution]]:
        """What the model holds likeliest at each token of a recorded answer, the last message, and that token's id."""
        ids = self._tokens(model, messages, generation=False)
        start = len(self._tokens(model, messages[:-1], generation=True))
        body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": LIKELIEST}
        reply = self._client.post("completions", json=body).raise_for_status().json()
        found = reply["choices"][0]["prompt_logprobs"]
        return [
            (str(ids[place]), {token: each["logprob"] for token, each in found[place].items()})
            for place in range(start, len(ids))
        ]

    def _tokens(self, model: str, messages: Sequence[Any], *, generation: bool) -> list[int]:
        body = {"model": model, "messages": list(messages), "add_generation_prompt": generation}
        return list(self._client.post("../tokenize", json=body).raise_for_status().json()["tokens"])


def divergence(first: Distribution, other: Distribution) -> float:
    """KL over the tokens that both tell, and all the rest as one."""
    told = first.keys() & other.keys()
    rest = [max(1e-9, 1 - sum(math.exp(each[token]) for token in told)) for each in (first, other)]
    return sum(math.exp(first[token]) * (first[token] - other[token]) for token in told) + rest[0] * math.log(
        rest[0] / rest[1]
    )


def conversations(folder: Path, count: int) -> list[list[Any]]:
    """Recorded messages up to each answer."""
    found = []
    for _, trace in islice(iter_traces(folder), count):
        if not isinstance(trace, BadTrace):
            answers = [place for place, message in enumerate(trace.messages) if message["role"] == "assistant"]
            found += [list(trace.messages[: place + 1]) for place in answers]
    return found


def compare(first: Sequence[Any], other: Sequence[Any]) -> dict[str, float]:
    """One model's answers with two caches."""
    pairs = [pair for one, two in zip(first, other, strict=True) for pair in zip(one["at"], two["at"], strict=True)]
    kl = sorted(divergence(one, two) for (_, one), (_, two) in pairs)
    gaps = [abs(one[token] - two[token]) for (token, one), (_, two) in pairs]
    same = [max(one, key=one.__getitem__) == max(two, key=two.__getitem__) for (_, one), (_, two) in pairs]
    return {
        "tokens": len(pairs),
        "kl": round(fmean(kl), 5),
        "kl_99": round(kl[int(0.99 * len(kl))], 4),
        "logprob_gap": round(fmean(gaps), 4),
        "same_likeliest_token": round(fmean(same), 4),
        "answers": len(first),
        "same_greedy_answers": round(
            fmean(one["greedy"] == two["greedy"] for one, two in zip(first, other, strict=True)), 3
        ),
        "loss": round(-fmean(one[token] for (token, one), _ in pairs), 4),
        "loss_other": round(-fmean(two[token] for _, (token, two) in pairs), 4),
    }


def scores(url: str, tasks: Path, folder: Path, names: Sequence[str], variant: str) -> Any:
    """What each adapter scores in its own runtime, drawn without chance."""
    words = [sys.executable, "-m", "keepstate", "bench", "matrix", "--base-url", url, "--tasks", tasks.resolve()]
    words += [word for name in names if name != BASE for word in ("--cells", f"{name}:{name.partition('-')[0]}")]
    words += ["--context", "8192", "--temperature", "0", *PLAYED, "--run", variant, "--json"]
    done = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr[-500:]


class Found:
    """What has been answered and scored so far: each new part is written at once, since a lent machine may be gone."""

    def __init__(self, variants: Sequence[str], out: Path) -> None:
        self._first, self._out, self._lock = variants[0], out, Lock()
        self._answers: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, Any] = {}

    def take(self, variant: str, *, answers: dict[str, Any] | None = None, played: Any = None) -> None:
        """Note what one server answered or its adapters scored."""
        with self._lock:
            self._answers |= {variant: answers} if answers else {}
            self._scores |= {variant: played} if played else {}
            self._out.write_text(json.dumps(self.compared() | {"scores": self._scores}, indent=1))

    def compared(self) -> dict[str, dict[str, Any]]:
        """Every other variant's answers with the first one's, by model, as soon as both are there."""
        if (first := self._answers.get(self._first)) is None:
            return {}
        others = {variant: answers for variant, answers in self._answers.items() if variant != self._first}
        return {
            variant: {name: compare(first[name], answers[name]) for name in first}
            for variant, answers in others.items()
        }


def ask(variant: str, talks: Mapping[str, Sequence[Any]], given: argparse.Namespace, found: Found) -> None:
    """Note what every model of one server answers, and what its adapters score."""
    planned = plan_serving(
        base_model=given.base_model, adapters=given.lora, port=0, vllm_args=[*VARIANTS[variant], *given.vllm_arg]
    )
    with serve(on_nf4(planned) if variant == NF4 else planned) as server:
        asker, answers = Asker(f"{server.base_url}/"), {}
        for name in list(talks)[:: -1 if variant == AGAIN else 1]:
            print(f"{variant}: {name}", flush=True)
            answers[name] = [
                {"at": asker.distributions(name, talk), "greedy": asker.greedy(name, talk[:-1], given.tokens)}
                for talk in talks[name]
            ]
        found.take(variant, answers=answers)
        if not given.tasks:
            return
        played = scores(server.base_url, given.tasks, given.out.resolve().parent, [*talks], variant)
    print(f"{variant}: {json.dumps(played)}", flush=True)
    found.take(variant, played=played)


def main() -> None:
    """Ask all, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lora", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--base-model")
    parser.add_argument("--traces", type=Path, action="append", required=True)
    parser.add_argument("--count", type=int, default=4, help="traces for each model")
    parser.add_argument("--tokens", type=int, default=200, help="of a greedy answer")
    parser.add_argument(
        "--variant", action="append", choices=VARIANTS, help="the first is what others are held against"
    )
    parser.add_argument("--vllm-arg", action="append", default=[], metavar="KEY=VALUE", help="for each server")
    parser.add_argument("--together", action="store_true", help="all servers at once instead of one after the other")
    parser.add_argument("--tasks", type=Path, help="play these with each server, too")
    parser.add_argument("--out", type=Path, default=Path("answers.json"))
    given = parser.parse_args()
    names = [BASE, *(lora.partition("=")[0] for lora in given.lora)]
    folders = {folder.name: folder for folder in given.traces}
    talks = {name: conversations(folders.get(name.partition("-")[0], given.traces[0]), given.count) for name in names}
    variants = given.variant or [*VARIANTS]
    found = Found(variants, given.out)
    with ThreadPoolExecutor(len(variants)) as pool:
        several = pool.map if given.together else map
        list(several(lambda variant: ask(variant, talks, given, found), variants))
    for other, models in found.compared().items():
        for name, figures in models.items():
            print(f"| {other} | {name} |", " | ".join(map(str, figures.values())), "|")


if __name__ == "__main__":
    main()
