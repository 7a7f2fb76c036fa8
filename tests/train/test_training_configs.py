"""The eight training configs: the specification's values, equal but for data and output, keys that Axolotl reads."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from keepstate.dataset import load_template, read_manifest
from keepstate.errors import UserError
from keepstate.models.base import Message
from keepstate.places import SHIPPED
from keepstate.setup.environments import spec
from keepstate.train import TrainingRequest, plan_training
from keepstate.train.axolotl_config import (
    CONFIGS,
    PLUGIN_FOLDER,
    checked,
    config_path,
    divided,
    known_keys,
    read_axolotl_config,
)
from keepstate.vocabulary import MIXED, RuntimeName

ARMS = (*map(str, RuntimeName), MIXED)
PER_ARM = {"datasets", "test_datasets", "dataset_prepared_path", "output_dir"}
SPECIFIED = {
    "base_model": "Qwen/Qwen3-8B",
    "adapter": "qlora",
    "load_in_4bit": True,
    "lora_r": 64,
    "lora_alpha": 128,
    "sequence_len": 16384,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "num_epochs": 3,
    "optimizer": "adamw_torch",
    "sample_packing": True,
    "chat_template": "jinja",
    "chat_template_jinja": "keepstate/dataset/chat_templates/qwen3_nothink.jinja",
}
RESOLVES = Path(__file__).with_name("axolotl_resolves.py")


@pytest.mark.parametrize("laptop", [False, True])
def test_four_configs_differ_only_in_data_and_output(laptop: bool) -> None:
    configs = {name: read_axolotl_config(config_path(name, laptop=laptop)) for name in ARMS}
    for name, config in configs.items():
        assert str(name) in config["output_dir"]
        assert config["datasets"][0]["path"] == f"data/datasets/{name}/train.jsonl"
        common = {key: value for key, value in config.items() if key not in PER_ARM}
        assert common == {k: v for k, v in configs["persistent"].items() if k not in PER_ARM}
        entries = [dict(entry, path="") for entry in config["datasets"]]
        assert entries == [dict(entry, path="") for entry in configs["persistent"]["datasets"]]


def test_every_value_of_the_specification() -> None:
    for name in ARMS:
        config = read_axolotl_config(config_path(name, laptop=False))
        assert {key: config[key] for key in SPECIFIED} == SPECIFIED
        assert config["output_dir"] == f"out/qwen3-8b-{name}-a100"
        assert config["dataset_prepared_path"].startswith(config["output_dir"] + "/")


def test_all_configs_are_known_and_name_files_that_exist() -> None:
    paths = sorted(CONFIGS.rglob("*.yaml"))
    assert len(paths) == 8
    for path in paths:
        assert (SHIPPED / read_axolotl_config(path)["chat_template_jinja"]).is_file()


def test_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="lora_rr") as caught:
        checked({"lora_rr": 1}, "x.yaml")
    assert "lora_r" in caught.value.hint
    with pytest.raises(UserError, match="bnb_4bit_quant_type"):
        checked({"bnb_4bit_quant_type": "nf4"}, "x.yaml")


@pytest.mark.parametrize("text", ["- a", "a: [", "adapter: lora"])
def test_bad_yaml_is_explained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        read_axolotl_config(path)


WRONG: dict[str, tuple[object, ...]] = {
    "sequence_len": ("abc", 0, [1]),
    "learning_rate": (float("nan"), float("inf"), -1, "fast"),
    "micro_batch_size": ("auto",),
    "base_model": (["x"],),
    "output_dir": (5, ""),
    "datasets": ("data.jsonl", ["x"], []),
    "test_datasets": ("x",),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_of_another_kind_is_named(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(read_axolotl_config(config_path(RuntimeName.REACT, laptop=True)) | {key: value}))
    with pytest.raises(UserError, match=rf"wrong\.yaml: {key}.* \(found "):
        read_axolotl_config(path)


def test_numbers_that_yaml_takes_for_texts_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    raw = config_path(RuntimeName.REACT, laptop=True).read_text()
    path.write_text(raw.replace("learning_rate: 1.0e-3", "learning_rate: 1e-3"))
    assert path.read_text() != raw
    assert read_axolotl_config(path)["learning_rate"] == 0.001


OFFLOADING: list[tuple[dict[str, Any], str | bool]] = [
    ({}, "hidden_states"),
    ({"activation_offloading": False}, False),
    ({"gradient_checkpointing": False}, False),
]
"""What is changed in a config with the profile memory, and what it then offloads."""


@pytest.fixture(scope="module")
def axolotl(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one Axolotl (it takes 10 s to start) knows, and makes of configs (`axolotl_resolves.py`): of each runtime's,
    then of those of `OFFLOADING`.
    """
    python, folder = spec("train").python, tmp_path_factory.mktemp("resolved")
    if not python.is_file():
        pytest.skip(".venv-train is missing: make setup-train")
    paths = [config_path(name, laptop=False) for name in RuntimeName]
    raw = yaml.safe_load(paths[0].read_text()) | {"keepstate_profile": "memory"}
    for number, (change, _) in enumerate(OFFLOADING):
        paths.append(folder / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump(raw | change))
    env = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PLUGIN_FOLDER), "HOME": "/tmp"}
    command = [python, RESOLVES, folder / "model", *paths]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.partition("RESULT")[2])
    return found


