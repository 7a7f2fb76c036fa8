"""What a new training may do with the folder of an earlier one: go on, be refused, or replace it when told to."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_data import write_dataset

from keepstate import machine
from keepstate.errors import UserError
from keepstate.files import TEMPORARY
from keepstate.resume import OtherWork
from keepstate.setup.environments import spec
from keepstate.train import TrainedAdapter, TrainingPlan, TrainingRequest, launch, plan_training, read_done, train
from keepstate.train.axolotl_config import WITHOUT_EFFECT, config_path, known_keys, read_axolotl_config
from keepstate.train.result import DONE, WEIGHTS, write_result
from keepstate.train.run_folder import (
    ARCHIVES,
    LAST_OF_CHECKPOINT,
    LAST_OF_PREPARED,
    LOG,
    OLDER_RUN,
    PROGRESS,
    RESOLVED,
    RUN,
    alone,
    checkpoints,
    finished,
    prepare,
)
from keepstate.vocabulary import Engines, RuntimeName

LAPTOP = config_path(RuntimeName.PERSISTENT, laptop=True)
Planner = Callable[..., TrainingPlan]


@pytest.fixture
def planner(dataset: Path, model: Path, tmp_path: Path) -> Planner:
    """Plans a training into `out`, with what is given changed."""

    def make(overrides: Mapping[str, Any] | None = None, **changed: Any) -> TrainingPlan:
        places = {"dataset": dataset, "base_model": model, "output": tmp_path / "out"}
        return plan_training(TrainingRequest(LAPTOP, overrides=overrides or {}, **places | changed))

    return make


def write_checkpoint(folder: Path) -> Path:
    """A checkpoint as the trainer writes it, with a tensor of four bytes."""
    folder.mkdir(parents=True)
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    for name in ARCHIVES:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("data.pkl", b"x" * 100)
    (folder / LAST_OF_CHECKPOINT).write_text("{}")
    return folder


def finish(planned: TrainingPlan, key: str | None = None) -> TrainedAdapter:
    """Write what a finished training leaves, less its checkpoints."""
    adapter = TrainedAdapter(
        key=key or planned.key,
        runtime=RuntimeName.PERSISTENT,
        base_model=str(planned.config["base_model"]),
        data_sha256="0",
        template_sha256="0",
        steps=4,
        first_loss=1.0,
        final_loss=0.5,
        seconds=1.0,
        tokens=36,
        peak_gib=0.0,
    )
    (planned.output / WEIGHTS).write_bytes(b"weights")
    write_result(planned.output, adapter, planned.config, planned.manifest)
    return adapter


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SAME: dict[str, dict[str, Any]] = {
    "profile": {"keepstate_profile": "memory"},
    "recomputing": {"gradient_checkpointing": True},
    "saving": {"save_steps": 3, "logging_steps": 2},
    "division of a step": {"micro_batch_size": 1, "gradient_accumulation_steps": 4},
    "as a whole number": {"num_epochs": 1.0},
}
OTHER: dict[str, dict[str, Any]] = {
    "learning_rate: 0.001 -> 0.5": {"learning_rate": 0.5},
    "lora_alpha: 32 -> 33": {"lora_alpha": 33},
    "num_epochs: 1 -> 2.5": {"num_epochs": 2.5},
    "rows_a_step: 4 -> 8": {"gradient_accumulation_steps": 4},
    "seed: 42 -> 1": {"seed": 1},
    "sequence_len: 4096 -> 100": {"sequence_len": 100},
}
TWO = {"micro_batch_size": 2, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize("change", SAME)
def test_what_computes_the_same_is_the_same_training(planner: Planner, change: str) -> None:
    planned, other = planner(TWO), planner(TWO | SAME[change])
    prepare(planned, {}, fresh=False)
    kept = write_checkpoint(planned.output / "checkpoint-5")
    assert finished(other) is None
    assert prepare(other, {}, fresh=False) == kept
    assert yaml.safe_load((planned.output / RESOLVED).read_text()).items() >= SAME[change].items()
    adapter = finish(planned)
    assert finished(other) == adapter
    assert other.key == planned.key


@pytest.mark.parametrize("words", OTHER)
@pytest.mark.parametrize("ended", [False, True])
def test_another_training_is_refused_by_name_and_loses_nothing(planner: Planner, words: str, ended: bool) -> None:
    planned = planner(TWO)
    prepare(planned, {}, fresh=False)
    write_checkpoint(planned.output / "checkpoint-5")
    if ended:
        finish(planned)
    before = files(planned.output)
    with pytest.raises(
        OtherWork, match=r"out holds (checkpoint-5|an adapter, finished after 4 steps,) of other options:"
    ) as caught:
        finished(planner(TWO | OTHER[words]))
    assert caught.value.message.splitlines()[1:] == [f"  {words}"]
    assert "--fresh" in caught.value.hint
    assert files(planned.output) == before


def test_the_same_data_and_model_elsewhere_are_the_same(planner: Planner, dataset: Path, model: Path) -> None:
    planned = planner()
    shutil.copytree(dataset, dataset.with_name("moved"))
    shutil.copytree(model, model.with_name("moved-model"))
    moved = planner(dataset=dataset.with_name("moved"), base_model=model.with_name("moved-model"))
    assert moved.decisive == planned.decisive
    assert planner(output=planned.output.with_name("elsewhere")).key == planned.key


def test_other_data_and_another_model_are_named(planner: Planner, model: Path, tmp_path: Path) -> None:
    prepare(planner(), {}, fresh=False)
    write_checkpoint(tmp_path / "out" / "checkpoint-5")
    with pytest.raises(OtherWork, match=r"data\.train: ") as caught:
        finished(planner(dataset=write_dataset(tmp_path / "other", [[("2 + 2", "4")]])))
    assert "data.val" not in caught.value.message  # the empty split is the same
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(OtherWork, match=r"base_model\.weights: None -> "):
        finished(planner())


def test_another_version_of_axolotl_makes_another_training(
    planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "home"))
    planned = planner()
    assert "axolotl" not in planned.decisive  # as it was written before there was a second one
    prepare(planned, {}, fresh=False)
    write_checkpoint(planned.output / "checkpoint-5")
    current = spec("train", Engines.CURRENT)
    current.folder.mkdir(parents=True)
    current.begin_stamp()
    with pytest.raises(OtherWork, match=rf"axolotl: None -> {current.release.version}"):
        finished(planner())


def test_a_finished_adapter_is_not_trained_again_and_what_makes_way_goes_whole(planner: Planner, dataset: Path) -> None:
    planned = planner()
    prepare(planned, {}, fresh=False)
    adapter = finish(planned)
    model, out = Path(planned.config["base_model"]), planned.output
    said: list[str] = []
    assert (
        train(TrainingRequest(LAPTOP, dataset=dataset, output=out, base_model=model), on_remark=said.append) == adapter
    )
    assert said[0].endswith("is trained already from this config and data: to repeat it, name another --out")
    assert (
        train(TrainingRequest(LAPTOP, dataset=dataset, output=out, base_model=model), fresh=True, on_remark=said.append)
        == adapter
    )
    assert said[1] == said[0], "of a demo, which always replaces, nobody gave --fresh"
    write_checkpoint(out / "checkpoint-5")
    (out / PROGRESS).write_text('{"step": 5}\n')
    (out / LOG).touch()
    (out / "notes.txt").write_text("mine")
    assert prepare(planned, {}, fresh=True) is None
    assert not checkpoints(out)
    assert read_done(out) is None
    assert not any((out / name).exists() for name in (WEIGHTS, DONE, PROGRESS, LOG))
    assert (out / "notes.txt").read_text() == "mine"


def test_whoever_may_read_the_adapters_card_may_serve_it(planner: Planner) -> None:
    planned = planner()
    prepare(planned, {}, fresh=False)
    (planned.output / WEIGHTS).touch(0o600)  # as safetensors leaves it
    finish(planned)
    assert (planned.output / WEIGHTS).stat().st_mode == (planned.output / DONE).stat().st_mode


def test_what_is_finished_is_so_on_a_machine_that_could_not_train_it(
    planner: Planner, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    config = tmp_path / "gpu.yaml"
    config.write_text(yaml.safe_dump(read_axolotl_config(LAPTOP) | {"adapter": "qlora"}))
    base = Path(planner().config["base_model"])
    places: dict[str, Any] = {"dataset": dataset, "base_model": base, "output": tmp_path / "out"}
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        train(TrainingRequest(config, **places))
    assert not (tmp_path / "out").exists()
    planned = plan_training(TrainingRequest(config, **places), machine=False)
    prepare(planned, {}, fresh=False)
    adapter = finish(planned)
    assert train(TrainingRequest(config, **places)) == adapter
    assert train(TrainingRequest(config, **places), fresh=True) == adapter, (
        "the same training goes on, or is done, all the same"
    )
    with pytest.raises(OtherWork, match="seed: 42 -> 1"):
        train(TrainingRequest(config, overrides={"seed": 1}, **places))
    before = files(tmp_path / "out")
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        train(TrainingRequest(config, overrides={"seed": 1}, **places), fresh=True)
    assert files(tmp_path / "out") == before, "what cannot be trained here replaces nothing"


@pytest.mark.parametrize(("seed", "replaces"), [(42, False), (1, True)])
def test_fresh_replaces_another_training_and_goes_on_with_the_same(
    seed: int, replaces: bool, planner: Planner, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planner()
    prepare(planned, {}, fresh=False)
    write_checkpoint(planned.output / "checkpoint-5")
    begun: list[bool] = []
    said: list[str] = []
    monkeypatch.setattr(launch, "_train", lambda *_, fresh: begun.append(fresh))
    places = {"dataset": dataset, "base_model": Path(planned.config["base_model"]), "output": planned.output}
    train(TrainingRequest(LAPTOP, overrides={"seed": seed}, **places), fresh=True, on_remark=said.append)
    assert begun == [replaces]
    assert [("seed: 42 -> 1" in text, "makes way" in text) for text in said] == [(True, True)] * replaces


def test_nothing_is_refused_where_nothing_could_be_lost(planner: Planner) -> None:
    planned = planner()
    prepare(planned, {}, fresh=False)
    (planned.output / "checkpoint-5").mkdir()  # cut while it was saved
    assert finished(planner({"seed": 1})) is None


def test_a_finished_adapter_of_an_unknown_kind_is_kept(planner: Planner) -> None:
    planned = planner()
    prepare(planned, {}, fresh=False)
    finish(planned)
    (planned.output / DONE).write_text('{"schema": "of the future"}')
    with pytest.raises(OtherWork, match=r"keepstate-adapter\.json cannot be read"):
        finished(planned)
    (planned.output / DONE).unlink()
    (planned.output / RUN).write_text("{")
    with pytest.raises(OtherWork, match="nobody knows"):
        finished(planned)


@pytest.mark.parametrize("name", [LAST_OF_CHECKPOINT, WEIGHTS, *ARCHIVES])
@pytest.mark.parametrize("kept_bytes", [None, 0, 1, -1])
def test_the_last_whole_checkpoint_is_gone_on_from(planner: Planner, name: str, kept_bytes: int | None) -> None:
    planned = planner()
    assert prepare(planned, {}, fresh=False) is None
    out = planned.output
    whole = [write_checkpoint(out / f"checkpoint-{step}") for step in (5, 10)]
    cut = write_checkpoint(out / "checkpoint-100") / name
    (cut.write_bytes(cut.read_bytes()[:kept_bytes])) if kept_bytes is not None else cut.unlink()
    (out / PROGRESS).write_text('{"step": 10}\n{"st')
    assert checkpoints(out) == whole
    assert prepare(planned, {}, fresh=False) == whole[1]
    assert yaml.safe_load((out / RESOLVED).read_text())["resume_from_checkpoint"] == str(whole[1])
    assert not cut.parent.exists()
    assert (out / PROGRESS).read_text() == '{"step": 10}\n'


def test_data_whose_preparation_was_cut_is_prepared_anew(planner: Planner) -> None:
    """Axolotl fails on it, at every repetition."""
    planned = planner()
    cut, whole = (Path(planned.config["dataset_prepared_path"]) / name for name in ("cut", "whole"))
    for folder in (cut, whole):
        folder.mkdir(parents=True)
        (folder / "data-00000-of-00001.arrow").touch()
    (whole / LAST_OF_PREPARED).touch()
    prepare(planned, {}, fresh=False)
    assert (cut.exists(), whole.exists()) == (False, True)


def test_a_record_as_it_was_written_until_november_2026_still_counts(planner: Planner) -> None:
    planned = planner()
    kept = write_checkpoint(planned.output / "checkpoint-5")
    older = {"schema": "keepstate.run.v1", "digest": "of an older layout", "decisive": planned.decisive}
    (planned.output / RUN).write_text(json.dumps(older, indent=2))
    assert finished(planned) is None
    assert prepare(planned, {}, fresh=False) == kept
    assert json.loads((planned.output / RUN).read_text()) == older | {"digest": planned.key}


def test_what_the_first_version_wrote_still_counts(planner: Planner) -> None:
    planned = planner()
    out = planned.output
    out.mkdir()
    kept = write_checkpoint(out / "checkpoint-5")
    (out / OLDER_RUN).write_text(planned.older_key + "\n")
    with pytest.raises(OtherWork, match="not written down"):
        finished(planner({"seed": 1}))
    assert finished(planned) is None
    assert prepare(planned, {}, fresh=False) == kept
    assert not (out / OLDER_RUN).exists()
    (out / RUN).unlink()
    adapter = finish(planned, planned.older_key)
    assert finished(planned) == adapter
    with pytest.raises(OtherWork, match="not written down"):
        finished(planner({"seed": 1}))


def test_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="no keepstate training made"), alone(tmp_path):
        pass
    assert list(files(tmp_path)) == ["thesis.tex"]


def test_a_folder_of_a_run_that_was_killed_at_its_first_file_is_ours(planner: Planner) -> None:
    out = planner().output
    out.mkdir()
    (out / f".{RUN}{TEMPORARY}").write_text("{")
    with alone(out):
        prepare(planner(), {}, fresh=False)
    assert not (out / f".{RUN}{TEMPORARY}").exists()


def test_of_two_trainings_in_one_folder_the_second_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from keepstate.train.run_folder import alone\n"
        "with alone(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    out = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", code, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(UserError, match="another keepstate is training into"), alone(out):
            pass
        first.kill()
    with alone(out):  # however the first ended
        pass


@pytest.mark.parametrize("engines", Engines)
def test_every_key_without_effect_is_axolotls(engines: Engines) -> None:
    assert known_keys(spec("train", engines).release.version) >= WITHOUT_EFFECT


@pytest.mark.parametrize("fresh", [False, True])
def test_what_the_trainer_does_not_call_a_checkpoint_is_its_owners(planner: Planner, *, fresh: bool) -> None:
    planned = planner()
    prepare(planned, {}, fresh=False)
    write_checkpoint(planned.output / "checkpoint-5")
    mine = [planned.output / name for name in ("checkpoint-best", "checkpoint-5-copy/x", "checkpoint-7/x", "notes")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    prepare(planned, {}, fresh=fresh)
    assert [path.exists() for path in mine] == [True, True, False, True]
    assert (planned.output / "checkpoint-5").exists() is not fresh
