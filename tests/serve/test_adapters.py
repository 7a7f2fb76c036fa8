"""What is no plain LoRA, or changes nothing, is refused before a server starts, by the key or tensor in the way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_lora import INPUTS, LAYERS, OUTPUTS, Tensors, lora_config, matrices, write_tensors

from keepstate.errors import UserError
from keepstate.files import write_json
from keepstate.serve import plan_serving
from keepstate.serve.adapters import max_rank, target_modules
from keepstate.serve.command import command
from keepstate.setup import environments
from keepstate.train.result import WEIGHTS
from keepstate.vocabulary import Engines

Q, V = LAYERS
A, B = (f"base_model.model.{Q}.lora_{side}.weight" for side in "AB")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")


def write(folder: Path, tensors: Tensors | None = None, *, file: str = WEIGHTS, **config: Any) -> Path:
    """An adapter of another origin: two files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / file, matrices() if tensors is None else tensors)
    write_json(folder / "adapter_config.json", lora_config() | config)
    return folder


def refusal(adapter: Path, model: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        plan_serving(base_model=model, template="chatml", adapters=[f"x={adapter}"])
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("modules_to_save", ["lm_head"]),
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("bias", None),
        ("lora_bias", True),
        ("trainable_token_indices", [1, 2]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("alora_invocation_tokens", [5]),
        ("monteclora_config", {"num_samples": 8}),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
    ],
)
def test_what_vllm_does_not_do_is_refused_by_its_key(key: str, value: object, tmp_path: Path, model: Path) -> None:
    error = refusal(write(tmp_path / "x", **{key: value}), model)
    assert f"{key} is {value!r}" in error.message
    assert "--base-model FOLDER" in error.hint


@pytest.mark.parametrize(
    "config",
    [
        {"modules_to_save": [], "use_dora": False, "bias": "none", "trainable_token_indices": None},
        {"init_lora_weights": "gaussian", "fan_in_fan_out": True, "lora_dropout": 0.05, "some_new_key": 1},
        {"target_modules": "all-linear"},
        {"target_modules": r".*self_attn\.(q|v)_proj"},
        {"target_modules": [*LAYERS]},
        {"target_modules": ["self_attn.q_proj", "v_proj", "down_proj"]},
        {"layers_to_transform": [0], "use_rslora": True},
        {"lora_alpha": 0, "alpha_pattern": {"q_proj": 8}},
    ],
)
def test_what_changes_nothing_for_vllm_is_let_through(config: dict[str, Any], tmp_path: Path, model: Path) -> None:
    planned = plan_serving(base_model=model, template="chatml", adapters=[f"x={write(tmp_path / 'x', **config)}"])
    assert target_modules(planned.adapters) == ("q_proj", "v_proj"), "those with matrices, whatever the list says"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("r", None, "rank r=None; vLLM serves 1 to 512"),
        ("r", True, "rank r=True"),
        ("lora_alpha", "32", "lora_alpha is '32'; it must be a number"),
        ("lora_alpha", None, "lora_alpha is None; it must be a number"),
        ("rank_pattern", {"q_proj": 1024}, "rank rank_pattern=1024"),
        ("alpha_pattern", {"(": 8}, "alpha_pattern is '('; it must be a regular expression"),
        ("target_modules", "(", "target_modules is '('"),
        ("target_modules", [3], "target_modules is [3]"),
        ("layers_to_transform", ["a"], "layers_to_transform is ['a']"),
    ],
)
def test_a_broken_configuration_is_named(key: str, value: object, words: str, tmp_path: Path, model: Path) -> None:
    assert words in refusal(write(tmp_path / "x", **{key: value}), model).message


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_that_vllm_cannot_decode_is_refused(encoding: str, tmp_path: Path, model: Path) -> None:
    path = write(tmp_path / "x") / "adapter_config.json"
    path.write_text(path.read_text(), encoding=encoding)
    assert "adapter_config.json is no LoRA configuration" in refusal(path.parent, model).message


def test_a_configuration_without_target_modules_is_refused_as_vllm_does(tmp_path: Path, model: Path) -> None:
    path = write(tmp_path / "x") / "adapter_config.json"
    write_json(path, {key: value for key, value in lora_config().items() if key != "target_modules"})
    assert "target_modules is None; it must be there" in refusal(path.parent, model).message


