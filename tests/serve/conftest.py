"""Adapters, a model folder and a home with a stub in the place of vLLM."""

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from made_lora import INPUTS, LAYERS, OUTPUTS, lora_config, matrices, write_tensors
from serving_helpers import MakeAdapter

from keepstate.dataset import load_template
from keepstate.files import write_json
from keepstate.setup.environments import spec
from keepstate.train.result import DONE, WEIGHTS, TrainedAdapter
from keepstate.vocabulary import RuntimeName

STUB = Path(__file__).with_name("stub_vllm.py")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model with 4,096 positions and two layers."""
    folder = tmp_path / "model"
    folder.mkdir()
    write_json(folder / "config.json", {"max_position_embeddings": 4096})
    layers = {f"{layer}.weight": np.ones((OUTPUTS, INPUTS), dtype="f4") for layer in LAYERS}
    write_tensors(folder / "model.safetensors", layers)
    return folder


@pytest.fixture
def make_adapter(tmp_path: Path, model: Path) -> MakeAdapter:
    """Makes what a training leaves, for one runtime."""

    def make(runtime: str = "persistent", *, folder: str = "", template: str = "chatml", rank: int = 16) -> Path:
        place = tmp_path / (folder or runtime)
        place.mkdir()
        write_tensors(place / WEIGHTS, matrices(rank))
        write_json(place / "adapter_config.json", lora_config(rank))
        done = TrainedAdapter(
            key="0",
            runtime=RuntimeName(runtime),
            base_model=str(model),
            data_sha256="0",
            template_sha256=load_template(template).sha256,
            steps=1,
            first_loss=1.0,
            final_loss=0.5,
            seconds=1.0,
            tokens=9,
            peak_gib=0.0,
        )
        write_json(place / DONE, done.model_dump(mode="json"))
        return place

    return make


@pytest.fixture
def stub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `KEEPSTATE_HOME` whose `.venv-serve` is the stub; its pid is in `stub.pid`."""
    home = tmp_path / "home"
    monkeypatch.setenv("KEEPSTATE_HOME", str(home))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    monkeypatch.setenv("STUB_PID", str(home / "stub.pid"))
    python = spec("serve").python
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(STUB)])} "$@"\n')
    python.chmod(0o755)
    spec("serve").write_stamp()
    return home
