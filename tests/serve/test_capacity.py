"""What memory a server needs follows from the base model's shape, and answers end where the template ends them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_tokenizers import make_tokenizer

from keepstate import machine
from keepstate.dataset import load_template
from keepstate.errors import UserError
from keepstate.machine import Gpu
from keepstate.model_shape import KNOWN
from keepstate.serve import plan_serving
from keepstate.serve.adapters import ServedAdapter
from keepstate.serve.capacity import cpu_cache_gib, gpu_tokens
from keepstate.serve.command import command, own_environment
from keepstate.serve.fitting import KERNELS, TUNED, TUNED_FOR, TUNED_RANK, tuned_kernels

H100 = 81_559 / 1024
THREE = [ServedAdapter(name, Path(name), 64) for name in "abc"]


def on(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    monkeypatch.setattr(machine, "visible_gpus", lambda: (Gpu("card", gib, "1"),))


def test_the_cache_on_an_h100_is_what_vllm_told() -> None:
    assert gpu_tokens(KNOWN["qwen3-8b"], H100, THREE) == pytest.approx(388_256, rel=0.002)


@pytest.mark.parametrize(
    ("model", "gib", "context"),
    [
        ("Qwen/Qwen3-8B", H100, 40_960),
        ("Qwen/Qwen3-1.7B", 12.0, 40_960),
        ("Qwen/Qwen3-8B", 24.0, 29_952),
        ("Qwen/Qwen3-4B", 12.0, 7_936),
        ("meta-llama/Llama-3.2-1B", 8.0, 40_960),
    ],
)
def test_a_context_that_fits_the_card_is_taken_and_said(
    model: str, gib: float, context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, gib)
    planned = plan_serving(base_model=model, port=0)
    assert planned.context == context
    assert any("holds no more" in remark for remark in planned.remarks) is (context < 40_960)
    assert command(planned, Path("python"))[command(planned, Path("python")).index("--max-model-len") + 1] == str(
        context
    )


def test_what_does_not_fit_is_refused_with_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 24.0)
    with pytest.raises(UserError, match="holds about 29,952") as caught:
        plan_serving(base_model="Qwen/Qwen3-8B", context=32_768, port=0)
    assert "--context 29952" in caught.value.hint
    assert plan_serving(base_model="Qwen/Qwen3-8B", context=16_384, port=0).context == 16_384
    on(monkeypatch, 8.0)
    with pytest.raises(UserError, match="weights of Qwen/Qwen3-8B alone are 15 GiB") as caught:
        plan_serving(base_model="Qwen/Qwen3-8B", port=0)
    assert "of the size of qwen2.5-1.5b or less" in caught.value.hint


def test_less_of_the_memory_holds_less(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, H100)
    less = ["gpu-memory-utilization=0.25"]
    assert plan_serving(base_model="Qwen/Qwen3-8B", port=0, vllm_args=less).context == 17_664
    with pytest.raises(UserError, match="of the 80 GiB of card a server takes 20%"):
        plan_serving(base_model="Qwen/Qwen3-8B", port=0, vllm_args=["gpu-memory-utilization=0.2"])
    for share in ("0", "80", "nan", "half"):
        with pytest.raises(UserError, match="is no share of the GPU's memory"):
            plan_serving(base_model="Qwen/Qwen3-8B", port=0, vllm_args=[f"gpu-memory-utilization={share}"])


def test_a_cache_of_8_bits_holds_twice_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 24.0)
    with pytest.raises(UserError, match="holds about 60,160"):
        plan_serving(base_model="Qwen/Qwen3-8B", context=61_440, port=0, vllm_args=["kv-cache-dtype=fp8"])
    assert plan_serving(base_model="Qwen/Qwen3-8B", port=0, vllm_args=["kv-cache-dtype=fp8"]).context == 40_960


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx512_bf16"}))


@pytest.mark.usefixtures("with_bf16")
def test_the_cache_on_the_cpu_holds_a_conversation_of_full_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_gib", lambda: 24.0)
    assert cpu_cache_gib("small", KNOWN["smollm2-135m"], 8_192) == 2
    assert cpu_cache_gib("unknown", None, 8_192) == 2
    assert cpu_cache_gib("wide", KNOWN["gemma-2-2b"], 32_768) == 4
    with pytest.raises(UserError, match="Qwen3-14B with a context of 8,192 tokens takes about 32 GiB"):
        cpu_cache_gib("Qwen3-14B", KNOWN["qwen3-14b"], 8_192)
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx2"}))
    assert cpu_cache_gib("wide, in float32", KNOWN["gemma-2-2b"], 32_768) == 7


@pytest.mark.usefixtures("with_bf16")
def test_answers_end_where_the_template_ends_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base model's tokenizer ends texts, not turns: its server would never stop."""
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    model = make_tokenizer("gemma", tmp_path / "model")
    planned = plan_serving(base_model=model, port=0, log=tmp_path / "vllm.log")
    assert planned.generation == {"eos_token_id": [5]}
    assert planned.template.name == "gemma.jinja"
    assert "answers end at <end_of_turn>" in planned.remarks[-1]
    words = command(planned, Path("python"))
    assert words[words.index("--generation-config") + 1] == str(tmp_path / "vllm.generation")
    assert own_environment(planned)["VLLM_CPU_KVCACHE_SPACE"] == "2"
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 1, "top_k": 64}))
    assert plan_serving(base_model=model, port=0).generation == {"eos_token_id": [1, 5], "top_k": 64}
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    planned = plan_serving(base_model=model, port=0)
    assert (planned.generation, planned.remarks) == (None, ())
    assert plan_serving(base_model=make_tokenizer("llama3", tmp_path / "other"), port=0).generation is None