def test_a_key_that_nobody_knows_is_told_where_it_is_set(tmp_path: Path, model: Path) -> None:
    folder = write(tmp_path / "x", velora_config={"rank": 1}, unsloth_fixed=True, new_way={"a": 1}, other_way=None)
    planned = plan_serving(base_model=model, template="chatml", adapters=[f"x={folder}"])
    (remark,) = [remark for remark in planned.remarks if "adapter_config.json" in remark]
    assert remark == "not checked: what new_way in the adapter_config.json of x means; vLLM may ignore it"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"lora_alpha": NaN}'])
def test_what_is_no_configuration_is_named(text: str, tmp_path: Path, model: Path) -> None:
    folder = write(tmp_path / "x")
    (folder / "adapter_config.json").write_text(text)
    assert "adapter_config.json is no LoRA configuration" in refusal(folder, model).message


ONE = np.ones((2, 2), dtype="f4")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"base_model.model.{Q}.hada_w1_a", "LoHa"),
        (f"base_model.model.{Q}.lokr_w1", "LoKr"),
        (f"base_model.model.{Q}.lora_magnitude_vector", "DoRA"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "a LoRA of the embedding"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "trainable_token_indices"),
        (f"base_model.model.{Q}.bias", "as of bias"),
        ("base_model.model.lm_head.weight", "as of modules_to_save"),
        (f"base_model.model.{Q}.lora_A.default.weight", "it reads ...lora_A.weight"),
        (f"base_model.model.{Q}.lora_B", "it reads ...lora_A.weight"),
    ],
)
def test_a_tensor_that_vllm_does_not_read_is_named(name: str, kind: str, tmp_path: Path, model: Path) -> None:
    error = refusal(write(tmp_path / "x", matrices() | {name: ONE}), model)
    assert name in error.message
    assert kind in error.message


def test_no_tensors_and_half_a_pair_are_refused(tmp_path: Path, model: Path) -> None:
    assert "holds no tensors" in refusal(write(tmp_path / "x", {}), model).message
    whole = matrices()
    for name, missing in ((A, "lora_A"), (B, "lora_B")):
        half = {other: tensor for other, tensor in whole.items() if other != name}
        assert f"but no {missing}" in refusal(write(tmp_path / "x", half), model).message


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"target_modules": ["down_proj"]}, "target_modules"),
        ({"target_modules": r"model\.layers\.0\.self_attn\.q_proj"}, "target_modules"),
        ({"exclude_modules": ["v_proj"]}, "exclude_modules"),
        ({"layers_to_transform": [1]}, "layers_to_transform"),
        ({"layers_to_transform": 0, "layers_pattern": "blocks"}, "layers_to_transform"),
    ],
)
def test_matrices_that_peft_would_leave_out_are_refused(
    config: dict[str, Any], key: str, tmp_path: Path, model: Path
) -> None:
    assert (
        f"which {key} in its adapter_config.json leaves out" in refusal(write(tmp_path / "x", **config), model).message
    )


def zeroed(side: str) -> Tensors:
    return {name: tensor * (f"lora_{side}" not in name) for name, tensor in matrices().items()}


@pytest.mark.parametrize(
    ("tensors", "config", "reason"),
    [
        (zeroed("B"), {}, "all zeros"),
        (zeroed("A"), {}, "all zeros"),
        ({name: -tensor for name, tensor in zeroed("B").items()}, {}, "all zeros"),
        (None, {"lora_alpha": 0}, "lora_alpha is 0"),
        (None, {"alpha_pattern": {"q_proj": 0, "v_proj": 0}}, "lora_alpha is 0"),
    ],
)
def test_an_adapter_that_changes_nothing_is_refused_with_the_reason(
    tensors: Tensors | None, config: dict[str, Any], reason: str, tmp_path: Path, model: Path
) -> None:
    error = refusal(write(tmp_path / "x", tensors, **config), model)
    assert "this adapter changes nothing" in error.message
    assert reason in error.message


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "u2"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_found_in_every_type(kind: str, value: float, tmp_path: Path, model: Path) -> None:
    bits = {np.inf: 0x7F80, -np.inf: 0xFF80}.get(value, 0x7FC0)  # of bf16
    tensors = {name: np.full(each.shape, 0x3F80 if kind == "u2" else 1, kind) for name, each in matrices().items()}
    plan_serving(base_model=model, template="chatml", adapters=[f"x={write(tmp_path / 'x', tensors)}"])
    tensors[B][-1, -1] = bits if kind == "u2" else value
    assert f"{Q}.lora_B holds NaN or infinity" in refusal(write(tmp_path / "x", tensors), model).message


