"""What checkpoints of a training play: which tasks, within which limits, and where there is room for a server."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_tokenizers import make_tokenizer
from made_traces import make_trace, write_traces

from keepstate import machine
from keepstate.bench import BenchmarkConfig, TaskSource, checkpoints
from keepstate.bench.checkpoints import Settings, _beside, _Writer, plan_evaluation
from keepstate.dataset import BuildOptions, build_datasets
from keepstate.errors import UserError
from keepstate.files import write_json
from keepstate.machine import Gpu
from keepstate.model_shape import KNOWN
from keepstate.play.tally import Tally
from keepstate.tasks import make_tasks, write_tasks
from keepstate.train import TrainingPlan, TrainingRequest, plan_training
from keepstate.train.axolotl_config import config_path
from keepstate.train.evaluation import Place
from keepstate.train.scores import read_scores
from keepstate.vocabulary import Origin, RuntimeName

CARDS = (Gpu("big", 80.0, "1", 0, "GPU-a"), Gpu("big", 80.0, "1", 1, "GPU-b"))
ARGUMENT = "gpu-memory-utilization="


@pytest.fixture
def planned(tmp_path: Path) -> TrainingPlan:
    """A training on six traces of two answers, the tasks `knapsack-t0` and so on."""
    model, traces, data = tmp_path / "model", tmp_path / "traces", tmp_path / "data"
    make_tokenizer("llama3", model)
    write_json(model / "config.json", {"max_position_embeddings": 900})
    write_traces(traces, [make_trace(number) for number in range(6)])
    runtime = RuntimeName.PERSISTENT
    options = BuildOptions(val_fraction=0)
    build_datasets({runtime: traces}, {runtime: data}, template=None, tokenizer_path=model, options=options)
    request = TrainingRequest(
        config_path(runtime, laptop=True), dataset=data, output=tmp_path / "out", base_model=model
    )
    return plan_training(request, machine=False)


def test_limits_are_those_that_the_training_data_shows(planned: TrainingPlan) -> None:
    found = plan_evaluation(planned, cell="mini:3", steps=None, share=0.2)
    settings = Settings.model_validate(found.settings)
    (config,) = settings.of_step(20, "http://127.0.0.1:1/v1")
    assert (config.name, config.adapter, config.runtime) == ("step-20-persistent-mini", "step-20", "persistent")
    assert config.limits.turns == 3, "one more than a row has"
    longest = max(json.loads(line)["trained_tokens"] for line in (planned.dataset / "index.jsonl").open())
    assert (config.sampling.max_tokens, config.sampling.temperature) == (longest, 0)
    assert config.context == settings.context == 900, "no more than the model holds"
    assert (found.episodes, found.cell) == (3, "3 tasks of mini in persistent")


def test_a_config_brings_its_own_and_a_number_counts(planned: TrainingPlan, tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", list(make_tasks("knapsack", "mini", 4, 7)))
    source = TaskSource(folder=Path("tasks"), count=4)
    config = BenchmarkConfig(name="held-out", adapter="base", runtime=RuntimeName.FORGET, tasks=source, context=512)
    (tmp_path / "cell.yaml").write_text(config.model_copy(update={"seed": 5}).written_in(Path()))
    for cell, episodes in ((f"{tmp_path / 'cell.yaml'}", 4), (f"{tmp_path / 'cell.yaml'}:2", 2)):
        found = plan_evaluation(planned, cell=cell, steps=None, share=0.2)
        settings = Settings.model_validate(found.settings)
        assert (settings.context, settings.configs[0].seed, settings.configs[0].limits.turns) == (512, 5, 40)
        assert settings.configs[0].runtime is RuntimeName.PERSISTENT, "that of the adapter"
        assert found.episodes == episodes
    assert plan_evaluation(planned, cell=str(tmp_path / "tasks"), steps=None, share=0.2).episodes == 4


@pytest.mark.parametrize("cell", ["./none", "mini:0", "no-such-difficulty"])
def test_what_is_no_cell_is_refused_before_the_training(planned: TrainingPlan, cell: str) -> None:
    with pytest.raises(UserError):
        plan_evaluation(planned, cell=cell, steps=None, share=0.2)


def test_tasks_of_the_training_data_are_named(planned: TrainingPlan, tmp_path: Path) -> None:
    tasks = list(make_tasks("knapsack", "mini", 2, 7))
    write_tasks(tmp_path / "tasks", [replace_id(tasks[0], "t3"), tasks[1]])
    remarks = plan_evaluation(planned, cell=str(tmp_path / "tasks"), steps=None, share=0.2).remarks
    assert "1 of its 2 tasks are called as tasks of the training data: knapsack-t3" in remarks


def replace_id(task: Any, name: str) -> Any:
    return task.model_copy(update={"task_id": name})


def test_the_server_goes_where_there_is_room(planned: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "read_shape", lambda _: KNOWN["qwen3-8b"])
    monkeypatch.setattr(machine, "visible_gpus", lambda: CARDS)
    monkeypatch.setattr(machine, "gpus", lambda: CARDS)
    on_gpu = replace(planned, gpus=CARDS[:1])
    free: dict[str, tuple[float, float]] = {"GPU-b": (8.0, 60.0), "GPU-a": (50.0, 8.0), "": (8.0, 8.0)}
    for uuid, there in free.items():
        monkeypatch.setattr(machine, "gpu_free_gib", lambda there=there: there)
        place = _beside(on_gpu, 4_096)
        if not uuid:
            assert place is None
            continue
        assert place
        assert place.environment["CUDA_VISIBLE_DEVICES"] == uuid
        assert place.pauses == (uuid == "GPU-a"), "on its own GPU the training stands still"
        share = float(place.arguments[0].removeprefix(ARGUMENT))
        assert share * 80 <= max(there) - 1


def test_memory_for_both_is_asked_for_on_the_cpu(planned: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "read_shape", lambda _: KNOWN["smollm2-135m"])
    for gib, place in ((16.0, Place(pauses=True)), (6.0, None)):
        monkeypatch.setattr(machine, "memory_gib", lambda gib=gib: gib)
        assert _beside(planned, 4_096) == place
    remarks = plan_evaluation(planned, cell="mini:1", steps=None, share=0.2).remarks
    assert any("no memory for a server" in remark for remark in remarks)


def test_a_model_that_memory_cannot_serve_ends_no_training(
    planned: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for weights and cache alone: `cpu_cache_gib` would refuse it."""
    monkeypatch.setattr(checkpoints, "read_shape", lambda _: KNOWN["qwen3-8b"])
    monkeypatch.setattr(machine, "memory_gib", lambda: 8.0)
    monkeypatch.setattr(machine, "require_disk", lambda *_: None)
    found = plan_evaluation(planned, cell="mini:3", steps=None, share=0.2)
    assert found.beside() is None
    assert any("the cell is played after it" in remark for remark in found.remarks)


