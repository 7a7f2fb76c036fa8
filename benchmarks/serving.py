"""What keepstate's way of serving on the CPU is worth beside vLLM's own, on one machine in one run.

    python benchmarks/serving.py [--variant keepstate --variant vllm ...] [--rounds 2]

Starts one server a variant and round, in turn, with SmolLM2-135M and three adapters of random weights, and prints
seconds to the first health, tokens/s for one, 12 and 16 requests at once (base, an adapter, all mixed), tokens/s of
reading prompts, tokens recomputed in a following turn, CPU seconds of the server a 1,000 tokens, and whether the base
answers in a mixed batch as it does alone. Ratios count; absolute figures are those of the machine and its load.
Variants: `keepstate` as we start it, `vllm` without our plugin, `two-threads`, `block-128`, `iomp`, `tcmalloc` (name a
library in TCMALLOC).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psutil

from keepstate import basemodel, environments
from keepstate.processes import GuardedProcess
from keepstate.serving import Plan, plan
from keepstate.serving.command import command, environment

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "serving"))
from random_lora import write_random_lora

ADAPTERS = ("persistent", "forget", "react")
GROUPS = {"base": ("base",), "adapter": ("persistent",), "mixed": ("persistent", "base", "forget", "base", "react")}
QUESTION = "What is the capital of France?"
PROMPT = "item_0a1b2c3d4e5f weight 12 value 55 class K. " * 30
VARIANTS = ("keepstate", "vllm", "two-threads", "block-128", "iomp", "tcmalloc")


def variant_environment(variant: str, python: Path) -> dict[str, str]:
    """What a variant changes in the server's environment."""
    match variant:
        case "vllm":
            return {"VLLM_PLUGINS": "none"}
        case "two-threads":
            return {"VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
        case "iomp":
            return {"LD_PRELOAD": str(python.parents[1] / "lib" / "libiomp5.so")}
        case "tcmalloc":
            return {"LD_PRELOAD": os.environ["TCMALLOC"]}
    return {}


@contextmanager
def started(planned: Plan, variant: str) -> Iterator[GuardedProcess]:
    """A server of one variant; prints how long it took."""
    python = environments.ensure("serve")
    words = command(planned, python)
    if variant in ("vllm", "block-128"):
        words += ["--block-size", "128"]
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
        print(f"\n{variant}: up in {time.monotonic() - began:.0f} s")
        yield process


class Asker:
    """Asks one server, and measures."""

    def __init__(self, url: str, process: GuardedProcess, client: httpx2.AsyncClient) -> None:
        self._url, self._client = url, client
        self._processes = psutil.Process(process.pid).children(recursive=True)

    def cpu_seconds(self) -> float:
        """Of the server so far."""
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._processes))

    async def ask(self, model: str, text: str, tokens: int, **more: object) -> dict:
        """One answer."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}
        reply = await self._client.post(f"{self._url}/chat/completions", json=body | more, timeout=600)
        return reply.raise_for_status().json()

    async def writing(self, models: Sequence[str], at_once: int, tokens: int = 32) -> tuple[float, float]:
        """Tokens/s, and CPU seconds a 1,000 tokens, of answers to short questions."""
        return await self._rate(models, at_once, "Tell me about knapsacks.", tokens, "completion_tokens")

    async def reading(self, models: Sequence[str]) -> tuple[float, float]:
        """The same of prompts of 780 tokens, four at once."""
        return await self._rate(models, 4, PROMPT, 1, "prompt_tokens")

    async def _rate(
        self, models: Sequence[str], at_once: int, text: str, tokens: int, counted: str
    ) -> tuple[float, float]:
        cpu, began = self.cpu_seconds(), time.monotonic()
        asked = [
            self.ask(models[k % len(models)], f"{time.monotonic_ns()} {k} {text}", tokens, ignore_eos=True)
            for k in range(at_once)
        ]
        total = sum(reply["usage"][counted] for reply in await asyncio.gather(*asked))
        return total / (time.monotonic() - began), (self.cpu_seconds() - cpu) / total * 1000

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


async def measure(url: str, process: GuardedProcess) -> None:
    """Print the figures of one server."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        asker = Asker(url, process, client)
        for model in ("base", *ADAPTERS):
            await asker.ask(model, QUESTION, 4)
        print("  tokens/s (CPU s a 1,000)      1 at once    12 at once    16 at once       reading")
        for name, models in GROUPS.items():
            rates = [await asker.writing(models, at_once) for at_once in (1, 12, 16)]
            rates.append(await asker.reading(models))
            print(f"  {name:<24}" + "".join(f"{rate:8.0f} ({cpu:4.1f})" for rate, cpu in rates), flush=True)
        print(f"  recomputed in a second turn: {await asker.recomputed('persistent')} tokens")
        print(f"  the base answers in a mixed batch as alone: {await asker.base_is_itself()}", flush=True)


def main() -> None:
    """Run the variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", choices=VARIANTS)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = [f"{name}={write_random_lora(folder / name, seed)}" for seed, name in enumerate(ADAPTERS)]
        for variant in (given.variant or ["keepstate", "vllm"]) * given.rounds:
            planned = plan(
                base_model=basemodel.ensure_base_model(), adapters=adapters, port=0, log=folder / f"{variant}.log"
            )
            with started(planned, variant) as process:
                print(f"  load of the machine: {os.getloadavg()[0]:.1f}")
                asyncio.run(measure(planned.base_url, process))


if __name__ == "__main__":
    main()
