"""What keepstate's way of serving on the CPU is worth beside vLLM's own, on one machine in one run.

    python benchmarks/serving.py [--variant keepstate --variant vllm ...] [--rounds 3]

Starts one server a variant, side by side, with SmolLM2-135M and three adapters of random weights, and asks them in
turn, round by round, so that the machine's other load meets all alike. Prints the mean of tokens/s for one, 12 and 16
requests at once (base, an adapter, all mixed) and of reading prompts, with the ratio to the first variant; the tokens
recomputed in a second turn; and whether the base answers in a mixed batch as it does alone. A server takes 3.5 GiB.

Variants: `keepstate` as we start it; `vllm` without our plugin, thread binding and block size; and ours with one thing
changed: `one-thread`, `bound` (threads to cores), `block-128`, `in-parts` (prompts of more than 2,048 tokens), `dynamo`
(torch may compile what vLLM marks for it), `iomp`, `tcmalloc` (name the library in TCMALLOC).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean

import httpx2

from keepstate.processes import GuardedProcess
from keepstate.serve import ServingPlan, plan_serving
from keepstate.serve.command import command, environment
from keepstate.setup import basemodel, installing

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "serve"))
from random_lora import write_random_lora

ADAPTERS = ("persistent", "forget", "react")
GROUPS = {"base": ("base",), "adapter": ("persistent",), "mixed": ("persistent", "base", "forget", "base", "react")}
QUESTION = "What is the capital of France?"
PROMPT = "item_0a1b2c3d4e5f weight 12 value 55 class K. " * 30
PAUSE = 1.5
"""Seconds: vLLM's own processes spin for one after their last request, on a core that the next server is to have."""
VARIANTS = ("keepstate", "vllm", "one-thread", "bound", "block-128", "in-parts", "dynamo", "iomp", "tcmalloc")


def variant_environment(variant: str, python: Path) -> dict[str, str]:
    """What a variant changes in the server's environment."""
    if variant == "tcmalloc":
        return {"LD_PRELOAD": os.environ["TCMALLOC"]}
    changed = {
        "vllm": {"VLLM_PLUGINS": "none", "VLLM_CPU_OMP_THREADS_BIND": "auto"},
        "one-thread": {"OMP_NUM_THREADS": "1"},
        "bound": {"VLLM_CPU_OMP_THREADS_BIND": "auto"},
        "dynamo": {"TORCHDYNAMO_DISABLE": "0"},
        "iomp": {"LD_PRELOAD": str(python.parents[1] / "lib" / "libiomp5.so")},
    }
    return changed.get(variant, {})


@contextmanager
def started(planned: ServingPlan, variant: str) -> Iterator[None]:
    """A server of one variant; prints how long it took."""
    python = installing.ensure("serve")
    words = command(planned, python)
    if variant in ("vllm", "block-128"):
        words += ["--block-size", "128"]
    if variant in ("vllm", "in-parts"):
        words += ["--enable-chunked-prefill", "--max-num-batched-tokens", "2048"]
    began = time.monotonic()
    with (
        planned.log.open("wb") as log,
        GuardedProcess(words, output=log, env=environment(planned) | variant_environment(variant, python)) as process,
    ):
        while True:
            try:
                httpx2.get(planned.base_url.replace("/v1", "/health"), trust_env=False).raise_for_status()
                break
            except httpx2.HTTPError:
                if process.poll() is not None:
                    sys.exit(planned.log.read_text()[-3000:])
                time.sleep(0.2)
        print(f"{variant}: up in {time.monotonic() - began:.0f} s", flush=True)
        yield


