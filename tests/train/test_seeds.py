"""Several seeds of one training: a folder and a name of its own for each, one after the other."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from made_data import write_dataset

from keepstate.cli import train as command
from keepstate.train import TrainingRequest, launch


@pytest.fixture
def arguments(tmp_path: Path, model: Path) -> list[str]:
    dataset = write_dataset(tmp_path / "d", [[("a", "b")]])
    places = ["--dataset", str(dataset), "--base-model", str(model), "--out", str(tmp_path / "out/p")]
    return ["persistent", "--laptop", *places]


def test_each_has_its_folder_and_seed(arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(command.command, [*arguments, "--seed", "1", "--seed", "2", "--dry-run"])
    assert result.exit_code == 0, result.output
    configs = [*yaml.safe_load_all(result.stdout)]
    assert [(config["seed"], config["output_dir"]) for config in configs] == [
        (seed, str(tmp_path / f"out/p-seed{seed}")) for seed in (1, 2)
    ]
    result = CliRunner().invoke(command.command, [*arguments, "--seed", "7", "--dry-run"])
    assert yaml.safe_load(result.stdout)["output_dir"] == str(tmp_path / "out/p")


def test_each_has_its_name(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def noted(request: TrainingRequest, **_: Any) -> SimpleNamespace:
        asked.append((request.name, request.overrides["seed"], request.folder().name))
        return SimpleNamespace(name=request.name, steps=1, seconds=1.0, final_loss=None)

    monkeypatch.setattr(launch, "train", noted)
    result = CliRunner().invoke(command.command, [*arguments, "--seed", "1", "--seed", "2", "--seed", "1"])
    assert result.exit_code == 0, result.output
    assert asked == [("persistent-seed1", 1, "p-seed1"), ("persistent-seed2", 2, "p-seed2")]
