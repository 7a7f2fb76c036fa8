"""What the GPU's serving benchmark makes of vLLM's counters."""

import sys

import pytest

from keepstate.places import SHIPPED

sys.path.insert(0, str(SHIPPED / "benchmarks" / "gpu"))

import serving


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
