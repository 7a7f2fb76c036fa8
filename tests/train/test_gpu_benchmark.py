"""What the GPU benchmark runs: the project's own config, and the arithmetic that its MFU is counted in."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from keepstate.places import SHIPPED
from keepstate.train.axolotl_config import checked

sys.path.insert(0, str(SHIPPED / "benchmarks" / "gpu"))

import shapes
import train_speed


@pytest.mark.parametrize(("length", "giga"), [(16_384, 45.8), (1024, 32.2)])
def test_operations_of_a_token(length: int, giga: float) -> None:
    lengths = [length] * (shapes.SEQUENCE // length)
    assert shapes.flops_per_token(lengths, trained=1.0, tiny=False) / 1e9 == pytest.approx(giga, abs=0.05)
    assert shapes.flops_per_token(lengths, trained=0.5, tiny=False) < giga * 1e9


def test_documents_fill_the_rows_that_are_asked_for() -> None:
    for rows in shapes.ROWS.values():
        lengths = shapes.document_lengths(rows, 3 * shapes.SEQUENCE)
        assert 3 * shapes.SEQUENCE <= sum(lengths) < 3 * shapes.SEQUENCE + rows.longest
        assert rows.shortest <= min(lengths) <= max(lengths) <= rows.longest


@pytest.mark.parametrize("kind", list(train_speed.KINDS))
def test_variants_are_the_projects_config_but_for_what_they_name(kind: str, tmp_path: Path) -> None:
    options = train_speed.Options([], tmp_path, tiny=False, kernels=False, budget=1.0)
    config = train_speed.config_of(f"{kind}/traces", options)
    checked({"chat_template_jinja": "none: its rows are made of tokens"} | config, kind)
    own = yaml.safe_load(train_speed.CONFIG.read_text())
    made = {"base_model", "plugins", "datasets", "dataset_prepared_path", "output_dir", "gradient_accumulation_steps"}
    changed = {key for key in own.keys() & config.keys() if config[key] != own[key]} - made
    assert changed <= train_speed.KINDS[kind].keys()
    assert config["sequence_len"] == shapes.SEQUENCE


def test_default_variants_exist_and_baselines_come_first() -> None:
    names = train_speed.DEFAULT.split()
    for name in names:
        kind, rows = name.split("/")
        assert kind in train_speed.KINDS
        baseline = "plain/unpacked" if rows == "unpacked" else train_speed.BASELINE[rows]
        assert names.index(baseline) <= names.index(name)


def test_a_peer_follows_a_variant_of_ours_on_its_rows() -> None:
    names = [name.split("/") for name in train_speed.BESIDE_PEERS.split()]
    for number, (kind, rows) in enumerate(names):
        assert kind in train_speed.KINDS or kind in train_speed.PEERS
        assert kind in train_speed.KINDS or ["speed", rows] in names[:number]


@pytest.mark.parametrize(("loss", "said"), [(12.0, "first loss 0.0050 apart"), (12.1, "NOT MATCHED")])
def test_a_peer_that_trains_something_else_is_told(loss: float, said: str, tmp_path: Path) -> None:
    noted = {"seconds": [1.0], "allocated": [1.0], "reserved": [1.0], "kept": [0]}
    for name, losses in (("speed-16k", [12.005]), ("unsloth-16k", [loss])):
        (tmp_path / f"{name}.json").write_text(json.dumps(noted | {"losses": losses, "attention": "SDPA"}))
    options = train_speed.Options([], tmp_path, tiny=False, kernels=False, budget=1.0)
    _, data = train_speed.read_seconds(options, "unsloth/16k")
    assert said in train_speed.matched("unsloth/16k", data, options)
    assert train_speed.matched("speed/16k", data, options) == ""
