"""A data set and a base model that pass every check; neither can be trained on."""

from pathlib import Path

import pytest
from made_data import write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", [[("1 + 1", "2")]] * 4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder
