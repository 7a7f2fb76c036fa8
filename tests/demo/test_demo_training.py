"""The demo's trainings: one of another size makes way, the same goes on."""

from pathlib import Path
from typing import Any

import pytest

from keepstate.demo import DemoFolder, run
from keepstate.train.run_folder import OtherTraining
from keepstate.vocabulary import RuntimeName


def test_adapters_of_another_size_make_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[RuntimeName, bool]] = []

    class Trained:
        final_loss, steps, seconds = None, 1, 1.0

    def train(_: Path, *, runtime: RuntimeName, fresh: bool, **rest: Any) -> Trained:
        begun.append((runtime, fresh))
        if runtime is RuntimeName.FORGET and not fresh:
            raise OtherTraining("the folder holds another training")
        return Trained()

    monkeypatch.setattr(run, "train", train)
    run.Demo(DemoFolder(tmp_path)).train_adapters()
    persistent, forget, react = RuntimeName
    assert begun == [(persistent, False), (forget, False), (forget, True), (react, False)]
