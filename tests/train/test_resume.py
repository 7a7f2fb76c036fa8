"""A training that is cut and goes on, or of two processes, is the training of one that was never cut: same rows in the
same order, same losses.

With real Axolotl and a model of two layers; single rows with dropout, so that random numbers go on too. Packed rows
are drawn by another sampler, so both are cut; they go on with their steps divided in another way. Losses agreed to the
bit in some runs and to 2e-4 in others, from the third step after a resume on: products on the CPU do not always round
alike.
"""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_data import write_dataset

from keepstate.files import file_hash
from keepstate.places import SHIPPED
from keepstate.setup.environments import spec
from keepstate.train import read_done
from keepstate.train.axolotl_config import config_path
from keepstate.train.progress import PROGRESS, Follower
from keepstate.train.result import DONE, WEIGHTS
from keepstate.train.run_folder import LOCK, checkpoints
from keepstate.train.scores import kept_steps
from keepstate.train.tracking import FOLDER, PROJECT
from keepstate.train.trained_for import RUN
from keepstate.vocabulary import RuntimeName

pytestmark = [pytest.mark.train_env, pytest.mark.timeout(900)]

ROWS = 120
SAVE_STEPS = 5
CUT_AT = {"single": 23, "packed": 12}
"""Steps: between two checkpoints and inside an epoch, so that rows of it are to be skipped."""
STOPS = {"single": signal.SIGINT, "packed": signal.SIGTERM}
"""What ends the resumed training once more, after its step: Ctrl-C, and what a scheduler sends."""
COMMON = {"lora_dropout": 0.1, "num_epochs": 2, "save_steps": SAVE_STEPS, "warmup_steps": 3, "sequence_len": 128}
SINGLE = COMMON | {"num_epochs": 0.4}
"""It ends inside an epoch."""
PACKED = COMMON | {"sample_packing": True, "pad_to_sequence_len": True, "gradient_accumulation_steps": 2}
PACKED |= {"lora_dropout": 0.0, "bf16": False}
"""Its rows go on two at once where they were one by one: dropout would draw other numbers, bfloat16 round otherwise."""
ROUNDING = 1e-3
"""Losses of neighbouring steps differ by ten times as much."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, data, and the laptop's config for both kinds of rows."""
    python = spec("train").python
    if not python.is_file():
        pytest.skip(".venv-train is missing: make setup-train")
    folder = tmp_path_factory.mktemp("bench")
    script = Path(__file__).with_name("tiny_model.py")
    subprocess.run([python, script, folder / "model"], check=True, capture_output=True, timeout=300)
    rng = random.Random(0)
    words = lambda: " ".join(str(rng.randrange(60)) for _ in range(rng.randrange(4, 24)))  # noqa: E731
    write_dataset(folder / "data", [[(words(), words()), (words(), words())] for _ in range(ROWS)])
    raw = yaml.safe_load(config_path(RuntimeName.PERSISTENT, laptop=True).read_text())
    for name, keys in (("single", SINGLE), ("packed", PACKED)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw | keys))
    return folder


@pytest.fixture(scope="module")
def uncut(bench: Path) -> Callable[[str], Path]:
    """Gives the folder of the training that nothing cut, made where it is first asked for."""

    @cache
    def trained(kind: str) -> Path:
        finish(start(bench, kind, bench / f"uncut-{kind}"))
        return bench / f"uncut-{kind}"

    return trained


def start(bench: Path, kind: str, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "keepstate", "train", "persistent", "--config", bench / f"{kind}.yaml"]
    command += ["--dataset", bench / "data", "--out", out, "--base-model", bench / "model", "--track", "none", *options]
    return subprocess.Popen(list(map(str, command)), cwd=SHIPPED, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    _, said = process.communicate(timeout=400)
    assert process.returncode == code, said
    return said


def files(out: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in out.rglob("*") if path.is_file() and path.name != LOCK}


def logged(out: Path) -> list[dict[str, Any]]:
    path = out / PROGRESS
    if not path.is_file():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [entry for entry in map(json.loads, whole.splitlines()) if "loss" in entry]


def steps(out: Path) -> dict[int, dict[str, Any]]:
    """By step; what a cut lost and the next run repeated counts as repeated."""
    return {entry["step"]: entry for entry in logged(out)}


def rows_seen(out: Path) -> dict[int, tuple[Any, ...]]:
    """What tells one row from another at every step: tokens and trained tokens so far, and the learning rate."""
    keys = ("tokens/total", "tokens/trainable", "learning_rate")
    return {step: tuple(entry[key] for key in keys) for step, entry in steps(out).items()}


def losses(out: Path) -> list[float]:
    """The loss of every step, in order."""
    return [entry["loss"] for _, entry in sorted(steps(out).items())]


def wait_for_step(out: Path, process: subprocess.Popen[str], step: int) -> None:
    end = time.monotonic() + 400
    while time.monotonic() < end and process.poll() is None:
        if any(entry["step"] >= step for entry in logged(out)):
            return
        time.sleep(0.005)
    pytest.fail(f"step {step} was not reached: {process.communicate()[1]}")


def wait_for_event(out: Path, process: subprocess.Popen[str], event: str) -> None:
    end = time.monotonic() + 400
    while time.monotonic() < end and process.poll() is None:
        if f'"event": "{event}"' in (out / PROGRESS).read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"{event} was not said: {process.communicate()[1]}")