def test_a_disk_without_room_for_checkpoints_is_refused(planned: TrainingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "read_shape", lambda _: KNOWN["qwen3-8b"])
    monkeypatch.setattr(machine, "free_disk_gib", lambda _: 0.5)
    with pytest.raises(UserError, match=r"played checkpoints needs 2\.7 GiB of disk, 0\.5 GiB are free"):
        plan_evaluation(planned, cell="mini:1", steps=None, share=0.2)


def test_scores_are_kept_and_an_episode_that_is_not_graded_is_in_none(planned: TrainingPlan, tmp_path: Path) -> None:
    settings = Settings.model_validate(plan_evaluation(planned, cell="mini:3", steps=None, share=0.2).settings)
    (tmp_path / "evals").mkdir()
    for step in (20, 40):
        tally = Tally("cell", tmp_path, 3)
        if step == 20:
            tally.played, tally.solved, tally.score = 2, 1, 1.5
            tally.failures[Origin.SANDBOX] += 1
        else:
            tally.failures[Origin.MODEL] += 3
        writer = _Writer(tmp_path, "three", settings.of_step(step, "http://127.0.0.1:1/v1"), 20.0)
        writer([tally])
    scores = read_scores(tmp_path)
    assert scores
    assert [(point.step, point.known, point.graded) for point in scores.points] == [(20, 0.75, 2), (40, None, 0)]
    assert scores.points[0].words() == "75.0 (1 of 2 solved, 1 not graded)"
    assert scores.points[1].words() == "unknown (3 of 3 not graded)"
    assert scores.start_seconds == 20.0
