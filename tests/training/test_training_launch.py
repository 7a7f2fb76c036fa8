"""What a training is started with, what it leaves, and when it is not repeated."""

from pathlib import Path

import pytest
import yaml

from keepstate.errors import UserError
from keepstate.files import file_hash
from keepstate.training import TrainedAdapter, plan, train
from keepstate.training.config import config_path, known_keys, read_config
from keepstate.training.launch import _failure
from keepstate.training.result import WEIGHTS, base_revision, model_card, read_done, write_result
from keepstate.training.run_folder import LOG, PROGRESS, RESOLVED, prepare
from keepstate.training.tracking import check_tracker, config_keys, environment
from keepstate.vocabulary import RuntimeName, Tracker

LAPTOP = config_path(RuntimeName.PERSISTENT, laptop=True)
A100 = config_path(RuntimeName.PERSISTENT, laptop=False)


def test_out_of_memory_names_the_flag(dataset: Path, model: Path, tmp_path: Path) -> None:
    planned = plan(LAPTOP, dataset=dataset, output=tmp_path / "out", base_model=model)
    planned.output.mkdir()
    (planned.output / LOG).write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    assert "--max-seq-length 2048" in _failure(planned, 1).hint
    planned.config["keepstate_profile"] = "speed"
    assert "--profile memory" in _failure(planned, 1).hint
    planned.config.update(keepstate_profile="memory", micro_batch_size=2, gradient_accumulation_steps=8)
    assert "--batch-size 1 --grad-accum 16" in _failure(planned, 1).hint
    (planned.output / LOG).write_text("ValueError: x\n")
    assert "killed" in _failure(planned, 137).message
    assert "ValueError: x" in _failure(planned, 1).message


def test_resolved_config_is_absolute_and_keeps_what_was_not_given(dataset: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = plan(LAPTOP, dataset=dataset, output=out, base_model=model, overrides={"seed": 7, "learning_rate": None})
    raw = read_config(LAPTOP)
    assert planned.config["seed"] == 7
    assert planned.config["learning_rate"] == raw["learning_rate"]
    assert planned.config["datasets"][0]["path"] == str(dataset / "train.jsonl")
    assert planned.config["dataset_prepared_path"].startswith(str(out))
    assert planned.offline
    changed = {key for key in raw if planned.config.get(key) != raw[key]}
    moved = {"base_model", "datasets", "chat_template_jinja", "output_dir", "dataset_prepared_path", "seed"}
    assert changed == moved


def test_finished_adapter_is_not_trained_again(dataset: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = plan(LAPTOP, dataset=dataset, output=out, base_model=model)
    adapter = TrainedAdapter(
        key=planned.key,
        runtime=RuntimeName.PERSISTENT,
        base_model=str(model),
        data_sha256="0",
        template_sha256="0",
        steps=4,
        first_loss=1.0,
        final_loss=0.5,
        seconds=1.0,
        tokens=36,
        peak_gib=0.0,
    )
    write_result(out, adapter, planned.config, planned.manifest)
    assert read_done(out) is None  # no weights
    (out / WEIGHTS).write_bytes(b"")
    said: list[str] = []
    assert train(LAPTOP, dataset=dataset, output=out, base_model=model, on_remark=said.append) == adapter
    assert "trained already" in said[0]
    other = plan(LAPTOP, dataset=dataset, output=out, base_model=model, overrides={"seed": 1})
    assert other.key != adapter.key


def test_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(UserError, match="no keepstate training made"):
        prepare(out, {}, "key", resume=False)
    assert (out / "thesis.tex").exists()


def test_only_whole_checkpoints_of_the_same_key_are_gone_on_from(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(out, {"seed": 1}, "key", resume=True) is None
    for step in (5, 10, 15):
        (out / f"checkpoint-{step}").mkdir()
    (out / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (out / "checkpoint-10" / "trainer_state.json").write_text("{}")
    (out / "checkpoint-15" / "trainer_state.json").write_text('{"cut')
    (out / PROGRESS).write_text('{"step": 10}\n{"st')
    assert prepare(out, {"seed": 1}, "key", resume=True) == out / "checkpoint-10"
    assert yaml.safe_load((out / RESOLVED).read_text())["resume_from_checkpoint"] == str(out / "checkpoint-10")
    assert not (out / "checkpoint-15").exists()
    assert (out / PROGRESS).read_text() == '{"step": 10}\n'
    assert prepare(out, {"seed": 2}, "other key", resume=True) is None
    assert not list(out.glob("checkpoint-*"))
    assert not (out / PROGRESS).exists()


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
    known = known_keys()
    for tracker in Tracker:
        keys = config_keys(tracker, "run")
        assert set(keys) <= known
        assert bool(keys) == (tracker in (Tracker.WANDB, Tracker.MLFLOW))
    local = environment(Tracker.TRACKIO, tmp_path / "out" / "adapter", "run")
    assert local == {"KEEPSTATE_TRACK": "run", "TRACKIO_DIR": str(tmp_path / "out" / "tracking")}
    assert not environment(Tracker.NONE, tmp_path, "run")


def test_model_card_tells_all_that_made_the_adapter(dataset: Path, model: Path) -> None:
    planned = plan(LAPTOP, dataset=dataset, base_model=model)
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
    for text in ("c0ffee", "da7a", "7e3b", "1.2500", "0.5000", "0.7500", "18 tokens/s", "1.5 GiB", "axolotl 0.19.0"):
        assert text in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == planned.config


def test_revision_of_a_folder_is_its_weights(tmp_path: Path) -> None:
    assert base_revision("Qwen/Qwen3-8B", None) is None
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert base_revision(str(tmp_path), None) == file_hash(tmp_path / "model.safetensors")