class Asker:
    """Asks one server, and measures."""

    def __init__(self, url: str, client: httpx2.AsyncClient) -> None:
        self._url, self._client = url, client

    async def ask(self, model: str, text: str, tokens: int, **more: object) -> dict:
        """One answer."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}
        reply = await self._client.post(f"{self._url}/chat/completions", json=body | more, timeout=600)
        return reply.raise_for_status().json()

    async def writing(self, models: Sequence[str], at_once: int, tokens: int = 32) -> float:
        """Tokens/s of answers to short questions."""
        return await self._rate(models, at_once, "Tell me about knapsacks.", tokens, "completion_tokens")

    async def reading(self, models: Sequence[str]) -> float:
        """The same of prompts of 780 tokens, four at once."""
        return await self._rate(models, 4, PROMPT, 1, "prompt_tokens")

    async def _rate(self, models: Sequence[str], at_once: int, text: str, tokens: int, counted: str) -> float:
        began = time.monotonic()
        asked = [
            self.ask(models[k % len(models)], f"{time.monotonic_ns()} {k} {text}", tokens, ignore_eos=True)
            for k in range(at_once)
        ]
        total = sum(reply["usage"][counted] for reply in await asyncio.gather(*asked))
        return total / (time.monotonic() - began)

    async def recomputed(self, model: str) -> int:
        """Tokens of a second turn's prompt that were in the first prompt or answer, and yet not in the cache."""
        messages = [{"role": "user", "content": f"{time.monotonic_ns()} {PROMPT}"}]
        first = await self.ask(model, "", 64, messages=messages, ignore_eos=True)
        usage = first["usage"]
        answer = first["choices"][0]["message"]["content"]
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "go on"}]
        second = (await self.ask(model, "", 1, messages=messages))["usage"]
        return usage["prompt_tokens"] + usage["completion_tokens"] - second["prompt_tokens_details"]["cached_tokens"]

    async def base_is_itself(self) -> bool:
        """Whether the base answers in a mixed batch as it does alone."""
        alone = await self.ask("base", QUESTION, 12)
        models = GROUPS["mixed"] * 2
        replies = await asyncio.gather(*(self.ask(model, QUESTION, 12) for model in models))
        texts = [
            reply["choices"][0]["message"]["content"]
            for model, reply in zip(models, replies, strict=True)
            if model == "base"
        ]
        return set(texts) == {alone["choices"][0]["message"]["content"]}


async def measure(askers: dict[str, Asker], rounds: int) -> None:
    """Ask every server in turn, and print the means."""
    for asker in askers.values():
        for model in ("base", *ADAPTERS):
            await asker.ask(model, QUESTION, 4)
    rates: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(rounds):
        for variant, asker in askers.items():
            await asyncio.sleep(PAUSE)
            for group, models in GROUPS.items():
                for at_once in (1, 12, 16):
                    rate = await asker.writing(models, at_once)
                    rates.setdefault((group, f"{at_once} at once", variant), []).append(rate)
                rates.setdefault((group, "reading", variant), []).append(await asker.reading(models))
    first = next(iter(askers))
    for (group, what, variant), found in rates.items():
        ratio = fmean(found) / fmean(rates[group, what, first])
        rounds_shown = " ".join(f"{rate:.0f}" for rate in found)
        print(f"{group:8} {what:11} {variant:12} {fmean(found):8.0f} tokens/s  x {ratio:5.2f}   ({rounds_shown})")
    for variant, asker in askers.items():
        print(f"{variant:12} recomputed in a second turn: {await asker.recomputed('base')} tokens")
        print(f"{variant:12} the base answers in a mixed batch as alone: {await asker.base_is_itself()}", flush=True)


async def ask_all(servers: dict[str, str], rounds: int) -> None:
    """Measure the servers of these URLs."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        await measure({variant: Asker(url, client) for variant, url in servers.items()}, rounds)


def main() -> None:
    """Start the variants and measure them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    base = basemodel.ensure_base_model()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        adapters = [f"{name}={write_random_lora(folder / name, seed)}" for seed, name in enumerate(ADAPTERS)]
        servers = {}
        for variant in given.variant or ("keepstate", "vllm"):
            planned = plan_serving(base_model=base, adapters=adapters, port=0, log=folder / f"{variant}.log")
            stack.enter_context(started(planned, variant))
            servers[variant] = planned.base_url
        print(f"load of the machine: {os.getloadavg()[0]:.1f}", flush=True)
        asyncio.run(ask_all(servers, given.rounds))
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
