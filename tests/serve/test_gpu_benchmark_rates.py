"""What the GPU's serving benchmark makes of vLLM's counters."""

import argparse
import fcntl
import sys
from pathlib import Path
from typing import Any

import pytest

from keepstate.places import SHIPPED

sys.path.insert(0, str(SHIPPED / "benchmarks" / "gpu"))

import serving
import step_kernels


def test_with_drafts_the_time_of_a_token_is_not_that_of_a_step() -> None:
    """Ten answers of 101 tokens in 50 steps after the first token, two a step, of 12 ms each."""
    grown = {
        "vllm:time_to_first_token_seconds_count": 10.0,
        "vllm:prefix_cache_queries_total": 1000.0,
        "vllm:prefix_cache_hits_total": 900.0,
        "vllm:generation_tokens_total": 1010.0,
        "vllm:spec_decode_num_drafts_total": 500.0,
        "vllm:spec_decode_num_accepted_tokens_total": 500.0,
        "vllm:inter_token_latency_seconds_sum": 500 * 0.012,
        "vllm:inter_token_latency_seconds_count": 500.0,
        "vllm:num_preemptions_total": 0.0,
    }
    found = serving.rates(grown, seconds=2.0)
    assert (found["ms_per_step"], found["ms_per_token"], found["tokens_a_step"]) == pytest.approx((12.0, 6.0, 2.0))


def test_the_steady_rate_leaves_out_the_start_and_the_last_ones() -> None:
    """Forty episodes: one a second after a start of 30 s, the last of them alone for a minute."""
    assert serving.steady([30.0 + second for second in range(39)] + [130.0]) == 60.0
    assert serving.steady([1.0] * 9) is None


def test_nothing_is_measured_while_another_server_starts_or_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start lets other starts be; a measurement has the lock for itself."""
    lock = tmp_path / "turn"
    given = argparse.Namespace(
        base_model="", lora=[], out=tmp_path / "out.jsonl", port=0, tasks=None, replay=None, in_turn=lock
    )
    bench = serving.Bench(argparse.Namespace(**vars(given), context=0, profile=None, step_seconds=1, budget=60))
    free: dict[str, list[bool]] = {}

    def look(step: str) -> dict[str, Any]:
        free[step] = [_is_free(lock, how) for how in (fcntl.LOCK_SH, fcntl.LOCK_EX)]
        return {}

    monkeypatch.setattr(bench, "_step", look)
    for step in ("start:--speculate ngram", "raw:1:base", "4x1", "stop"):
        bench.run(step)
    starts, measures = [True, False], [False, False]
    assert list(free.values()) == [starts, measures, measures, starts]


def _is_free(lock: Path, how: int) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_a_step_is_told_by_kinds_of_kernels() -> None:
    """Two steps of a model of two layers, with 5 us between any two kernels but the last, which run side by side."""
    layer = [("nvjet_tst_128x64", 40), ("_lora_shrink_kernel", 5), ("void flash::FlashAttnFwdSm90<...>", 12)]
    layer.append(("void flash::FlashAttnFwdCombine<...>", 3))  # of the same layer's attention
    found, at = [], 100.0
    for name, length in layer * 4:
        found.append((name, at, float(length)))
        at += length + 5
    found.append(("Memset (Device)", at - 6, 1.0))
    trace = {"traceEvents": [{"cat": "kernel", "name": n, "ts": b, "dur": d} for n, b, d in reversed(found)]}
    trace["traceEvents"].append({"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 1e6})
    rows = step_kernels.table(step_kernels.kernels(trace), layers=2)
    assert rows == [
        ("products", 2, 80),
        ("attention", 4, 30),
        ("LoRA", 2, 10),
        ("filling with zeros", 0.5, 0.5),
        ("idle", 0, 15 * 5 / 2),
        ("all of 2.0 steps", 8.5, (4 * 60 + 15 * 5) / 2),
    ]


def test_a_gap_is_from_the_end_of_all_before_to_the_next() -> None:
    """A short kernel inside a long one ends nothing, and where nothing or one ran there is no gap."""
    found = [
        ("long", 10.0, 50.0),
        ("inside", 20.0, 5.0),
        ("next", 75.0, 5.0),
        ("at once", 80.0, 5.0),
        ("late", 86.0, 1.0),
    ]
    assert step_kernels.gaps(found) == [(15.0, "long", "next"), (1.0, "at once", "late")]
    assert step_kernels.gaps(found[:1]) == step_kernels.gaps([]) == []
