"""What `keepstate dataset check` compares, and what it refuses before Axolotl starts."""

import json
from pathlib import Path

import pytest
import yaml
from made_traces import build_one, make_trace, write_traces

from keepstate.dataset.check import CheckOptions, check_dataset
from keepstate.dataset.inside.axolotl_ids import DATASET
from keepstate.dataset.templates import FOLDER
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.vocabulary import RuntimeName

ROOT = Path(__file__).parents[2]


def test_the_check_reads_a_data_set_as_every_training_config_does() -> None:
    configs = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "train/configs").glob("*.yaml"))]
    assert len(configs) >= 3
    for config in configs:
        assert (ROOT / config["chat_template_jinja"]).parent == FOLDER
        for entry in [*config["datasets"], *config.get("test_datasets", [])]:
            assert {key: entry[key] for key in entry.keys() - {"path", "ds_type", "split"}} == DATASET


def test_files_that_changed_since_they_were_built_are_refused(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root, folder = write_traces(tmp_path / "t", [make_trace(number) for number in range(4)]), tmp_path / "d"
    build_one(root, RuntimeName.PERSISTENT, folder, template="chatml", tokenizer=small_tokenizer.path)
    rows = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(rows.replace("Look first", "Look last"))
    with pytest.raises(UserError, match=r"train\.jsonl changed"):
        check_dataset(CheckOptions(folder))
    (folder / "train.jsonl").write_text(rows)
    (folder / "chat_template.jinja").write_text("other")
    with pytest.raises(UserError, match="jinja changed"):
        check_dataset(CheckOptions(folder))
    assert json.loads((folder / "manifest.json").read_text())["certificate"] is None
