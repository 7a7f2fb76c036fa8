"""What is read out of vLLM's log: stages, causes, remedies. The lines are vLLM's own, shortened."""

from pathlib import Path

import pytest
from serving_helpers import MakeAdapter

from keepstate.serve import ServingPlan, plan_serving
from keepstate.serve.diagnosis import failure, last_words, stage

UP = "(EngineCore) INFO core.py: init engine (profile, create kv cache, warmup model) took 6.03 s\n"
EAGER = "WARNING vllm.py: Enforce eager set, disabling torch.compile and CUDAGraphs.\n"


@pytest.fixture
def planned(make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> ServingPlan:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    return plan_serving(adapters=[make_adapter(), make_adapter("react")], port=8000, log=Path("server.log"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ""),
        ("INFO api_utils.py: non-default args: {}", "reading the configuration"),
        ("INFO core.py: Initializing a V1 LLM engine (v0.32.0) with config: ...", "starting the engine"),
        ("INFO model.py: Resolved architecture: Qwen3ForCausalLM", "starting the engine's process"),
        ("INFO model_runner.py: Loading model from scratch...", "loading the weights"),
        ("INFO monitor.py: torch.compile took 50.24 s in total", "measuring the memory"),
        ("INFO model_runner.py: Graph capturing finished in 19 secs, took 0.62 GiB", "warming up"),
        ("INFO kv_cache_utils.py: GPU KV cache size: 93,184 tokens, Maximum", "cache of 93,184 tokens"),
        ("INFO serving.py: Loaded new LoRA adapter: name 'react', path '/x'", "loaded adapter react"),
    ],
)
def test_the_last_stage_counts(line: str, words: str) -> None:
    before = EAGER + "INFO non-default args: {}\n" if line else ""
    assert stage(before + line) == words


@pytest.mark.parametrize(
    ("log", "cause", "remedy"),
    [
        ("OSError: [Errno 98] Address already in use", "port 8000 was taken", "--port 8001"),
        (
            "ValueError: To serve at least one request, 5.6 GiB KV cache is needed, which is larger",
            "too few",
            "--context",
        ),
        ("OSError: [Errno 28] No space left on device: '/root/.cache/vllm/x'", "no disk space left", "TMPDIR"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "did not suffice", "nvidia-smi"),
        ("ValueError: Free memory on device cuda:0 (3/80 GiB) on startup is less", "did not suffice", "nvidia-smi"),
        ("OSError: We couldn't connect to 'https://huggingface.co'", "could not be fetched", "--base-model"),
        (
            "api_server.py: error: unrecognized arguments: --max-seqs 3",
            "unrecognized arguments: --max-seqs",
            "--vllm-arg",
        ),
        ("ValueError: something new", r"code 1 (ValueError: something new)", "keepstate doctor"),
    ],
)
def test_a_cause_has_its_remedy(log: str, cause: str, remedy: str, planned: ServingPlan) -> None:
    error = failure(planned, f"(EngineCore pid=7) {log}\n", 1)
    assert cause in error.message
    assert log in error.message
    assert remedy in error.hint


def test_the_adapter_that_did_not_load_is_named(planned: ServingPlan) -> None:
    first = "INFO serving.py: Loaded new LoRA adapter: name 'persistent', path '/x'\n"
    error = failure(planned, UP + first + "ValueError: LoRA rank 128 is greater than max_lora_rank 16\n", 1)
    assert "the adapter 'react' could not be loaded" in error.message
    assert planned.base_model in error.hint


def test_the_tail_leaves_out_what_follows_the_cause() -> None:
    log = """(APIServer pid=7) INFO 11-26 17:12:40 [core.py:402] init engine took 6.03 s
(EngineCore pid=8) ERROR 11-26 17:12:48 [core.py:1190] Traceback (most recent call last):
(EngineCore pid=8) ERROR 11-26 17:12:48 [core.py:1190]   File "core.py", line 1181, in run_engine_core
(EngineCore pid=8) ERROR 11-26 17:12:48 [core.py:1190] ValueError: vLLM does not yet support DoRA.
(EngineCore pid=8) INFO 11-26 17:12:48 [core.py:1499] [shutdown] EngineCore: exiting busy loop
Traceback (most recent call last):
  File "serving.py", line 139, in init_static_loras
    raise ValueError(message)
ValueError: Call to add_lora method failed

/usr/lib/python3.11/resource_tracker.py:254: UserWarning: resource_tracker: leaked semaphore
  warnings.warn('resource_tracker: There appear to be %d '
nanobind: leaked 3 types!
 - leaked type "x"
"""
    assert [line.rpartition("] ")[2] for line in last_words(log).splitlines()] == [
        "init engine took 6.03 s",
        "ValueError: vLLM does not yet support DoRA.",
        "ValueError: Call to add_lora method failed",
    ]