@pytest.mark.train_env
@pytest.mark.timeout(300)
def test_stored_keys_are_axolotls_own(axolotl: dict[str, Any]) -> None:
    ours = {key for key in known_keys(spec("train").release.version) if not key.startswith("liger_")} - {
        "keepstate_profile"
    }
    assert ours == set(axolotl["keys"])


@pytest.mark.train_env
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", list(RuntimeName))
def test_axolotl_resolves_to_the_specification(name: RuntimeName, axolotl: dict[str, Any]) -> None:
    found = axolotl["configs"][list(RuntimeName).index(name)]
    raw: dict[str, Any] = yaml.safe_load(config_path(name, laptop=False).read_text())
    plain = {key for key, value in raw.items() if isinstance(value, int | float | str)} - {"base_model", "output_dir"}
    assert {key: found["kept"][key] for key in plain} == {key: raw[key] for key in plain}
    assert SPECIFIED.items() <= (found["kept"] | {"base_model": raw["base_model"]}).items()

    quantization = found["quantization"]
    assert quantization["load_in_4bit"]
    assert quantization["bnb_4bit_quant_type"] == "nf4"
    assert quantization["bnb_4bit_use_double_quant"]
    assert quantization["bnb_4bit_compute_dtype"] == "bfloat16"
    assert found["dtype"] == "torch.bfloat16"
    assert (found["lora"]["r"], found["lora"]["alpha"], len(found["lora"]["targets"])) == (64, 128, 7)
    assert found["rows_a_step"] == 16
    assert not found["offloading"][0]
    assert found["attention"] == "sdpa"  # on a GPU its flash kernels: train/README.md says which


@pytest.mark.train_env
@pytest.mark.timeout(300)
def test_profile_memory_keeps_what_layers_start_from_in_main_memory(axolotl: dict[str, Any]) -> None:
    """Unless the config says what it wants, or nothing is recomputed."""
    for (change, offloading), found in zip(OFFLOADING, axolotl["configs"][-len(OFFLOADING) :], strict=True):
        kind, reentrant = found["offloading"]
        assert (kind or False) == offloading, change
        assert not (kind and reentrant)


def test_a_key_of_the_other_axolotl_is_refused_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    path = tmp_path / "new.yaml"
    path.write_text(config_path(RuntimeName.REACT, laptop=True).read_text() + "lora_fp32_gradients: true\n")
    with pytest.raises(UserError, match=r"lora_fp32_gradients \(axolotl 0\.19\.0 would ignore") as told:
        read_axolotl_config(path)
    assert told.value.hint == "axolotl 0.21.0 knows them: keepstate setup train --engines current"


def test_thinking_is_off_in_every_turn() -> None:
    template = load_template(
        SHIPPED / read_axolotl_config(config_path(RuntimeName.REACT, laptop=False))["chat_template_jinja"]
    )
    turns: list[Message] = [Message(role=role, content="x") for role in ("user", "assistant", "user", "assistant")]
    text = template.render(turns)
    assert text.count("<|im_start|>assistant\n<think>\n\n</think>\n\nx") == 2


def test_rows_that_say_what_is_trained_are_read_so(dataset: Path, model: Path) -> None:
    config, manifest = config_path(RuntimeName.PERSISTENT, laptop=True), read_manifest(dataset)
    planned = plan_training(TrainingRequest(config, dataset=dataset, base_model=model))
    assert "message_field_training" not in planned.config["datasets"][0]
    manifest.model_copy(update={"options": {"train_turns": "last"}}).write(dataset)
    planned = plan_training(TrainingRequest(config, dataset=dataset, base_model=model))
    assert planned.config["datasets"][0]["message_field_training"] == "train"


@pytest.mark.parametrize(("rows", "processes", "each"), [((1, 16), 2, 8), ((2, 8), 8, 1), ((1, 16), 1, 16)])
def test_a_step_keeps_its_rows_with_several_gpus(rows: tuple[int, int], processes: int, each: int) -> None:
    config = {"micro_batch_size": rows[0], "gradient_accumulation_steps": rows[1]}
    assert divided(config, processes) == config | {"gradient_accumulation_steps": each}
    assert divided({"micro_batch_size": 2, "batch_size": 16}, 4)["gradient_accumulation_steps"] == 2


def test_rows_that_do_not_divide_are_refused_with_the_numbers_that_do() -> None:
    with pytest.raises(UserError, match="--gpus 3: a step has 8 batches of 2") as caught:
        divided({"micro_batch_size": 2, "gradient_accumulation_steps": 8}, 3)
    assert caught.value.hint == "--gpus with one of: 1, 2, 4, 8"
