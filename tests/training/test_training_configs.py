"""The six training configs: the specification's values, equal but for data and output, keys that Axolotl reads."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from keepstate.environments import spec
from keepstate.errors import UserError
from keepstate.training.config import CONFIGS, PLUGIN_FOLDER, ROOT, check_keys, config_path, known_keys, read_config
from keepstate.vocabulary import RuntimeName

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
    "chat_template_jinja": "keepstate/datasets/chat_templates/qwen3_nothink.jinja",
}
VALIDATE = """
import json, sys, yaml
from axolotl.utils.config import prepare_plugins, validate_config
from axolotl.utils.dict import DictDefault
cfg = DictDefault(yaml.safe_load(open(sys.argv[1])))
prepare_plugins(cfg)
gpu = {"bf16": True, "n_gpu": 1, "compute_capability": "sm_80", "fp8": False, "n_node": 1, "tf32": True}
valid = validate_config(cfg, capabilities=gpu, env_capabilities={"torch_version": "2.13.0"})
print("RESULT" + json.dumps({key: valid[key] for key in cfg}, default=str))
"""


@pytest.mark.parametrize("laptop", [False, True])
def test_three_configs_differ_only_in_data_and_output(laptop: bool) -> None:
    configs = {name: read_config(config_path(name, laptop=laptop)) for name in RuntimeName}
    for name, config in configs.items():
        assert str(name) in config["output_dir"]
        assert config["datasets"][0]["path"] == f"data/datasets/{name}/train.jsonl"
        common = {key: value for key, value in config.items() if key not in PER_ARM}
        assert common == {k: v for k, v in configs[RuntimeName.PERSISTENT].items() if k not in PER_ARM}
        entries = [dict(entry, path="") for entry in config["datasets"]]
        assert entries == [dict(entry, path="") for entry in configs[RuntimeName.PERSISTENT]["datasets"]]


def test_every_value_of_the_specification() -> None:
    for name in RuntimeName:
        config = read_config(config_path(name, laptop=False))
        assert {key: config[key] for key in SPECIFIED} == SPECIFIED
        assert config["output_dir"] == f"out/qwen3-8b-{name}-a100"
        assert config["dataset_prepared_path"].startswith(config["output_dir"] + "/")


def test_all_configs_are_known_and_name_files_that_exist() -> None:
    paths = sorted(CONFIGS.rglob("*.yaml"))
    assert len(paths) == 6
    for path in paths:
        assert (ROOT / read_config(path)["chat_template_jinja"]).is_file()


def test_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="lora_rr") as caught:
        check_keys({"lora_rr": 1}, "x.yaml")
    assert "lora_r" in caught.value.hint
    with pytest.raises(UserError, match="bnb_4bit_quant_type"):
        check_keys({"bnb_4bit_quant_type": "nf4"}, "x.yaml")


@pytest.mark.parametrize("text", ["- a", "a: [", "adapter: lora"])
def test_bad_yaml_is_explained(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        read_config(path)


def in_train_env(*arguments: str) -> str:
    python = spec("train").python
    if not python.is_file():
        pytest.skip(".venv-train is missing: make setup-train")
    env = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PLUGIN_FOLDER), "HOME": "/tmp"}
    done = subprocess.run([python, *arguments], capture_output=True, text=True, env=env, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.train_env
def test_stored_keys_are_axolotls_own() -> None:
    said = in_train_env("-m", "axolotl.cli.main", "config-schema")
    schema = set(json.loads(said[said.index("\n{") :])["properties"])
    ours = {key for key in known_keys() if not key.startswith("liger_")} - {"keepstate_profile"}
    assert ours == schema


@pytest.mark.train_env
@pytest.mark.parametrize("name", list(RuntimeName))
def test_axolotl_keeps_every_value(name: RuntimeName) -> None:
    path = config_path(name, laptop=False)
    said = in_train_env("-c", VALIDATE, str(path))
    valid = json.loads(said[said.index("RESULT") + len("RESULT") :])
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    plain = {key for key, value in raw.items() if isinstance(value, int | float | str) and key != "chat_template_jinja"}
    changed = {key: (raw[key], valid[key]) for key in plain if valid[key] != raw[key]}
    assert not changed