def test_one_layer_that_changes_something_is_enough(tmp_path: Path, model: Path) -> None:
    tensors = zeroed("B")
    tensors[B][0, 0] = np.float32(1e-30)
    assert plan_serving(base_model=model, template="chatml", adapters=[f"x={write(tmp_path / 'x', tensors)}"])


def test_whole_numbers_are_no_matrices(tmp_path: Path, model: Path) -> None:
    tensors = matrices() | {B: np.ones((OUTPUTS, 16), dtype="i4")}
    assert "is stored as I32" in refusal(write(tmp_path / "x", tensors), model).message


def test_a_rank_of_one_layer_s_own_is_served(tmp_path: Path, model: Path) -> None:
    larger = {A: np.ones((40, INPUTS), dtype="f4"), B: np.ones((OUTPUTS, 40), dtype="f4")}
    own = {"rank_pattern": {"layers.0.self_attn.q_proj": 40}, "alpha_pattern": {"q_proj": 80}}
    folder = write(tmp_path / "x", matrices() | larger, **own)
    planned = plan_serving(base_model=model, template="chatml", adapters=[f"x={folder}"])
    words = command(planned, Path("python"))
    assert words[words.index("--max-lora-rank") + 1] == "64"
    write_json(folder / "adapter_config.json", lora_config())
    assert "but its adapter_config.json says rank 16 there" in refusal(folder, model).message


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({"alpha_pattern": {"q_proj": 64}}, False),
        ({"alpha_pattern": {"q_proj": 32}}, True),
        ({"alpha_pattern": {"down_proj": 64}}, True),
    ],
)
def test_a_scale_of_one_layer_s_own_is_refused_on_a_gpu_whose_vllm_does_not_read_it(
    config: dict[str, Any], served: bool, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "x", **config)
    assert max_rank(plan_serving(base_model=model, template="chatml", adapters=[f"x={folder}"]).adapters) == 16
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    if served:
        assert plan_serving(base_model=model, template="chatml", adapters=[f"x={folder}"])
    else:
        assert "give model.layers.0.self_attn.q_proj the scale 4; vllm 0.24.0 gives" in refusal(folder, model).message
        monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
        (tmp_path / ".venv-serve").mkdir()
        environments.spec("serve", Engines.CURRENT).begin_stamp()
        assert plan_serving(base_model=model, template="chatml", adapters=[f"x={folder}"])


def test_weights_in_another_place_are_found_and_the_command_told(tmp_path: Path, model: Path) -> None:
    other = write(tmp_path / "bin", file="adapter_model.bin")
    assert "weights in adapter_model.bin; only" in refusal(other, model).message
    stopped = write(tmp_path / "stopped" / "checkpoint-20")
    error = refusal(stopped.parent, model)
    assert "its weights are in checkpoint-20" in error.message
    assert f"--lora x={stopped}" in error.hint
    plain = write(tmp_path / "plain")
    with pytest.raises(UserError, match=r"it has no keepstate-adapter\.json") as caught:
        plan_serving(base_model=model, template="chatml", adapters=[plain])
    assert f"--lora NAME={plain}" in caught.value.hint


def test_a_base_that_is_not_here_is_checked_as_far_as_its_name_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    adapter, options = write(tmp_path / "x"), {"template": "chatml"}
    for name in ("HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B"):
        with pytest.raises(UserError, match=r"make \(48, 64\), the layer is \("):
            plan_serving(base_model=name, adapters=[f"x={adapter}"], **options)
    twice = {name.replace("model.model", "model.base_model.model.model"): each for name, each in matrices().items()}
    with pytest.raises(UserError, match="the base has no such layer"):
        plan_serving(base_model="HuggingFaceTB/SmolLM2-135M", adapters=[f"x={write(adapter, twice)}"], **options)
    unknown = plan_serving(base_model="some/other-7b", adapters=[f"x={adapter}"], **options)
    assert any("not checked: whether x fits some/other-7b" in remark for remark in unknown.remarks)
