"""Checkpoints of a training are served under the names of their steps and play their cells, with a stub for vLLM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving_helpers import MakeAdapter, is_running

from keepstate.bench import BenchmarkConfig, TaskSource, read_results
from keepstate.bench.checkpoints import Settings, main
from keepstate.dataset.templates import FOLDER as TEMPLATES
from keepstate.files import write_json
from keepstate.report.losses import scores_of
from keepstate.traces.record import Limits
from keepstate.train.evaluation import SETTINGS
from keepstate.train.progress import PROGRESS
from keepstate.train.scores import FOLDER, read_scores
from keepstate.vocabulary import RuntimeName


@pytest.fixture
def training(make_adapter: MakeAdapter, stub_home: Path, model: Path) -> Path:
    """The folder of a training whose steps 1 and 2 are kept."""
    out = make_adapter()
    for step in (1, 2):
        make_adapter(folder=f"{out.name}/step-{step}")
    config = BenchmarkConfig(
        name="react-mini",
        adapter="step-0",
        runtime=RuntimeName.REACT,
        tasks=TaskSource(difficulty="mini", count=2),
        limits=Limits(turns=1),
        context=4096,
    )
    settings = Settings(
        cell="two tasks", configs=(config,), base_model=str(model), template=TEMPLATES / "chatml.jinja", context=4096
    )
    write_json(out / FOLDER / SETTINGS, settings.model_dump(mode="json"))
    return out


def test_every_step_has_its_cell_and_its_score(training: Path, stub_home: Path) -> None:
    assert main([str(training), "1,2"]) == 0
    assert not is_running(stub_home)
    scores = read_scores(training)
    assert scores
    assert [(point.step, point.runtime, point.known) for point in scores.points] == [(1, "react", 0), (2, "react", 0)]
    assert scores.start_seconds
    assert sorted(cell.name for cell in read_results(training / FOLDER)) == ["step-1-react-mini", "step-2-react-mini"]
    (training / "step-3").mkdir()
    ((runtime, points),) = scores_of(training)
    assert runtime is RuntimeName.REACT
    assert [(point.step, point.score) for point in points] == [(1, 0.0), (2, 0.0), (3, None)]
    assert points[0].high
    (training / PROGRESS).unlink(missing_ok=True)


def test_a_server_that_does_not_start_ends_it_with_its_words(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUB", "dies")
    assert main([str(training), "1"]) == 2
    assert "error:" in capsys.readouterr().err
    assert read_scores(training) is None


def test_sigterm_leaves_no_server(training: Path, stub_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its guard sends it where the time of an evaluation is up."""
    monkeypatch.setenv("STUB", "silent")
    process = subprocess.Popen([sys.executable, "-m", "keepstate.bench.checkpoints", str(training), "1"])
    deadline = time.monotonic() + 30
    while not (stub_home / "stub.pid").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(20) == 130
    assert not is_running(stub_home)
