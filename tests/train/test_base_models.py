"""Any base model: what it takes follows from its shape, and a training chooses template and layers by it."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from made_data import write_dataset
from made_tokenizers import make_tokenizer

from keepstate import machine
from keepstate.errors import UserError
from keepstate.machine import Gpu
from keepstate.model_shape import KNOWN, ModelShape, read_shape, shape_by_name, shape_of
from keepstate.places import SHIPPED
from keepstate.train import TrainingRequest, plan_training
from keepstate.train.axolotl_config import config_path, read_axolotl_config
from keepstate.train.base_model import BaseModel, keys_for
from keepstate.train.estimate import GPU_SPEED, estimate
from keepstate.train.preflight import check_machine
from keepstate.train.sizes import LAPTOP, REFERENCE, cpu_memory_gib, disk_gib, flops_per_token, gpu_memory_gib
from keepstate.vocabulary import RuntimeName

GPU_YAML = config_path(RuntimeName.PERSISTENT, laptop=False)
GPU_CONFIG = read_axolotl_config(GPU_YAML)

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "measured"),
    [({}, 16.1), ({"load_in_4bit": False}, 25.4), ({"liger_fused_linear_cross_entropy": None}, 50.4)],
)
def test_gpu_memory_is_what_was_measured_within_five_percent(change: dict[str, Any], measured: float) -> None:
    """Reserved by Axolotl on an H100, Qwen3-8B, r=64, 16,384 tokens."""
    assert gpu_memory_gib(GPU_CONFIG | change, REFERENCE) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("tokens", "allocated"), [(4_096, 9.03), (8_192, 9.66), (16_384, 10.91)])
def test_profile_memory_needs_what_was_measured_and_room_for_cuda(tokens: int, allocated: float) -> None:
    """On an H200; trained there within 11.2 GiB, too, which are a card of 12."""
    config = GPU_CONFIG | {"keepstate_profile": "memory", "sequence_len": tokens}
    assert gpu_memory_gib(config, REFERENCE) == pytest.approx(allocated + 0.8, abs=0.02)
    assert gpu_memory_gib(config, REFERENCE) < gpu_memory_gib(config | {"keepstate_profile": "speed"}, REFERENCE)


def test_the_table_of_memory_is_the_model_of_it() -> None:
    lines = (SHIPPED / "train" / "README.md").read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| GiB of Qwen3-8B |"))
    contexts = [int(cell.replace(",", "")) for cell in lines[head].split("|")[2:-1]]
    for line, profile in zip(lines[head + 2 : head + 4], ("memory", "speed"), strict=True):
        cells = line.split("|")[1:-1]
        assert cells[0].split("`")[1] == profile
        for cell, tokens in zip(cells[1:], contexts, strict=True):
            needed = gpu_memory_gib(GPU_CONFIG | {"keepstate_profile": profile, "sequence_len": tokens}, REFERENCE)
            size, card = cell.replace(" GB", "").split(":")
            assert f"{needed:.1f}" == size.strip()
            assert int(card) == next(gib for gib in (12, 16, 24, 40, 80) if gib >= needed)


def test_the_table_of_models_is_that_of_their_shapes() -> None:
    names = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "llama-3.2-1b",
             "llama-3.1-8b", "mistral-7b", "gemma-3-4b")  # fmt: skip
    lines = (SHIPPED / "train" / "README.md").read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| tokens a row, profile |"))
    for line in lines[head + 2 : head + 6]:
        what, *cells = (cell.strip() for cell in line.split("|")[1:-1])
        tokens, profile = int(what.split(", ")[0].replace(",", "")), what.split("`")[1]
        config = GPU_CONFIG | {"keepstate_profile": profile, "sequence_len": tokens}
        assert cells == [f"{gpu_memory_gib(config, KNOWN[name]):.1f}" for name in names]


@pytest.mark.parametrize(("tokens", "measured"), [(650, 3.3), (1_480, 5.4), (4_096, 11.4)])
def test_main_memory_is_what_was_measured_within_five_percent(tokens: int, measured: float) -> None:
    assert cpu_memory_gib(tokens) == pytest.approx(measured, rel=0.05)


def test_arithmetic_and_parameters_are_the_published_ones() -> None:
    assert REFERENCE.parameters == pytest.approx(8_190_735_360, rel=1e-4)  # counted; the norms are left out
    assert REFERENCE.lora_parameters(64) == 174_587_904
    assert flops_per_token(REFERENCE, rank=64, length=16_384) == pytest.approx(45.8e9, rel=0.002)
    published = {"qwen3-0.6b": 0.6, "qwen2.5-7b": 7.62, "llama-3.2-1b": 1.24, "llama-3.1-70b": 70.6, "mistral-7b": 7.25,
                 "mistral-nemo": 12.2, "gemma-2-9b": 9.24, "gemma-3-1b": 1.0, "smollm2-1.7b": 1.71}  # fmt: skip
    for name, billions in published.items():
        assert KNOWN[name].parameters / 1e9 == pytest.approx(billions, rel=0.01), name
    assert REFERENCE.cache_bytes == 147_456


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Qwen/Qwen3-8B", "qwen3-8b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("google/gemma-3-1b-it", "gemma-3-1b"),
        ("Qwen/Qwen3-30B-A3B", None),
        ("Qwen/Qwen3-80B", None),
        ("somebody/model", None),
    ],
)
def test_a_name_tells_a_known_shape_or_none(name: str, key: str | None) -> None:
    assert shape_by_name(name) == (KNOWN[key] if key else None)


def test_configs_of_several_kinds_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    read = read_shape(tmp_path)
    assert read is not None
    assert (read.layers, read.hidden, read.vocabulary) == (2, 64, 100)
    gemma = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560,
             "intermediate_size": 10_240, "num_hidden_layers": 34}}  # fmt: skip
    assert shape_of(gemma) == KNOWN["gemma-3-4b"]  # as published: the rest is the class's default
    experts = {"model_type": "qwen3_moe", "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
               "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 32,
               "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151_936}  # fmt: skip
    mixture = shape_of(experts)
    assert mixture is not None
    assert mixture.parameters / 1e9 == pytest.approx(30.5, rel=0.01)
    assert (mixture.active_parameters + mixture.embedding_parameters) / 1e9 == pytest.approx(3.3, rel=0.03)
    assert shape_of({"model_type": "gpt2", "n_embd": 768}) is None
    for other in ({"n_routed_experts": 256, "kv_lora_rank": 512}, {"model_type": "phi"}, {"model_type": "bert"}):
        assert shape_of(LLAMA | other) is None  # a figure would be wrong: by 17 times for DeepSeek-V3
    for size in (-3, 0, float("inf"), float("nan"), 10**400, [8], None, "x"):
        assert shape_of(LLAMA | {"num_hidden_layers": size}) is None
    assert shape_of(LLAMA | {"tie_word_embeddings": "false"}) == shape_of(LLAMA)
    assert shape_of({"model_type": "llama", "num_attention_heads": "x"}) is None


def on_a_card(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("card", gib, "1"),))
    monkeypatch.setattr(machine, "gpu_free_gib", lambda: (gib,))


@pytest.mark.parametrize(
    ("model", "gib", "fits"),
    [
        ("Qwen/Qwen3-1.7B", 12, None),
        ("Qwen/Qwen3-8B", 24, None),
        ("Qwen/Qwen3-8B", 12, "--profile memory"),
        ("Qwen/Qwen3-8B", 11, "--profile memory and a shorter context: --max-seq-length 8192"),
        ("Qwen/Qwen3-8B", 8, "--profile memory and a smaller model: --base-model (of the size of qwen3-4b or less)"),
        ("meta-llama/Llama-3.1-8B", 16, None),
        ("meta-llama/Llama-3.1-70B", 80, None),
        ("meta-llama/Llama-3.1-70B", 24, "of the size of llama-3.1-8b or less"),
        ("Qwen/Qwen3-0.6B", 2.5, "--max-seq-length 8192"),
        ("Qwen/Qwen3-0.6B", 1, "on a larger machine"),
        ("somebody/unknown", 8, None),
    ],
)
def test_on_any_card_it_says_what_fits(
    model: str, gib: float, fits: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_a_card(monkeypatch, gib)
    monkeypatch.setattr(machine, "require_disk", lambda *_: None)
    config = GPU_CONFIG | {"base_model": model}
    if fits is None:
        check_machine(config, tmp_path)
        return
    with pytest.raises(UserError, match=f"card has {gib:.0f} GiB, {model} with 16,384 tokens needs about") as caught:
        check_machine(config, tmp_path)
    assert fits in caught.value.hint
    config["keepstate_profile"] = "memory"
    found = caught.value.hint.partition("--max-seq-length ")[2]
    if "smaller model" not in caught.value.hint and "larger machine" not in caught.value.hint:
        check_machine(config | {"sequence_len": int(found or 16_384)}, tmp_path)


def test_disk_grows_with_the_adapter() -> None:
    assert disk_gib(GPU_CONFIG, REFERENCE, gpu=True) == pytest.approx(9.5, abs=0.1)
    assert disk_gib(GPU_CONFIG, KNOWN["llama-3.1-70b"], gpu=True) > 40
    laptop = read_axolotl_config(config_path(RuntimeName.PERSISTENT, laptop=True))
    assert disk_gib(laptop, LAPTOP, gpu=False) < 1


def model_folder(folder: Path, family: str, kind: str) -> Path:
    """A model folder without weights: a real tokenizer's special tokens and a config of that kind."""
    make_tokenizer(family, folder)
    shape = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 2048}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape | {"model_type": kind}))
    return folder