@pytest.mark.parametrize("kind", ["single", "packed"])
def test_cut_and_resumed_equals_uncut(bench: Path, uncut: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    cut_at, out, never = CUT_AT[kind], tmp_path / "cut", uncut(kind)
    assert len(steps(never)) > cut_at + 5

    killed = start(bench, kind, out)
    wait_for_step(out, killed, cut_at)
    os.kill(killed.pid, signal.SIGKILL)
    finish(killed, -signal.SIGKILL)
    reached = max(steps(out))
    time.sleep(1)  # the guard ends Axolotl
    kept = int(checkpoints(out)[-1].name.rpartition("-")[2])
    assert reached - kept <= SAVE_STEPS
    (out / f"checkpoint-{kept + SAVE_STEPS}").mkdir(exist_ok=True)  # as a crash while saving leaves it, or just left it

    before = files(out)
    said = finish(start(bench, kind, out, "--lr", "0.5"), 2)
    assert "learning_rate: 0.001 -> 0.5" in said
    assert files(out) == before

    interrupted = start(bench, kind, out, "--profile", "memory")
    wait_for_step(out, interrupted, reached + 2)
    interrupted.send_signal(STOPS[kind])
    said = finish(interrupted, 130)
    assert f"going on from checkpoint-{kept}" in said
    saved = max(steps(out))
    assert f"checkpoint-{saved}; the same command goes on from it" in said
    assert read_done(out) is None

    divided = ["--batch-size", "2", "--grad-accum", "1"] if kind == "packed" else []
    said = finish(start(bench, kind, out, *divided))
    assert f"going on from checkpoint-{saved}" in said
    assert rows_seen(out) == rows_seen(never)
    assert losses(out) == pytest.approx(losses(never), abs=ROUNDING)
    done, whole = read_done(out), read_done(never)
    assert done is not None
    assert whole is not None
    assert (done.steps, done.tokens) == (whole.steps, whole.tokens)
    assert done.final_loss == pytest.approx(whole.final_loss, abs=ROUNDING)
    assert f"axolotl {done.versions['axolotl']}" in (out / "README.md").read_text()
    before = files(out)
    assert "trained already" in finish(start(bench, kind, out))
    assert files(out) == before


def test_two_processes_that_stand_still_and_are_cut_train_what_one_does(
    bench: Path, uncut: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two on the CPU (gloo), as `--gpus 2` starts them on two GPUs. An epoch has an odd number of packed rows.

    They stand still as for an evaluation, in the middle of an epoch.
    """
    alone, out, pause = uncut("packed"), tmp_path / "two", tmp_path / "pause"
    monkeypatch.setenv("KEEPSTATE_EVAL_STEPS", "4")
    monkeypatch.setenv("KEEPSTATE_PAUSE", str(pause))
    interrupted = start(bench, "packed", out, "--gpus", "2")
    wait_for_step(out, interrupted, 6)
    pause.touch()
    wait_for_event(out, interrupted, "stands still")
    stood_at = max(steps(out))
    time.sleep(2)
    assert max(steps(out)) == stood_at
    pause.unlink()
    wait_for_step(out, interrupted, max(CUT_AT["packed"], stood_at + 1))
    follower = Follower(out / PROGRESS)
    follower.look()
    assert follower.stood >= 2
    assert follower.seconds + 2 <= time.time() - (out / RUN).stat().st_mtime
    assert kept_steps(out)[0] == 4
    interrupted.send_signal(signal.SIGINT)
    finish(interrupted, 130)
    saved = max(steps(out))
    assert saved < max(steps(alone))
    assert f"going on from checkpoint-{saved}" in finish(start(bench, "packed", out, "--gpus", "2"))
    trained = {step: row[1:] for step, row in rows_seen(out).items()}
    assert trained == {step: row[1:] for step, row in rows_seen(alone).items()}
    assert losses(out) == pytest.approx(losses(alone), abs=ROUNDING)
    done, whole = read_done(out), read_done(alone)
    assert done is not None
    assert whole is not None
    assert (done.key, done.steps) == (whole.key, whole.steps)
    assert (done.processes, whole.processes) == (2, 1)
    assert "in 2 processes" in (out / "README.md").read_text()


def test_what_was_cut_after_its_last_step_takes_no_other_one(
    bench: Path, uncut: Callable[[str], Path], tmp_path: Path
) -> None:
    """In the middle of an epoch."""
    never, out = uncut("single"), tmp_path / "out"
    done = read_done(never)
    assert done is not None
    shutil.copytree(never, out)
    (out / DONE).unlink()
    (out / WEIGHTS).unlink()
    assert f"going on from checkpoint-{done.steps}" in finish(start(bench, "single", out))
    again = read_done(out)
    assert again is not None
    assert (again.steps, again.final_loss, file_hash(out / WEIGHTS)) == (
        done.steps,
        done.final_loss,
        file_hash(never / WEIGHTS),
    )


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_a_trackers_fault_ends_no_training(
    bench: Path, tmp_path: Path, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that another program holds; a service without a key."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "out" / "adapter"
    held = tmp_path / "out" / FOLDER / f"{PROJECT}.lock"
    held.parent.mkdir(parents=True)
    with held.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = finish(start(bench, "single", out, "--epochs", "0.1", "--track", tracker))
    assert said.count("the training goes on without its curves") == 1
    assert read_done(out) is not None
