"""The proof that a server applies each adapter: on fixed prompts its log-probabilities are not the base model's.

A server may list an adapter, answer under its name, and give the base's answers. So every token of a few prompts is
asked for, under each name, by vLLM's `prompt_logprobs`: one request of one step, without sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2

from keepstate.errors import UserError
from keepstate.models.endpoint import connection
from keepstate.serve.serving_plan import ServingPlan
from keepstate.vocabulary import BASE

PROMPTS = (
    "The quick brown fox jumps over the lazy dog. In 1969 the first humans landed on the moon, and",
    "def pack(items, room):\n    best = [0] * (room + 1)\n    for weight, value in items:\n"
    "        for left in range(room, weight - 1, -1):\n"
    "            best[left] = max(best[left], best[left - weight] + value)\n    return best[-1]\n",
    "Il était une fois, 漢字 and 3.14159: the list was [4, 8, 15, 16, 23, 42], as everybody knew.",
)
"""Prose, code, other letters and numbers: an adapter of one layer shows in some of them."""
ROUNDING = 1e-3
"""Nats by which a log-probability may differ where nothing was applied. SmolLM2-135M in bf16, vLLM 0.32, CPU: 0 for the
base asked twice, alone, in a batch or beside others (with AMX .13 beside others), and for an adapter of zeros; .22 and
more (the largest of 147) for every other, also for one layer's k_proj alone, or a B of 1e-6, which is itself no more
than other roundings.
Qwen3-8B's shape with random weights, vLLM 0.24, H200: 0 for the base asked again, for a B of zeros or 1e-9; .25 and
more for one layer's k_proj, .89 for a B of 1e-6. While 64 others asked, the base differed from itself by 1.0."""
SECONDS = 300.0


def prompt_log_probs(base_url: str, model: str) -> list[float] | None:
    """The log-probability of every token of `PROMPTS` but the first of each, in their order.

    Args:
        base_url: Ending in `/v1`.
        model: A name that the server knows.

    Returns:
        None where the server does not tell, as all but vLLM.

    Raises:
        httpx2.HTTPError: It gives no answer.
    """
    told: list[float] = []
    url = f"{base_url}/completions"
    for prompt in PROMPTS:  # one after the other: a GPU rounds otherwise where a step holds other tokens as well
        asked = {"model": model, "prompt": [prompt], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        answer = httpx2.post(url, json=asked, timeout=SECONDS, **connection(url))
        if answer.status_code != 200:
            return None
        try:
            told += [_only(place) for place in answer.json()["choices"][0]["prompt_logprobs"] if place]
        except (ValueError, LookupError, TypeError, StopIteration):
            return None
    return told


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """Of two texts' log-probabilities, in nats."""
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


def check_applied(planned: ServingPlan) -> None:
    """Refuse a server on which an adapter answers as the base does.

    Raises:
        UserError: It does, or the server does not tell.
    """
    if not planned.adapters:
        return
    base = _asked(planned, BASE)
    for adapter in planned.adapters:
        found = largest_difference(_asked(planned, adapter.name), base)
        if not found > ROUNDING:
            raise UserError(
                f"{adapter.name!r} answers as the base model does: this adapter changes nothing (of {len(base)}"
                f" log-probabilities none differs by more than {found:.1g}, and {ROUNDING:g} is rounding)",
                f"train it longer, as its matrices are too small to count; or see what vLLM says of it: {planned.log}",
            )


def _asked(planned: ServingPlan, name: str) -> list[float]:
    """What our own server must tell.

    Raises:
        UserError: It does not.
    """
    reason = "no log-probabilities"
    try:
        told = prompt_log_probs(planned.base_url, name)
    except httpx2.HTTPError as error:
        told, reason = None, f"{type(error).__name__}: {error}"
    if told is None:
        raise UserError(f"the server does not tell what {name!r} makes of a prompt: {reason}", f"see {planned.log}")
    return told


def _only(place: dict[str, Any]) -> float:
    """Of the token that stands there."""
    return float(next(iter(place.values()))["logprob"])