def test_a_template_with_the_tokenizers_tokens_is_read_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    model, mine = make_tokenizer("gemma", tmp_path / "model"), tmp_path / "mine.jinja"
    mine.write_text(load_template("gemma").text.replace("'<bos>'", "bos_token"))
    assert plan_serving(base_model=model, template=mine, port=0).generation == {"eos_token_id": [5]}


@pytest.mark.parametrize(
    ("card", "model", "rank", "own", "found"),
    [
        ("NVIDIA H200", "qwen3-8b", 64, "", True),
        ("NVIDIA H200", "qwen3-8b", 64, "/mine", False),
        ("NVIDIA H200", "qwen3-8b", 32, "", False),
        ("NVIDIA H200", "qwen3-4b", 64, "", False),
        ("NVIDIA H100 80GB HBM3", "qwen3-8b", 64, "", False),
    ],
)
def test_tuned_kernels_are_for_one_card_and_one_shape(
    card: str, model: str, rank: int, own: str, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "visible_gpus", lambda: (Gpu(card, 140.0, "1"),))
    monkeypatch.setenv(TUNED, own)
    adapters = [ServedAdapter("a", Path("a"), rank)]
    assert tuned_kernels(KNOWN[model], adapters) == (KERNELS if found else None)
    assert tuned_kernels(KNOWN[model], []) is None


def test_a_server_gets_the_folder_of_tuned_kernels(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, 140.0)
    planned = plan_serving(base_model=model, template="chatml", port=8123)
    assert TUNED not in own_environment(planned)
    assert own_environment(replace(planned, kernels=KERNELS))[TUNED] == str(KERNELS)


@pytest.mark.parametrize("path", sorted(KERNELS.glob("*.json")), ids=lambda path: path.stem)
def test_the_files_of_kernels_have_what_vllm_looks_up(path: Path) -> None:
    """It takes the nearest number of everything but the slices, whose absence ends the server."""
    shrinks = path.stem.endswith("_SHRINK")
    for slices in json.loads(path.read_text()).values():
        for joined in "123":
            for rows in slices[joined].values():
                assert str(TUNED_FOR.hidden if shrinks else TUNED_RANK) in rows
                for config in (each for sizes in rows.values() for each in sizes.values()):
                    assert {"block_m", "block_n", "block_k", "num_warps", "num_stages", "num_ctas"} <= set(config)
                    assert ("split_k" in config) == shrinks