@pytest.mark.parametrize(
    ("family", "kind", "template", "ends", "off"),
    [
        ("qwen3", "qwen3", "qwen3_nothink", None, []),
        ("qwen2.5", "qwen2", "chatml", None, ["fused_attn_kernel"]),
        ("chatml", "llama", "chatml", None, ["fused_attn_kernel"]),
        ("llama3", "llama", "llama3", None, ["fused_attn_kernel"]),
        ("mistral", "mistral", "mistral", None, ["fused_attn_kernel"]),
        ("mistral, newer", "mistral", "mistral_v7", None, ["fused_attn_kernel"]),
        ("gemma", "gemma3_text", "gemma", ["<end_of_turn>"], ["lora_mlp_kernel", "fused_attn_kernel"]),
    ],
)
def test_a_training_of_another_model_chooses_what_fits_and_says_so(
    family: str, kind: str, template: str, ends: list[str] | None, off: list[str], tmp_path: Path
) -> None:
    model = model_folder(tmp_path / "a-model", family, kind)
    data = write_dataset(tmp_path / "data", [[("1 + 1", "2")]] * 4, template=template)
    planned = plan_training(
        TrainingRequest(GPU_YAML, dataset=data, base_model=model, runtime=RuntimeName.PERSISTENT), machine=False
    )
    assert planned.config.get("eot_tokens") == ends
    assert [key for key in GPU_CONFIG if GPU_CONFIG[key] is True and planned.config[key] is False] == sorted(
        off, key=list(GPU_CONFIG).index
    )
    assert planned.output.name == "a-model-persistent"
    assert f"{kind}, 0M parameters, 2 layers of 64; LoRA on all seven projections" in planned.remarks[0]
    assert planned.remarks[0].endswith(f"; chat template {template}")
    wrong = "chatml" if template != "chatml" else "gemma"
    other = write_dataset(tmp_path / "other", [[("1 + 1", "2")]] * 4, template=wrong)
    with pytest.raises(UserError, match=f"{model} needs {template}") as caught:
        plan_training(
            TrainingRequest(GPU_YAML, dataset=other, base_model=model, runtime=RuntimeName.PERSISTENT), machine=False
        )
    assert f"--tokenizer {model} --template {template}" in caught.value.hint


