"""What is refused and what is told before a training starts."""

import shutil
from pathlib import Path

import pytest

from keepstate import machine
from keepstate.datasets.manifest import Certificate
from keepstate.errors import UserError
from keepstate.machine import Gpu
from keepstate.training import plan
from keepstate.training.config import config_path, read_config
from keepstate.training.estimate import memory_gib, time_words
from keepstate.training.preflight import about_cpu_memory, check_machine
from keepstate.vocabulary import RuntimeName

LAPTOP = config_path(RuntimeName.PERSISTENT, laptop=True)
A100 = config_path(RuntimeName.PERSISTENT, laptop=False)


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


def test_gpu_that_others_hold_is_refused_and_the_freest_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("big", 80.0, "1"), Gpu("big", 80.0, "1")))
    monkeypatch.setattr(machine, "gpu_free_gib", lambda: (10.0, 79.0))
    chosen = check_machine(read_config(A100), tmp_path)
    assert chosen is not None
    assert chosen.number == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="10 of the 80 GiB of big are free") as caught:
        check_machine(read_config(A100), tmp_path)
    assert "nvidia-smi" in caught.value.hint


def test_memory_of_the_longest_row_on_a_laptop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = read_config(LAPTOP)
    monkeypatch.setattr(machine, "memory_gib", lambda: 8.0)
    assert about_cpu_memory(config, 1_500) == []
    (remark,) = about_cpu_memory(config, 9_000)  # dropped by the context of 4,096
    assert "about 12 GiB" in remark
    assert "--max-seq-length 2048" in remark
    monkeypatch.setattr(machine, "memory_gib", lambda: 3.0)
    with pytest.raises(UserError, match=r"takes 3\.4 GiB"):
        check_machine(config, tmp_path)


def test_small_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2**29))
    with pytest.raises(UserError, match=r"0\.5 GiB of disk are free"):
        check_machine(read_config(LAPTOP), tmp_path)


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("NVIDIA H100 80GB HBM3", "measured on an H100"),
        ("NVIDIA A100-SXM4-80GB", "estimated for an A100"),
        ("Other", "was not measured"),
    ],
)
def test_time_is_told_with_its_grounds(gpu: str, words: str) -> None:
    assert words in time_words(read_config(A100), 1_000_000, gpu)
    assert "3,000,000 tokens" in time_words(read_config(A100), 1_000_000, gpu)


def test_uncertified_data_is_remarked_and_a_wrong_certificate_refused(dataset: Path, model: Path) -> None:
    planned = plan(LAPTOP, dataset=dataset, base_model=model)
    assert any("not certified" in remark for remark in planned.remarks)
    proof = {"rows": 4, "turns": 4, "tokens": 36, "trained_tokens": 4, "axolotl": "0", "server": None, "checked_at": ""}
    hashes = {name: split.sha256 for name, split in planned.manifest.splits.items()}
    for data, good in ((hashes, True), (hashes | {"train": "0"}, False)):
        certificate = Certificate(data_sha256=data, **proof)
        planned.manifest.model_copy(update={"certificate": certificate}).write(dataset)
        if good:
            assert not any("certified" in remark for remark in plan(LAPTOP, dataset=dataset, base_model=model).remarks)
        else:
            with pytest.raises(UserError, match="certificate is for other data"):
                plan(LAPTOP, dataset=dataset, base_model=model)


def test_model_of_the_hub_is_announced_until_it_is_cached(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    planned = plan(LAPTOP, dataset=dataset, base_model="Qwen/Qwen3-8B")
    assert not planned.offline
    assert any("fetched" in remark for remark in planned.remarks)
    snapshot = tmp_path / "models--Qwen--Qwen3-8B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    assert not any("fetched" in remark for remark in plan(LAPTOP, dataset=dataset, base_model="Qwen/Qwen3-8B").remarks)


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


@pytest.mark.parametrize(("flags", "bf16"), [({"avx2"}, False), ({"avx2", "avx512_bf16"}, True), (set(), True)])
def test_processor_without_bf16_trains_in_float32(
    dataset: Path, model: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], bf16: bool
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags))
    planned = plan(LAPTOP, dataset=dataset, base_model=model)
    assert planned.config["bf16"] is bf16
    assert any("float32" in remark for remark in planned.remarks) is not bf16
    given = plan(LAPTOP, dataset=dataset, base_model=model, overrides={"bf16": True})
    assert given.config["bf16"] is True
