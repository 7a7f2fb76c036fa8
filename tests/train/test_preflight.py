"""What is refused and what is told before a training starts."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from made_data import write_dataset
from tokenizers import Tokenizer, models, pre_tokenizers

from keepstate import machine
from keepstate.dataset.manifest import Certificate, Source, read_manifest
from keepstate.errors import UserError
from keepstate.files import file_hash
from keepstate.machine import Gpu
from keepstate.setup import qwen3
from keepstate.train import TrainingRequest, plan_training, preflight
from keepstate.train.axolotl_config import config_path, read_axolotl_config
from keepstate.train.estimate import estimate
from keepstate.train.launch import _environment
from keepstate.train.preflight import about_cpu_memory, check_machine
from keepstate.train.progress import TrainingProgress
from keepstate.train.sizes import LAPTOP as SMOLLM2
from keepstate.train.sizes import REFERENCE
from keepstate.vocabulary import RuntimeName

LAPTOP = config_path(RuntimeName.PERSISTENT, laptop=True)
A100 = config_path(RuntimeName.PERSISTENT, laptop=False)
TWO = (Gpu("big", 80.0, "1", 0, "GPU-a"), Gpu("big", 80.0, "1", 1, "GPU-b"))


def test_no_gpu_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        check_machine(read_axolotl_config(A100), tmp_path)
    check_machine(read_axolotl_config(LAPTOP), tmp_path)


def test_small_gpu_gets_the_flag_that_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (Gpu("small", 11.0, "1"),))
    config = read_axolotl_config(A100) | {"keepstate_profile": "memory"}
    with pytest.raises(UserError, match="11 GiB") as caught:
        check_machine(config, tmp_path)
    assert "--max-seq-length 8192" in caught.value.hint  # 16,384 would take 11.7 GiB


def test_gpu_that_others_hold_is_refused_and_the_freest_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "gpus", lambda: TWO)
    monkeypatch.setattr(machine, "gpu_free_gib", lambda: (10.0, 79.0))
    assert check_machine(read_axolotl_config(A100), tmp_path) == (TWO[1],)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="10 of the 80 GiB of GPU 0, big, are free") as caught:
        check_machine(read_axolotl_config(A100), tmp_path)
    assert "nvidia-smi" in caught.value.hint


@pytest.mark.parametrize("named", ["1", "GPU-b", "GPU-b,GPU-a"])
def test_axolotl_sees_the_one_gpu_that_was_checked(
    dataset: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
) -> None:
    """With several in sight the trainer would split rows over them."""
    monkeypatch.setattr(machine, "gpus", lambda: TWO)
    monkeypatch.setattr(machine, "gpu_free_gib", lambda: (79.0, 70.0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    config = tmp_path / "gpu.yaml"
    config.write_text(yaml.safe_dump(read_axolotl_config(LAPTOP) | {"adapter": "qlora"}))
    monkeypatch.setattr(preflight, "UNKNOWN_DISK_GIB", 0)
    planned = plan_training(TrainingRequest(config, dataset=dataset, output=tmp_path / "out", base_model=model))
    environment = _environment(planned)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert any("GPU 1 of 2: big" in remark for remark in planned.remarks)


@pytest.mark.parametrize("named", ["", "-1", "7", "GPU-c"])
def test_gpus_that_are_hidden_are_not_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    with pytest.raises(UserError, match=f"CUDA_VISIBLE_DEVICES='{named}' leaves none of the 2") as caught:
        check_machine(read_axolotl_config(A100), tmp_path)
    assert "unset CUDA_VISIBLE_DEVICES" in caught.value.hint


def test_a_number_that_cuda_may_count_otherwise_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: (TWO[0], replace(TWO[1], name="small")))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert "as nvidia-smi counts" in preflight.about_gpus(machine.visible_gpus())[0]
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert "as nvidia-smi counts" not in preflight.about_gpus(machine.visible_gpus())[0]


def test_memory_of_the_longest_row_on_a_laptop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = read_axolotl_config(LAPTOP)
    monkeypatch.setattr(machine, "memory_gib", lambda: 8.0)
    assert about_cpu_memory(config, 1_500) == []
    (remark,) = about_cpu_memory(config, 9_000)  # dropped by the context of 4,096
    assert "about 12 GiB" in remark
    assert "--max-seq-length 2048" in remark
    monkeypatch.setattr(machine, "memory_gib", lambda: 3.0)
    with pytest.raises(UserError, match=r"takes 3\.3 GiB"):
        check_machine(config, tmp_path)


def test_small_disk_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 2**29))
    with pytest.raises(UserError, match=r"of disk, 0\.5 GiB are free in"):
        check_machine(read_axolotl_config(LAPTOP), tmp_path)


@pytest.mark.parametrize("closed", ["/proc/adapters/one", "/sys/one"])
def test_a_closed_folder_is_called_closed_not_full(closed: str) -> None:
    with pytest.raises(UserError, match=f"into {closed}, which cannot be written: ") as refused:
        check_machine(read_axolotl_config(LAPTOP), Path(closed))
    assert "--out" in str(refused.value.hint)
    assert "free" not in refused.value.message


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ("NVIDIA H100 80GB HBM3", "measured on an H100"),
        ("NVIDIA A100-SXM4-80GB", "estimated for an A100"),
        ("Other", "was not measured"),
    ],
)
def test_time_is_told_with_its_grounds(gpu: str, words: str) -> None:
    said = estimate(read_axolotl_config(A100), 1_000_000, [gpu], REFERENCE).words()
    assert words in said
    assert "3,000,000 tokens" in said


def test_what_is_assumed_is_told_and_what_the_first_steps_take_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assumed = estimate(read_axolotl_config(LAPTOP), 39_000, [], SMOLLM2)
    assert "about 58 s to 3 min if this machine makes 195 to 675 tokens/s (measured with avx512_bf16 on two idle" in (
        assumed.words()
    )
    state = TrainingProgress(4, 60, 1.0, 30.0, None, 1120.0, mean_tokens_per_second=33.0, timed_steps=3)
    said = assumed.against(state)
    assert said == "measured over 3 steps: 33 tokens/s, about 19 min left; 195 to 675 tokens/s were assumed"
    assert "assumed" not in assumed.against(replace(state, mean_tokens_per_second=300.0))
    monkeypatch.setattr(machine, "cpu_flags", frozenset)
    unknown = estimate(read_axolotl_config(LAPTOP), 39_000, [], SMOLLM2)
    assert "the first steps will tell" in unknown.words()
    assert "33 tokens/s" in unknown.against(state)
    assert estimate({"max_steps": 3}, 39_000, [], None).tokens == 39_000  # Axolotl's own num_epochs


def test_uncertified_data_is_remarked_and_a_wrong_certificate_refused(dataset: Path, model: Path) -> None:
    planned = plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model))
    assert any("not certified" in remark for remark in planned.remarks)
    proof = {"rows": 4, "turns": 4, "tokens": 36, "trained_tokens": 4, "axolotl": "0", "server": None, "checked_at": ""}
    hashes = {name: split.sha256 for name, split in planned.manifest.splits.items()}
    for data, good in ((hashes, True), (hashes | {"train": "0"}, False)):
        certificate = Certificate(data_sha256=data, **proof)
        planned.manifest.model_copy(update={"certificate": certificate}).write(dataset)
        if good:
            assert not any(
                "data is not certified" in remark
                for remark in plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model)).remarks
            )
        else:
            with pytest.raises(UserError, match="certificate is for other data"):
                plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model))


def test_model_of_the_hub_is_announced_until_it_is_cached(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    name = "HuggingFaceTB/SmolLM2-360M-Instruct"
    planned = plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=name))
    assert not planned.offline
    assert any("fetched from the model hub first (0.7 GiB)" in remark for remark in planned.remarks)
    snapshot = tmp_path / "models--HuggingFaceTB--SmolLM2-360M-Instruct" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert not any(
        "fetched" in remark
        for remark in plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=name)).remarks
    )


@pytest.mark.parametrize(
    ("broken", "message"),
    [("train.jsonl", "not the file"), ("manifest.json", "no data set"), ("chat_template.jinja", "chat template")],
)
def test_data_that_changed_is_refused(dataset: Path, model: Path, broken: str, message: str) -> None:
    (dataset / broken).write_text("{}")
    with pytest.raises(UserError, match=message):
        plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model))


def test_missing_model_is_named(dataset: Path) -> None:
    with pytest.raises(UserError, match="models/none"):
        plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model="models/none"))


@pytest.mark.parametrize(("flags", "bf16"), [({"avx2"}, False), ({"avx2", "avx512_bf16"}, True), (set(), True)])
def test_processor_without_bf16_trains_in_float32(
    dataset: Path, model: Path, monkeypatch: pytest.MonkeyPatch, flags: set[str], bf16: bool
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags))
    planned = plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model))
    assert planned.config["bf16"] is bf16
    assert any("float32" in remark for remark in planned.remarks) is not bf16
    given = plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model, overrides={"bf16": True}))
    assert given.config["bf16"] is True


def test_data_of_another_runtime_is_refused(dataset: Path, model: Path, tmp_path: Path) -> None:
    places = {"dataset": dataset, "base_model": model, "output": tmp_path / "out"}
    assert plan_training(TrainingRequest(LAPTOP, runtime="persistent", **places)).name == "persistent"
    with pytest.raises(UserError, match="built for the runtime persistent, this training is of forget") as caught:
        plan_training(TrainingRequest(LAPTOP, runtime=RuntimeName.FORGET, **places))
    assert "with persistent instead of forget" in caught.value.hint
    assert "keepstate dataset build --runtime forget" in caught.value.hint


def test_a_folder_named_after_another_runtime_is_not_taken_unasked(dataset: Path, model: Path, tmp_path: Path) -> None:
    react = config_path(RuntimeName.REACT, laptop=True)
    with pytest.raises(UserError, match=r"is for react .*this training is of persistent") as caught:
        plan_training(TrainingRequest(react, dataset=dataset, base_model=model, runtime=RuntimeName.PERSISTENT))
    assert "--out" in caught.value.hint
    plan_training(
        TrainingRequest(
            react, dataset=dataset, base_model=model, runtime=RuntimeName.PERSISTENT, output=tmp_path / "mine"
        )
    )


def words_of(*words: str) -> str:
    """A tokenizer of whole words."""
    vocabulary = {word: number for number, word in enumerate(["?", "<|im_start|>", "<|im_end|>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer.to_str()


def test_data_proven_with_a_tokenizer_of_other_tokens_is_refused(dataset: Path, model: Path, tmp_path: Path) -> None:
    proven = tmp_path / "tokenizer.json"
    proven.write_text(words_of("1", "2", "+"))
    source = Source(name=str(proven), sha256=file_hash(proven))
    read_manifest(dataset).model_copy(update={"tokenizer": source}).write(dataset)
    (model / "tokenizer.json").write_text(words_of("1", "2", "+", "never seen"))
    assert not any(
        "tokenizer" in remark
        for remark in plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model)).remarks
    )
    (model / "tokenizer.json").write_text(words_of("2", "1", "+"))
    with pytest.raises(UserError, match="makes other tokens") as caught:
        plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model))
    assert str(proven) in caught.value.message
    assert f"keepstate dataset build --runtime persistent --tokenizer {model} --template chatml" in caught.value.hint
    proven.unlink()
    assert any(
        "to be sure" in remark
        for remark in plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=model)).remarks
    )


def test_data_proven_with_another_tokenizer_than_qwen3s_is_refused_although_the_model_is_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path))
    dataset = write_dataset(tmp_path / "qwen3", [[("1 + 1", "2")]] * 4, template="qwen3_nothink")
    for name in ("Qwen/Qwen3-8B", "qwen/qwen3-0.6b"):
        fetched = plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model=name), machine=False)
        assert f"keepstate dataset check {dataset} --tokenizer qwen3" in fetched.remarks[-1]
    other = write_dataset(tmp_path / "other", [[("1 + 1", "2")]] * 4)
    assert (
        "tokenizer"
        not in plan_training(TrainingRequest(LAPTOP, dataset=other, base_model="another/model"), machine=False).remarks[
            -1
        ]
    )
    proven, own = tmp_path / "tokenizer.json", qwen3.folder() / "tokenizer.json"
    own.parent.mkdir(parents=True)
    proven.write_text(words_of("1", "2", "+"))
    own.write_text(words_of("2", "1", "+"))
    source = Source(name=str(proven), sha256=file_hash(proven))
    read_manifest(dataset).model_copy(update={"tokenizer": source}).write(dataset)
    with pytest.raises(UserError, match="makes other tokens") as caught:
        plan_training(TrainingRequest(LAPTOP, dataset=dataset, base_model="Qwen/Qwen3-8B"), machine=False)
    assert "--tokenizer qwen3 --template qwen3_nothink" in caught.value.hint
    with pytest.raises(UserError, match="the config names qwen3_nothink") as caught:
        plan_training(TrainingRequest(config_path(RuntimeName.PERSISTENT, laptop=False), dataset=other), machine=False)
    assert "--tokenizer qwen3 --template qwen3_nothink" in caught.value.hint
    with pytest.raises(UserError, match="needs llama3") as caught:
        plan_training(TrainingRequest(LAPTOP, dataset=other, base_model="meta-llama/Llama-3.2-1B"), machine=False)
    expected = "--tokenizer FOLDER --template llama3, where FOLDER holds the tokenizer of meta-llama/Llama-3.2-1B"
    assert caught.value.hint.endswith(expected), "no tokenizer that is at hand makes this model's tokens"


def test_several_gpus_are_all_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "gpus", lambda: TWO)
    monkeypatch.setattr(machine, "gpu_free_gib", lambda: (70.0, 79.0))
    assert check_machine(read_axolotl_config(A100), tmp_path, 2) == (TWO[1], TWO[0])
    assert "training on GPU 1, 0 of 2" in preflight.about_gpus((TWO[1], TWO[0]))[0]
    with pytest.raises(UserError, match="--gpus 3: this machine has 2") as caught:
        check_machine(read_axolotl_config(A100), tmp_path, 3)
    assert caught.value.hint == "--gpus 2, or fewer"
    monkeypatch.setattr(machine, "gpu_free_gib", lambda: (10.0, 79.0))
    with pytest.raises(UserError, match="10 of the 80 GiB of GPU 0, big, are free"):
        check_machine(read_axolotl_config(A100), tmp_path, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(UserError, match="--gpus 2: CUDA_VISIBLE_DEVICES='1' leaves 1"):
        check_machine(read_axolotl_config(A100), tmp_path, 2)


def test_what_waits_in_main_memory_must_fit_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Profile `memory`: 4.5 GiB of the host for 16,384 tokens of Qwen3-8B, on every GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "gpus", lambda: TWO)
    monkeypatch.setattr(machine, "gpu_free_gib", lambda: (79.0, 79.0))
    monkeypatch.setattr(machine, "memory_gib", lambda: 8.0)
    config = read_axolotl_config(A100)
    check_machine(config, tmp_path, 2)
    least = config | {"keepstate_profile": "memory"}
    check_machine(least, tmp_path, 1)
    with pytest.raises(UserError, match=r"8\.0 GiB of main memory.* 11\.8 GiB with 16,384 tokens") as caught:
        check_machine(least, tmp_path, 2)
    assert caught.value.hint == "a shorter context: --max-seq-length 8192; on a larger GPU --profile speed"
