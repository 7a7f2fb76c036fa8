"""The plugin: what it leaves out or computes in blocks changes nothing, steps and checkpoints come as they should."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keepstate.setup.environments import ROOM_FOLDER, spec
from keepstate.train.axolotl_config import PLUGIN_FOLDER

HERE = Path(__file__).parent


pytestmark = [pytest.mark.train_env, pytest.mark.timeout(600)]


def result(script: str, *arguments: str | Path) -> str:
    """What a script beside this file printed behind RESULT, run in the training environment."""
    python = spec("train").python
    if not python.is_file():
        pytest.skip(".venv-train is missing: make setup-train")
    env = os.environ | {"PYTHONPATH": f"{PLUGIN_FOLDER}:{ROOM_FOLDER}"}
    command = [python, HERE / script, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.partition("RESULT")[2]


def test_gradients_are_those_of_all_logits(tmp_path: Path) -> None:
    result("tiny_model.py", tmp_path)
    found = json.loads(result("logits_agree.py", tmp_path))
    assert found["seen"] == [40, 20]  # half of the positions are trained in some row
    assert found["apart"] < 1e-6
    assert found["losses"][0] == pytest.approx(found["losses"][1], abs=1e-5)


def test_attention_in_blocks_is_attention() -> None:
    found = json.loads(result("cpu_attention_agrees.py"))
    assert max(found["float32"]) < 1e-5, found["float32"]  # output and gradients of query, key, value
    assert max(found["bfloat16"]) < 0.05, found["bfloat16"]
    assert found["computed again"]  # what is not kept of a long row: to the last bit the same
    assert found["other"] == 0
    assert set(found["left"].values()) == {1}, found["left"]


def test_lora_in_place_is_lora() -> None:
    found = json.loads(result("cpu_lora_agrees.py"))
    assert max(found["float32"]) < 1e-5, found["float32"]  # output and gradients of input, A and B
    for ours, theirs in zip(found["bfloat16"], found["peft's bfloat16"], strict=True):
        assert ours < 1.1 * theirs, found
    assert found["adapter off"] == 0
    assert found["taken"] == {"bias": 1, "dropout": 0, "dora": 0, "two adapters": 0}


@pytest.fixture(scope="module")
def packing() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result("packing_counts.py"))
    return found


def test_the_same_packed_rows_are_always_as_many_steps(packing: dict[str, Any]) -> None:
    assert len(set(packing["usual"])) > 1  # else these rows would show nothing
    assert len(set(packing["ours"])) == 1


def test_a_step_has_the_same_traces_however_it_is_divided(packing: dict[str, Any]) -> None:
    """Else more memory could not be had from `--batch-size 1 --grad-accum N` without becoming another training."""
    first, *others = packing["steps"]
    assert sorted(trace for step in first for trace in step) != []
    for other in others:
        assert other == first
    assert len(set(packing["divided"])) == 1


def test_a_crash_costs_ten_minutes_and_a_busy_processor_one_thread(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    found = json.loads(result("saves_in_time.py", stop))
    assert found["100 s"] == [6, 12]  # a 7th would end at 700 s
    assert found["10 s"] == []
    assert found["told to stop"] == [1]
    assert stop.exists()
    assert found["threads after a standstill"] == [2], "what others did meanwhile is no reason"
    stood = found["stood"]
    (still, on) = stood["told"]
    assert still == ["stands still", 4, {}]
    assert on[:2] == ["goes on", 4]
    assert on[2]["stood"] == pytest.approx(60, abs=1)
    assert stood["clock"] == pytest.approx(140, abs=1), "standing still takes no time of the training"
    weights = ["adapter_config.json", "adapter_model.safetensors"]
    assert stood["kept"] == {f"step-{step}": weights for step in (12, 14, 3, 6, 9)}, "they outlive their checkpoints"
    taken, said = found["threads"]
    assert taken == [2, 2, 1, 1, 2, 1, 2]
    assert said == ["other programs are at work: computing with 1 of 2 threads while they are"]
    assert found["not told"] == [[2, 2, 2], []]  # nothing is known, so nothing changes
