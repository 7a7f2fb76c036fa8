"""Adapters, a model folder and a home with a stub in the place of vLLM."""

from pathlib import Path

import pytest
from made_lora import write_adapter, write_model
from serving_helpers import MakeAdapter, write_stub_environment


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model with 4,096 positions and two layers."""
    return write_model(tmp_path / "model")


@pytest.fixture
def make_adapter(tmp_path: Path, model: Path) -> MakeAdapter:
    """Makes what a training leaves, for one runtime."""

    def make(runtime: str = "persistent", *, folder: str = "", template: str = "chatml", rank: int = 16) -> Path:
        return write_adapter(tmp_path / (folder or runtime), model, runtime, template=template, rank=rank)

    return make


@pytest.fixture
def stub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `KEEPSTATE_HOME` whose `.venv-serve` is the stub; its pid is in `stub.pid`."""
    home = tmp_path / "home"
    monkeypatch.setenv("KEEPSTATE_HOME", str(home))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    monkeypatch.setenv("STUB_PID", str(home / "stub.pid"))
    write_stub_environment()
    return home
