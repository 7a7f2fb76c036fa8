"""What is refused before a server starts, and the command that a plan comes to."""

import itertools
import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_lora import LAYERS, write_tensors
from serving_helpers import MakeAdapter

from keepstate import machine
from keepstate.dataset import load_template
from keepstate.dataset.templates import FOLDER
from keepstate.errors import UserError
from keepstate.serve import plan_serving
from keepstate.serve.adapters import max_rank
from keepstate.serve.command import GUARD, PLUGIN_FOLDER, command, own_environment
from keepstate.serve.serving_plan import with_access
from keepstate.serve.vllm_arguments import asked_for, kv_cache_of, vllm_arguments
from keepstate.serve.weights import read_header
from keepstate.setup.environments import ROOM_FOLDER
from keepstate.train.result import DONE, WEIGHTS

PYTHON = Path("python")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.delenv("NOTHINK", raising=False)


def following(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_adapters_bring_their_names_base_and_template(make_adapter: MakeAdapter, model: Path) -> None:
    planned = plan_serving(adapters=[make_adapter("persistent"), make_adapter("react", rank=20)])
    assert planned.names == ("base", "persistent", "react")
    assert planned.base_model == str(model)
    assert planned.template == FOLDER / "chatml.jinja"
    assert planned.context == 4096
    assert not planned.remarks
    words = command(planned, PYTHON)
    assert following(words, "--max-lora-rank") == "32"
    assert following(words, "--max-loras") == "2"
    assert f"react={planned.adapters[1].folder}" in words


def test_two_adapters_of_one_name_are_refused_unless_one_is_renamed(make_adapter: MakeAdapter) -> None:
    first, second = make_adapter(), make_adapter(folder="again")
    with pytest.raises(UserError, match="two adapters are named 'persistent'") as caught:
        plan_serving(adapters=[first, second])
    assert f"--lora NAME={second}" in caught.value.hint
    assert plan_serving(adapters=[first, f"second={second}"]).names == ("base", "persistent", "second")


def test_the_name_of_the_base_is_taken(make_adapter: MakeAdapter) -> None:
    with pytest.raises(UserError, match="'base' is the base model's"):
        plan_serving(adapters=[f"base={make_adapter()}"])


def test_adapters_of_different_templates_cannot_share_a_server(make_adapter: MakeAdapter) -> None:
    with pytest.raises(UserError, match="different chat templates"):
        plan_serving(adapters=[make_adapter(), make_adapter("forget", template="qwen3_nothink")])


def test_another_template_than_the_training_s_is_refused(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    with pytest.raises(UserError, match="another chat template than qwen3_nothink"):
        plan_serving(adapters=[adapter], template="qwen3_nothink")
    assert plan_serving(adapters=[adapter], template="chatml").template.name == "chatml.jinja"


def test_a_template_that_is_no_longer_built_in_comes_from_the_adapter(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    own = adapter / "chat_template.jinja"
    own.write_text("{{ messages[0]['content'] }}")
    mark = json.loads((adapter / DONE).read_text())
    (adapter / DONE).write_text(json.dumps(mark | {"template_sha256": load_template(own).sha256}))
    assert plan_serving(adapters=[adapter]).template == own
    own.unlink()
    with pytest.raises(UserError, match="neither built in nor in"):
        plan_serving(adapters=[adapter])


@pytest.mark.parametrize(
    ("missing", "message"),
    [(WEIGHTS, "no finished adapter"), (DONE, "no finished"), ("adapter_config.json", "no LoRA")],
)
def test_half_an_adapter_is_refused(make_adapter: MakeAdapter, missing: str, message: str) -> None:
    adapter = make_adapter()
    (adapter / missing).unlink()
    with pytest.raises(UserError, match=message):
        plan_serving(adapters=[adapter])


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such adapter folder: .*none"):
        plan_serving(adapters=[tmp_path / "none"])


def test_a_rank_that_vllm_does_not_serve_is_refused(make_adapter: MakeAdapter) -> None:
    with pytest.raises(UserError, match="rank r=1024"):
        plan_serving(adapters=[make_adapter(rank=1024)])
    (adapter,) = plan_serving(adapters=[make_adapter("forget", rank=64)]).adapters
    assert max_rank([adapter]) == 64


def test_an_adapter_must_fit_the_base(make_adapter: MakeAdapter, model: Path) -> None:
    """vLLM would load the smaller one and answer with it."""
    adapter = make_adapter()
    write_tensors(model / "model.safetensors", {f"{layer}.weight": np.ones((48, 32)) for layer in LAYERS})
    with pytest.raises(UserError, match=r"does not fit .*q_proj make \(48, 64\), the layer is \(48, 32\)"):
        plan_serving(adapters=[adapter])
    write_tensors(model / "model.safetensors", {f"{LAYERS[0]}.weight": np.ones((48, 64))})
    with pytest.raises(UserError, match=r"v_proj make \(48, 64\), the base has no such layer"):
        plan_serving(adapters=[adapter])


def test_broken_weights_are_named(make_adapter: MakeAdapter) -> None:
    weights = make_adapter() / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=rf"cut off: {len(whole) - 1:,} bytes of {len(whole):,}"):
        plan_serving(adapters=[weights.parent])
    weights.write_bytes(b"")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is no safetensors file"):
        plan_serving(adapters=[weights.parent])


def test_weights_that_cannot_be_read_are_not_called_broken(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Is a directory"):  # root may read every file
        read_header(tmp_path)


def test_qwen3_without_a_gpu_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ())
    monkeypatch.delenv("KEEPSTATE_DEVICE")
    with pytest.raises(UserError, match="needs a CUDA GPU") as caught:
        plan_serving()
    assert "--laptop" in caught.value.hint
    assert "keepstate doctor" in caught.value.hint


def test_on_a_gpu_it_is_what_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    planned = plan_serving()
    words = command(planned, PYTHON)
    assert following(words, "--model") == "Qwen/Qwen3-8B"
    assert following(words, "--dtype") == "bfloat16"
    assert following(words, "--max-model-len") == "40960"
    assert following(words, "--host") == "127.0.0.1"
    assert json.loads(following(words, "--default-chat-template-kwargs")) == {"enable_thinking": False}
    assert following(words, "--chat-template").endswith("qwen3_nothink.jinja")
    assert "--enable-prompt-tokens-details" in words
    assert "--enable-lora" not in words
    own = own_environment(planned)
    assert own["VLLM_NO_USAGE_STATS"] == own["DO_NOT_TRACK"] == "1"
    assert "HF_HUB_OFFLINE" not in own, "the model has to be fetched"
    assert own["PYTHONPATH"] == str(PLUGIN_FOLDER)
    assert "VLLM_PLUGINS" not in own, "a user's own plugins stay"
    assert own["TRITON_CACHE_DIR"] == str(Path.home() / ".triton" / "cache"), "one place at every start"


def test_on_the_cpu_the_plugin_is_loaded_and_the_network_left_alone(make_adapter: MakeAdapter) -> None:
    planned = plan_serving(adapters=[make_adapter()])
    own, words = own_environment(planned), command(planned, PYTHON)
    assert int(following(words, "--max-num-batched-tokens")) > planned.context, "a whole prompt in one step"
    assert "--no-enable-chunked-prefill" in words
    assert (own["PYTHONPATH"], own["HF_HUB_OFFLINE"]) == (f"{PLUGIN_FOLDER}:{ROOM_FOLDER}", "1")
    assert own["NUMBA_NUM_THREADS"] == "1"
    (found,) = PLUGIN_FOLDER.glob("*.dist-info/entry_points.txt")
    assert f"{own['VLLM_PLUGINS']} = keepstate_vllm:register" in found.read_text()


@pytest.mark.parametrize(("cores", "servers", "threads"), [(2, 0, "2"), (4, 2, "2"), (2, 3, "1")])
def test_threads_are_shared_by_servers_and_follow_the_load_unless_set(
    cores: int, servers: int, threads: str, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    planned = replace(plan_serving(adapters=[make_adapter()]), replicas=("http://127.0.0.1:1/v1",) * servers)
    own = own_environment(planned)
    assert (own["OMP_NUM_THREADS"], own["KEEPSTATE_ROOM"]) == (threads, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    own = own_environment(planned)
    assert own["GOMP_SPINCOUNT"] == "1"
    assert {"OMP_NUM_THREADS", "KEEPSTATE_ROOM"}.isdisjoint(own), "the user's number stays"


@pytest.mark.parametrize(("value", "sent"), [("", True), ("true", True), ("FALSE", False), ("0", False)])
def test_nothink_of_the_environment(value: str, sent: bool, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTHINK", value)
    planned = plan_serving(base_model=model, template="chatml")
    assert ("--default-chat-template-kwargs" in command(planned, PYTHON)) is sent
    assert plan_serving(base_model=model, template="chatml", nothink=not sent).nothink is not sent


def test_nothink_that_is_neither_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTHINK", "maybe")
    with pytest.raises(UserError, match="NOTHINK is 'maybe'"):
        plan_serving(base_model=model, template="chatml")


@pytest.mark.parametrize("context", [8, 5000])
def test_a_context_that_the_model_does_not_have_is_refused(context: int, model: Path) -> None:
    with pytest.raises(UserError, match="takes 256 to 4096"):
        plan_serving(base_model=model, template="chatml", context=context)


def test_a_model_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model folder"):
        plan_serving(base_model=tmp_path / "none")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        plan_serving(base_model=tmp_path)


def test_a_processor_without_bf16_serves_in_float32(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx2"}))
    planned = plan_serving(base_model=model, template="chatml")
    assert following(command(planned, PYTHON), "--dtype") == "float32"
    assert any("float32" in remark for remark in planned.remarks)
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    on_a_gpu = plan_serving(base_model=model, template="chatml")
    assert following(command(on_a_gpu, PYTHON), "--dtype") == "bfloat16"
    assert not on_a_gpu.remarks


def test_an_adapter_of_another_base_is_remarked(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    remark, unchecked = plan_serving(base_model=other, adapters=[make_adapter()]).remarks
    assert "persistent was trained on" in remark
    assert "not checked: whether persistent fits" in unchecked


def test_more_options_of_vllm_stand_last_and_are_recorded(model: Path) -> None:
    given = ["max-num-seqs=64", "--disable_log_stats", "hf-overrides={}"]
    planned = plan_serving(base_model=model, template="chatml", vllm_args=given)
    assert planned.vllm_arguments == ("--max-num-seqs", "64", "--disable-log-stats", "--hf-overrides", "{}")
    assert command(planned, PYTHON)[-5:] == list(planned.vllm_arguments)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("port=1", "--port"),
        ("max_model_len=9", "--context"),
        ("api-key=x", "--api-key-file"),
        ("--host=::", "--host"),
        ("middleware=x.y", "--api-key-file"),
    ],
)
def test_an_option_that_the_plan_decides_is_refused(given: str, hint: str, model: Path) -> None:
    with pytest.raises(UserError, match="is keepstate's own to give") as caught:
        plan_serving(base_model=model, template="chatml", vllm_args=[given])
    assert hint in caught.value.hint


def test_an_option_that_is_none_is_refused(model: Path) -> None:
    with pytest.raises(UserError, match=r"'64' is not KEY or KEY=VALUE"):
        plan_serving(base_model=model, template="chatml", vllm_args=["64"])


GOLDEN = {
    "cpu": """python -P -m vllm.entrypoints.openai.api_server --model MODEL --served-model-name base --host 127.0.0.1
        --port 8123 --dtype bfloat16 --max-model-len 4096 --chat-template TEMPLATES/chatml.jinja
        --default-chat-template-kwargs NOTHINK --block-size 32 --max-num-batched-tokens 4352 --max-loras 2
        --max-lora-rank 32 --enable-prefix-caching --enable-prompt-tokens-details --enforce-eager
        --no-enable-chunked-prefill --enable-lora --lora-modules persistent=HERE/persistent react=HERE/react
        --lora-target-modules q_proj v_proj --max-num-seqs 64""",
    "cuda": """python -P -m vllm.entrypoints.openai.api_server --model MODEL --served-model-name base --host 127.0.0.1
        --port 8123 --dtype bfloat16 --max-model-len 4096 --chat-template TEMPLATES/chatml.jinja
        --default-chat-template-kwargs NOTHINK --gpu-memory-utilization 0.9 --max-num-seqs 256 --max-loras 2
        --max-lora-rank 32 --enable-prefix-caching --enable-prompt-tokens-details
        --cudagraph-capture-sizes 1 2 4 8 16 32 48 64 96 128
        --enable-lora --lora-modules persistent=HERE/persistent react=HERE/react
        --lora-target-modules q_proj v_proj --max-num-seqs 64""",
}
"""The whole command line: a change here is one that every server gets."""


def test_other_machines_ask_with_a_key_only(model: Path) -> None:
    planned = plan_serving(base_model=model, template="chatml", port=8123)
    with pytest.raises(UserError, match=r"on 0\.0\.0\.0 every machine") as caught:
        with_access(planned, "0.0.0.0", wants_key=False)
    assert "--api-key-file" in caught.value.hint
    assert with_access(planned, "::1", wants_key=False).base_url == "http://[::1]:8123/v1"
    open_to_all = with_access(planned, "0.0.0.0", wants_key=True)
    assert open_to_all.base_url == "http://127.0.0.1:8123/v1"
    words = command(open_to_all, PYTHON)
    assert (following(words, "--host"), following(words, "--middleware")) == ("0.0.0.0", GUARD)
    places = own_environment(open_to_all)["PYTHONPATH"].split(os.pathsep)
    assert any((Path(place) / f"{GUARD.partition('.')[0]}.py").is_file() for place in places)


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ([], 14),
        (["max-num-seqs=4"], 4),
        (["max-num-seqs=1"], 2),
        (["max-num-seqs=many"], 14),
        (["max-num-seqs=1", 'speculative-config={"method": "ngram", "num_speculative_tokens": 8}'], 2),
        (['speculative-config={"method": "ngram", "num_speculative_tokens": 8}'], 14),
        (['speculative-config={"method": "ngram", "num_speculative_tokens": 700}'], 1),
        (["max-num-seqs=1", "speculative-config=[8]"], 2),
        (["compilation-config={}"], 0),
    ],
)
def test_graphs_are_made_for_the_answers_at_once(
    given: list[str], sizes: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    words = command(plan_serving(base_model=model, template="chatml", vllm_args=given), PYTHON)
    rest = words[words.index("--cudagraph-capture-sizes") + 1 :] if "--cudagraph-capture-sizes" in words else []
    assert len(list(itertools.takewhile(str.isdecimal, rest))) == sizes


def test_a_graph_holds_64_answers_with_their_drafts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    drafts = 'speculative-config={"method": "ngram", "num_speculative_tokens": 8}'
    words = command(plan_serving(base_model=model, template="chatml", vllm_args=[drafts]), PYTHON)
    rest = words[words.index("--cudagraph-capture-sizes") + 1 :]
    sizes = [int(word) for word in itertools.takewhile(str.isdecimal, rest)]
    assert 64 * 9 in sizes
    assert all(size % 9 == 0 for size in sizes)


def test_what_reaches_vllm_of_cache_and_drafts() -> None:
    nothing = asked_for(max_num_seqs=None, gpu_memory=None, kv_cache="as-model", speculate="off")
    assert nothing == []
    both = vllm_arguments(asked_for(max_num_seqs=8, gpu_memory=0.5, kv_cache="fp8", speculate="ngram"))
    assert both[:6] == ("--max-num-seqs", "8", "--gpu-memory-utilization", "0.5", "--kv-cache-dtype", "fp8")
    assert json.loads(both[7])["method"] == "ngram"
    assert kv_cache_of(both) == "fp8"
    assert kv_cache_of(vllm_arguments(["kv-cache-dtype=auto"])) == kv_cache_of(()) == "as-model"


@pytest.mark.parametrize(("flags", "refused"), [({"avx2"}, True), ({"avx2", "avx512f"}, False), (set(), False)])
def test_a_cache_of_8_bits_needs_a_processor_that_has_it(
    flags: set[str], refused: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags))
    with pytest.raises(UserError, match="AVX-512 or AMX") if refused else nullcontext():
        plan_serving(base_model=model, template="chatml", vllm_args=["kv-cache-dtype=fp8"])


@pytest.mark.parametrize("device", GOLDEN)
def test_the_whole_command_line(
    device: str, make_adapter: MakeAdapter, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEPSTATE_DEVICE", device)
    adapters = [make_adapter(), make_adapter("react", rank=20)]
    planned = plan_serving(adapters=adapters, port=8123, vllm_args=["max-num-seqs=64"])
    places = {str(model): "MODEL", str(FOLDER): "TEMPLATES", str(tmp_path): "HERE"}
    words = command(planned, PYTHON)
    for place, name in places.items():
        words = [word.replace(place, name) for word in words]
    assert [word if word != '{"enable_thinking": false}' else "NOTHINK" for word in words] == GOLDEN[device].split()
