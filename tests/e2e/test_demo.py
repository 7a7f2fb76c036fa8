"""The whole loop at its smallest: real runtimes, real Axolotl, real vLLM; cut once, resumed, and not done twice."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from keepstate.bench import TaskSource, matrix_configs
from keepstate.dataset import read_manifest
from keepstate.train import read_done
from keepstate.vocabulary import RuntimeName

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
TRAIN_TASKS, EVAL_TASKS = 4, 1
SHORT = """
import runpy
from keepstate.demo import run
run.LIMITS = run.LIMITS.model_copy(update={"turns": 2})
run.SAMPLING = run.SAMPLING.model_copy(update={"max_tokens": 96})
runpy.run_module("keepstate", run_name="__main__", alter_sys=True)
"""
"""`keepstate` with short episodes: models that learned from four tasks talk to their limits, 16,000 tokens in all, for
which a processor without bf16 takes five minutes."""
CELLS = sorted(config.name for config in matrix_configs(TaskSource(difficulty="mini"), "mini"))


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def command(out: Path) -> list[str]:
    sizes = ["--train-tasks", str(TRAIN_TASKS), "--eval-tasks", str(EVAL_TASKS)]
    return [sys.executable, "-c", SHORT, "demo", "--out", str(out), *sizes, "--port", str(free_port())]


@pytest.fixture(scope="module")
def interrupted(command: list[str], out: Path) -> tuple[int, str]:
    """Exit code and words of a demo that gets Ctrl-C in the middle of its first training."""
    with (out / "interrupted.log").open("w+") as log:
        demo = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        progress = out / "adapters" / "persistent" / "progress.jsonl"
        deadline = time.monotonic() + 600
        while not (progress.is_file() and '"log"' in progress.read_text()):
            assert demo.poll() is None, Path(log.name).read_text()
            assert time.monotonic() < deadline, Path(log.name).read_text()
            time.sleep(0.05)
        os.kill(demo.pid, signal.SIGINT)
        code = demo.wait(180)
    return code, (out / "interrupted.log").read_text()


@pytest.fixture(scope="module")
def finished(interrupted: tuple[int, str], command: list[str]) -> subprocess.CompletedProcess[str]:
    """The same command again, to its end."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def repeated(finished: subprocess.CompletedProcess[str], command: list[str]) -> subprocess.CompletedProcess[str]:
    """And once more, with nothing left to do."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def processes_of(out: Path) -> Iterator[list[str]]:
    """Command lines of running programs that name the demo's folder."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(out) in word for word in words):
            yield words


def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(interrupted: tuple[int, str], out: Path) -> None:
    code, said = interrupted
    assert code == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not read_done(out / "adapters" / "persistent")
    assert list(processes_of(out)) == []


def test_a_second_demo_resumes_and_finishes(finished: subprocess.CompletedProcess[str], out: Path) -> None:
    assert finished.returncode == 0, finished.stderr
    assert f"{TRAIN_TASKS} kept" in finished.stderr
    assert "going on from checkpoint" in finished.stderr
    assert str(out / "report" / "index.html") in finished.stdout
    assert list(processes_of(out)) == []


def test_data_are_paired_and_proven(finished: subprocess.CompletedProcess[str], out: Path) -> None:
    for runtime in RuntimeName:
        manifest = read_manifest(out / "datasets" / runtime)
        assert manifest.arm == runtime
        assert manifest.splits["train"].rows == TRAIN_TASKS
        assert manifest.certificate is not None
        assert manifest.certificate.axolotl


def test_three_different_adapters(finished: subprocess.CompletedProcess[str], out: Path) -> None:
    done = [read_done(out / "adapters" / runtime) for runtime in RuntimeName]
    assert [adapter.steps if adapter else 0 for adapter in done] == [TRAIN_TASKS] * 3
    weights = {(out / "adapters" / runtime / "adapter_model.safetensors").read_bytes() for runtime in RuntimeName}
    assert len(weights) == 3


def test_every_cell_was_played_with_the_trained_weights(finished: subprocess.CompletedProcess[str], out: Path) -> None:
    cells = {path.parent.name: json.loads(path.read_text()) for path in out.glob("bench/*/cell.json")}
    assert sorted(cells) == CELLS
    weights = {cell["config"]["weights"] for cell in cells.values()}
    assert len(weights) == 4, "the base's none and three hashes"
    for name in cells:
        assert len(list((out / "bench" / name).glob("*.trace.json"))) == EVAL_TASKS


def test_report_has_every_cell(finished: subprocess.CompletedProcess[str], out: Path) -> None:
    report = json.loads((out / "report" / "report.json").read_text())
    (group,) = report["groups"]
    assert sorted(cell["name"] for cell in group["cells"]) == CELLS
    assert all(cell["n"] == EVAL_TASKS for cell in group["cells"])
    page = (out / "report" / "index.html").read_text()
    assert page.count("<svg") >= 2
    assert "persistent → forget" in page
    assert "persistent → forget" in finished.stdout


def test_nothing_is_done_twice(repeated: subprocess.CompletedProcess[str], out: Path) -> None:
    assert repeated.returncode == 0, repeated.stderr
    assert repeated.stderr.count("is trained already") == 3
    assert "built and proven already" in repeated.stderr
    assert "every cell is graded already" in repeated.stderr
    assert str(out / "report" / "index.html") in repeated.stdout
