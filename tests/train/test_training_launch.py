"""What a training is started with, what it leaves, and when it is not repeated."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from keepstate.errors import UserError
from keepstate.files import file_hash
from keepstate.setup.environments import spec
from keepstate.train import TrainedAdapter, TrainingRequest, plan_training
from keepstate.train.axolotl_config import config_path, known_keys, read_axolotl_config
from keepstate.train.launch import _failure
from keepstate.train.result import base_revision, model_card
from keepstate.train.run_folder import LOG
from keepstate.train.tracking import check_tracker, config_keys, environment
from keepstate.vocabulary import RuntimeName, Tracker

LAPTOP = config_path(RuntimeName.PERSISTENT, laptop=True)
AGAIN = "the same command"


def test_out_of_memory_names_the_flag(dataset: Path, model: Path, tmp_path: Path) -> None:
    planned = plan_training(TrainingRequest(LAPTOP, dataset=dataset, output=tmp_path / "out", base_model=model))
    planned.output.mkdir()
    log = planned.output / LOG
    log.write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    assert "--max-seq-length 2048 --fresh" in _failure(planned, 1, 0).hint
    planned.config["keepstate_profile"] = "speed"
    assert f"{AGAIN} goes on with every layer recomputed: --profile memory" in _failure(planned, 1, 0).hint
    planned.config.update(keepstate_profile="memory", micro_batch_size=2, gradient_accumulation_steps=8)
    assert "--batch-size 1 --grad-accum 16" in _failure(planned, 1, 0).hint
    assert "--fresh" not in _failure(planned, 1, 0).hint


def test_a_failure_is_explained_by_its_own_part_of_the_log(dataset: Path, model: Path, tmp_path: Path) -> None:
    planned = plan_training(TrainingRequest(LAPTOP, dataset=dataset, output=tmp_path / "out", base_model=model))
    planned.output.mkdir()
    log = planned.output / LOG
    log.write_text("torch.OutOfMemoryError: CUDA out of memory, in an earlier run: Gr\u00fc\u00dfe\n")
    earlier = log.stat().st_size
    log.write_bytes(log.read_bytes() + b"ValueError: x\n")
    failure = _failure(planned, 1, earlier)
    assert "ValueError: x" in failure.message
    assert "OutOfMemory" not in failure.message
    assert "killed" in _failure(planned, 137, earlier).message
    assert "memory did not suffice" in _failure(planned, 1, 0).message


@pytest.mark.parametrize("free", [0, 1 << 30])
def test_a_full_disk_is_called_so_also_where_the_log_found_no_place(
    dataset: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    planned = plan_training(TrainingRequest(LAPTOP, dataset=dataset, output=tmp_path / "out", base_model=model))
    planned.output.mkdir()
    (planned.output / LOG).write_text("  File tra" if not free else "OSError: [Errno 28] No space left on device")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    failure = _failure(planned, 1, 0)
    assert "no disk space left" in failure.message
    assert failure.hint == f"free some, then {AGAIN} goes on"


def test_resolved_config_is_absolute_and_keeps_what_was_not_given(dataset: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = plan_training(
        TrainingRequest(
            LAPTOP,
            dataset=dataset,
            output=out,
            base_model=model,
            overrides={"seed": 7, "learning_rate": None, "bf16": True},
        )
    )
    raw = read_axolotl_config(LAPTOP)
    assert planned.config["seed"] == 7
    assert planned.config["learning_rate"] == raw["learning_rate"]
    assert planned.config["datasets"][0]["path"] == str(dataset / "train.jsonl")
    assert planned.config["dataset_prepared_path"].startswith(str(out))
    assert planned.offline
    changed = {key for key in raw if planned.config.get(key) != raw[key]}
    moved = {"base_model", "datasets", "chat_template_jinja", "output_dir", "dataset_prepared_path", "seed"}
    assert changed == moved


def test_mlflow_needs_its_client_and_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for tracker in set(Tracker) - {Tracker.MLFLOW}:
        check_tracker(tracker)
    with pytest.raises(UserError, match="not installed") as caught:
        check_tracker(Tracker.MLFLOW)
    assert f"pip install --target {tmp_path / '.mlflow'} mlflow-skinny" in caught.value.hint
    (tmp_path / ".mlflow" / "mlflow").mkdir(parents=True)
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        check_tracker(Tracker.MLFLOW)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    check_tracker(Tracker.MLFLOW)


def test_services_are_asked_only_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    known = known_keys(spec("train").release.version)
    for tracker in Tracker:
        keys = config_keys(tracker, "run")
        assert set(keys) <= known
        assert bool(keys) == (tracker in (Tracker.WANDB, Tracker.MLFLOW))
    local = environment(Tracker.TRACKIO, tmp_path / "out" / "adapter", "run")
    assert local == {"KEEPSTATE_TRACK": "run", "TRACKIO_DIR": str(tmp_path / "out" / "tracking")}
    assert not environment(Tracker.NONE, tmp_path, "run")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    patience = environment(Tracker.MLFLOW, tmp_path, "run")
    assert (patience["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], patience["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("2", "99")


def test_model_card_tells_all_that_made_the_adapter(dataset: Path, model: Path) -> None:
    planned = plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model))
    adapter = TrainedAdapter(
        key="k",
        runtime=RuntimeName.PERSISTENT,
        base_model=str(model),
        base_revision=base_revision(str(model), "c0ffee"),
        data_sha256="da7a",
        template_sha256="7e3b",
        steps=4,
        first_loss=1.25,
        final_loss=0.5,
        eval_loss=0.75,
        seconds=2.0,
        tokens=36,
        peak_gib=1.5,
        versions={"axolotl": "0.19.0"},
    )
    card = model_card(adapter, planned.config, planned.manifest)
    assert "GPUs," not in card
    assert "on 2 GPUs," in model_card(adapter.model_copy(update={"processes": 2}), planned.config, planned.manifest)
    for text in ("c0ffee", "da7a", "7e3b", "1.2500", "0.5000", "0.7500", "18 tokens/s", "1.5 GiB", "axolotl 0.19.0"):
        assert text in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == planned.config


def test_revision_of_a_folder_is_its_weights(tmp_path: Path) -> None:
    assert base_revision("Qwen/Qwen3-8B", None) is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert base_revision(str(tmp_path), None) == file_hash(tmp_path / "model.safetensors")