def test_layers_of_other_kinds_are_named_or_all_are_taken(tmp_path: Path) -> None:
    def keys(kind: str) -> dict[str, Any]:
        shape = ModelShape(kind, 2, 64, 128, 4, 2, 16, 500, False)
        return keys_for(BaseModel("m", None, shape), GPU_CONFIG)[0]

    assert keys("phi3")["lora_target_modules"] == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
    assert keys("granite")["lora_target_linear"] is True
    assert keys("granite")["lora_mlp_kernel"] is False
    (tmp_path / "config.json").write_text('{"model_type": "phi"}')  # whose sizes are not told
    changed, words = keys_for(BaseModel("m", tmp_path, None), GPU_CONFIG)
    assert (changed["lora_target_linear"], changed["lora_target_modules"]) == (True, None)
    assert "phi, its sizes are not known" in words[0]
    assert "LoRA on all linear layers" in words[0]
    changed, words = keys_for(BaseModel("m", None, None), GPU_CONFIG)
    assert (changed, "its sizes are not known" in words[0]) == ({}, True)


def test_axolotl_is_told_of_all_layers_or_of_some_and_never_of_both(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", "llama3", "granite")
    data = write_dataset(tmp_path / "data", [[("1 + 1", "2")]] * 4, template="llama3")
    config = plan_training(TrainingRequest(GPU_YAML, dataset=data, base_model=model), machine=False).config
    assert config["lora_target_linear"] is True
    assert "lora_target_modules" not in config


def test_a_template_of_ones_own_is_kept_with_another_model(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", "llama3", "llama")
    data = write_dataset(tmp_path / "data", [[("1 + 1", "2")]] * 4, template=str(_own(tmp_path)))
    assert plan_training(
        TrainingRequest(GPU_YAML, dataset=data, base_model=model), machine=False
    ).manifest.template.name.endswith("own")


def _own(folder: Path) -> Path:
    path = folder / "own"
    path.write_text("{% for m in messages %}<|eot_id|>{{ m.content }}{% endfor %}<|eot_id|>")
    return path


def test_a_copy_of_the_configs_model_trains_where_the_config_says(tmp_path: Path) -> None:
    model = make_tokenizer("qwen3", tmp_path / "copy")
    sizes = {"num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12_288, "num_attention_heads": 32,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "model_type": "qwen3",
             "tie_word_embeddings": False, "max_position_embeddings": 40_960}  # fmt: skip
    (model / "config.json").write_text(json.dumps(sizes))
    data = write_dataset(tmp_path / "data", [[("1 + 1", "2")]] * 4, template="qwen3_nothink")
    planned = plan_training(
        TrainingRequest(GPU_YAML, dataset=data, base_model=model, runtime=RuntimeName.PERSISTENT), machine=False
    )
    assert planned.output.name == "qwen3-8b-persistent-a100"


def test_time_follows_from_the_arithmetic() -> None:
    def speeds(name: str) -> tuple[float | None, float | None]:
        told = estimate(GPU_CONFIG, 1_000, ["NVIDIA H100 80GB HBM3"], KNOWN[name])
        return told.slowest, told.fastest

    assert speeds("qwen3-8b") == (11_500, 11_500)
    slowest, fastest = speeds("qwen3-14b")
    assert slowest == fastest == pytest.approx(11_500 * 45.8 / 77.6, rel=0.02)
    slowest, fastest = speeds("qwen3-1.7b")
    assert slowest == 11_500
    assert fastest is not None
    assert 3 < fastest / slowest < 5
    assert "times its arithmetic" in estimate(GPU_CONFIG, 1_000, ["H100"], KNOWN["qwen3-1.7b"]).ground
    assert "is not known" in estimate(GPU_CONFIG, 1_000, ["H100"], None).words()


def test_the_speeds_that_are_assumed_are_those_that_were_measured() -> None:
    """Full steps on an H100; `memory` less what its offload, measured later on an H200, costs."""
    results = Path(__file__).parents[2] / "benchmarks" / "gpu" / "results"
    h100 = json.loads((results / "2026-11-26-h100.json").read_text())["speed_16_rows_a_step"]
    peers = json.loads((results / "2026-11-29-h200.json").read_text())
    before = statistics.median(peers["second"]["memory-16k"]["seconds"][4:])
    after = statistics.median(peers["later"]["a, memory by length"]["memory-16k"]["seconds"][4:])
    speeds = {profile: h100[f"{profile}/16k"]["tokens_per_second"] for profile in ("speed", "memory")}
    speeds["memory"] *= before / after
    for gpu in ("H100", "H200"):
        assert GPU_SPEED[gpu] == pytest.approx(speeds, rel=0.005)
    assert GPU_SPEED["A100"]["memory"] / GPU_SPEED["A100"]["speed"] == pytest.approx(
        speeds["memory"] / speeds["speed"], rel=0.01
    )
