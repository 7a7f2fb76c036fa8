"""What is refused before a training, how it is followed, and when it is not repeated."""

import json
from pathlib import Path

import pytest

from keepstate import machine
from keepstate.datasets import load_template
from keepstate.datasets.manifest import TEMPLATE, Manifest, Source, SplitCount
from keepstate.errors import UserError
from keepstate.files import file_hash
from keepstate.machine import Gpu
from keepstate.training import TrainedAdapter, plan, train
from keepstate.training.config import config_path, read_config
from keepstate.training.estimate import memory_gib
from keepstate.training.preflight import check_machine
from keepstate.training.progress import Follower
from keepstate.training.result import WEIGHTS, read_done, write_result
from keepstate.training.run_folder import prepare
from keepstate.vocabulary import RuntimeName

LAPTOP = config_path(RuntimeName.PERSISTENT, laptop=True)
A100 = config_path(RuntimeName.PERSISTENT, laptop=False)
ROW = {"conversations": [{"from": "human", "value": "1 + 1"}, {"from": "gpt", "value": "2"}]}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    template = load_template("chatml")
    (folder / TEMPLATE).write_text(template.text)
    splits = {}
    for name, rows in (("train", 4), ("val", 0)):
        path = folder / f"{name}.jsonl"
        path.write_text((json.dumps(ROW) + "\n") * rows)
        splits[name] = SplitCount(
            rows=rows, tasks=rows, turns=rows, tokens=9 * rows, trained_tokens=rows, longest=9, sha256=file_hash(path)
        )
    Manifest(
        keepstate="0",
        runtime=RuntimeName.PERSISTENT,
        template=Source(name="chatml", sha256=template.sha256),
        tokenizer=Source(name="none", sha256="0"),
        options={},
        read=4,
        splits=splits,
        left_out={},
        shortened={},
    ).write(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_no_gpu_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        check_machine(read_config(A100), tmp_path)
    check_machine(read_config(LAPTOP), tmp_path)


def test_small_gpu_gets_the_flag_that_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("small", 12.0, "1"),))
    config = read_config(A100) | {"keepstate_profile": "memory"}
    with pytest.raises(UserError, match="12 GiB") as caught:
        check_machine(config, tmp_path)
    assert "--max-seq-length 8192" in caught.value.hint
    assert memory_gib(config) == pytest.approx(16.1, abs=0.1)


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


@pytest.mark.parametrize(
    ("broken", "message"),
    [("train.jsonl", "not the file"), ("manifest.json", "no data set"), ("chat_template.jinja", "chat template")],
)
def test_data_that_changed_is_refused(dataset: Path, model: Path, broken: str, message: str) -> None:
    (dataset / broken).write_text("{}")
    with pytest.raises(UserError, match=message):
        plan(LAPTOP, dataset=dataset, base_model=model)


def test_missing_model_is_named(dataset: Path) -> None:
    with pytest.raises(UserError, match="models/none"):
        plan(LAPTOP, dataset=dataset, base_model="models/none")


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


def test_follower_reads_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    follower = Follower(path)
    assert follower.look() is None
    begin = {"event": "begin", "step": 10, "steps": 20, "seconds": 0}
    log = {"event": "log", "step": 12, "steps": 20, "seconds": 4.0, "loss": 0.5, "tokens/total": 800}
    path.write_text(json.dumps(begin) + "\n" + json.dumps(log)[:20])
    state = follower.look()
    assert state is not None
    assert (state.step, state.loss) == (10, None)
    path.write_text(json.dumps(begin) + "\n" + json.dumps(log) + "\n")
    state = follower.look()
    assert state is not None
    assert (state.step, state.tokens_per_second, state.eta_seconds) == (12, 200.0, 16.0)
    end = {"event": "end", "step": 20, "steps": 20, "seconds": 20.0, "peak_bytes": 0}
    with path.open("a") as file:
        file.write(json.dumps(end) + "\n")
    follower.look()
    assert follower.finished
