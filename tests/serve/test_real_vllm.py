"""One real vLLM (its CPU build) with the laptop's base model and three adapters of random weights.

Its own tokens are also what data sets are proven against: to start another one takes a minute.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
import pytest
from made_traces import ANSWERS, build_one, make_trace, write_traces
from random_lora import write_patterned_lora, write_random_lora

from keepstate import machine
from keepstate.dataset import read_manifest
from keepstate.dataset.check import CheckOptions, check_dataset
from keepstate.dataset.parity import local_prompts
from keepstate.dataset.server_ids import server_prompts
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.models.base import Message
from keepstate.models.endpoint import KEY, connection
from keepstate.serve.applied import ROUNDING, largest_difference, prompt_log_probs
from keepstate.serve.check import Standing, check_server
from keepstate.serve.command import CPU_BLOCK, PLUGIN_FOLDER
from keepstate.serve.prompt_parity import CONVERSATION
from keepstate.setup import basemodel, installing
from keepstate.vocabulary import RuntimeName

SECONDS = 500
ADAPTERS = ("persistent", "forget", "react")
PATTERNED, PLAIN = "patterned", "plain"
"""The same change with and without `rank_pattern` and `alpha_pattern`."""
QUESTION: list[Message] = [{"role": "user", "content": "What is the capital of France?"}]
ODD = ["🎒 e\u0301 \x00\x07 \u2028 \r\n", "<|im_ [[dummy_message]] {{x}} {% x %} \ufeff", " \n", "a" * 20_000, ""]
PROGRAM = """
import sys
from pathlib import Path
from keepstate.serve import plan_serving, serve
from keepstate.serve.serving_plan import HOST, with_access
log, base, *loras = sys.argv[1:]
planned = plan_serving(base_model=base, adapters=loras, port=0, log=Path(log))
with serve(with_access(planned, HOST, wants_key=True)) as server:
    print(server.base_url, flush=True)
    server.wait()
"""

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(SECONDS + 60)]


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[str]:
    """The server of all tests asks for it; every client of ours takes it from the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, "sesame")
        yield "sesame"


@dataclass
class Running:
    """A process that serves."""

    process: "subprocess.Popen[str]"
    url: str

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}{path}", json=body, timeout=SECONDS, **connection(self.url))

    def answer(self, model: str, messages: Sequence[Message] = QUESTION, max_tokens: int = 12) -> dict[str, Any]:
        reply = self.post(
            "/chat/completions", model=model, messages=list(messages), max_tokens=max_tokens, temperature=0
        )
        reply.raise_for_status()
        return dict(reply.json())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("adapters")
    loras = [f"{name}={write_random_lora(folder / name, seed)}" for seed, name in enumerate(ADAPTERS)]
    patterned = write_patterned_lora(folder / PATTERNED, len(ADAPTERS))
    loras += [f"{PATTERNED}={patterned}", f"{PLAIN}={patterned / PLAIN}"]
    command = [sys.executable, "-c", PROGRAM, str(folder / "vllm.log"), str(basemodel.ensure_base_model()), *loras]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "it did not start: the error is above"
            yield Running(process, url)
        finally:
            process.kill()  # also where the time is up before it serves: leaving the block waits for its end


def text_of(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


def test_every_model_is_listed_and_answers_in_its_own_way(running: Running) -> None:
    listed = httpx2.get(f"{running.url}/models", **connection(running.url)).json()["data"]
    assert {card["id"] for card in listed} == {"base", *ADAPTERS, PATTERNED, PLAIN}
    texts = {name: text_of(running.answer(name)) for name in ("base", *ADAPTERS)}
    assert "Paris" in texts["base"]
    assert len(set(texts.values())) == len(texts), texts


async def test_the_base_answers_as_alone_while_adapters_are_asked(running: Running) -> None:
    """vLLM's own CPU code gives the base's rows of a mixed batch the last adapter."""
    alone = text_of(running.answer("base"))
    names = ["persistent", "base", "forget", "base", "react", "base"]
    answers = await asyncio.gather(*(asyncio.to_thread(running.answer, name) for name in names))
    mixed = {text_of(reply) for name, reply in zip(names, answers, strict=True) if name == "base"}
    assert mixed == {alone}


@pytest.mark.parametrize("name", ["base", "react"])
def test_prompts_are_ours_token_for_token(running: Running, name: str) -> None:
    ours = local_prompts(load_template("chatml"), TextTokenizer(basemodel.folder()))
    asked = {"model": name, "messages": list(CONVERSATION)}
    reply = httpx2.post(f"{running.url.removesuffix('/v1')}/tokenize", json=asked, **connection(running.url))
    assert reply.json()["tokens"] == ours(CONVERSATION)


def test_every_prompt_of_the_server_is_ours_token_for_token(running: Running) -> None:
    of_server = server_prompts(running.url, "base")
    ours = local_prompts(load_template("chatml"), TextTokenizer(basemodel.folder()))
    for number, text in enumerate(ODD):
        messages = make_trace(number, answers=[text or "x", *ANSWERS], observation=text, goal=text).messages
        for length in (1, 2, 4, 6):
            assert of_server(messages[:length]) == ours(messages[:length])


@pytest.mark.train_env
def test_the_certificate_names_the_server(running: Running, tmp_path: Path) -> None:
    root = write_traces(tmp_path / "t", [make_trace(n, observation=ODD[n % len(ODD)]) for n in range(10)])
    build_one(root, RuntimeName.PERSISTENT, tmp_path / "d", tokenizer=basemodel.folder())
    report = check_dataset(CheckOptions(tmp_path / "d", server=running.url))
    assert (report.rows, report.bad) == (10, [])
    certificate = read_manifest(tmp_path / "d").certificate
    assert certificate is not None
    assert certificate.server == running.url


async def test_long_prompts_of_requests_with_a_seed_are_read_whole(running: Running) -> None:
    """Read in parts they end the engine of vLLM 0.32 on the CPU, and with it the run."""
    asked = {"messages": [{"role": "user", "content": "one two three four five six " * 300}], "max_tokens": 4}
    sampled = asked | {"temperature": 0.2, "seed": 1}
    replies = await asyncio.gather(
        *(asyncio.to_thread(running.post, "/chat/completions", model=name, **sampled) for name in ("base", *ADAPTERS))
    )
    assert {reply.status_code for reply in replies} == {200}


def test_the_next_turn_finds_the_last_one_in_the_cache(running: Running) -> None:
    messages: list[Message] = [{"role": "user", "content": f"{time.time()} " + "one two three four five six " * 120}]
    first = running.answer("persistent", messages)
    messages += [{"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "go on"}]
    usage = running.answer("persistent", messages)["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached > first["usage"]["prompt_tokens"] - CPU_BLOCK
    assert cached % CPU_BLOCK == 0
    of_another = running.answer("forget", messages)["usage"]["prompt_tokens_details"]
    assert not of_another or not of_another["cached_tokens"], "another adapter's cache is not its own"


def test_a_rank_and_an_alpha_of_a_layer_s_own_are_applied(running: Running) -> None:
    """What is left between both is bf16's: products of other lengths, and a scale apart that is in B in the other."""
    told = {name: prompt_log_probs(running.url, name) or [] for name in ("base", PATTERNED, PLAIN)}
    means = {name: np.mean(np.abs(np.subtract(told[name], told[PLAIN]))) for name in told}
    assert means[PATTERNED] < 0.25 * means["base"], means


async def test_what_is_the_base_s_own_is_no_difference(running: Running) -> None:
    """What `check_applied` rests on: without an adapter nothing differs. Where the processor has AMX, sums are rounded
    otherwise in a batch of another size, by less than an adapter changes them; `check_applied` asks one at a time."""
    names = ["base", "persistent", "base", "forget", "base"]
    told = await asyncio.gather(*(asyncio.to_thread(prompt_log_probs, running.url, name) for name in names))
    alone, again = (prompt_log_probs(running.url, "base") or [] for _ in range(2))
    assert largest_difference(again, alone) <= ROUNDING
    apart = [(name, largest_difference(each or [], alone)) for name, each in zip(names, told, strict=True)]
    least = min(difference for name, difference in apart if name != "base")
    assert least > ROUNDING
    beside = least if "amx_bf16" in machine.cpu_flags() else ROUNDING
    assert all(difference < beside for name, difference in apart if name == "base"), apart


def test_the_check_finds_nothing_wrong(running: Running) -> None:
    rows = {row.topic: row for row in check_server(running.url)}
    assert {row.standing for row in rows.values()} == {Standing.OK}, rows
    assert "base: thinking" in rows
    assert {f"{name}: applied" for name in ADAPTERS} <= rows.keys()


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/tokenize", "/invocations", "/v1/completions"])
def test_without_the_key_nothing_is_told(running: Running, key: str, path: str) -> None:
    root = running.url.removesuffix("/v1")
    for headers in ({}, {"Authorization": f"Bearer {key}x"}):
        assert httpx2.get(f"{root}{path}", headers=headers, trust_env=False).status_code == 401
        assert httpx2.post(f"{root}{path}", headers=headers, json={}, trust_env=False).status_code == 401
    assert httpx2.get(f"{root}/health", trust_env=False).status_code == 200


def test_an_unknown_model_is_404(running: Running) -> None:
    assert running.post("/chat/completions", model="nobody", messages=QUESTION).status_code == 404


def command_of(process: psutil.Process) -> str:
    """Its command line; empty where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_nothing_outlives_a_killed_parent(running: Running) -> None:
    below = psutil.Process(running.process.pid).children(recursive=True)
    assert not [words for words in map(command_of, below) if "spawn_main" in words], "none imports vLLM anew"
    assert any("vllm" in command_of(process) for process in below)
    running.process.kill()
    _, alive = psutil.wait_procs(below, timeout=15)
    assert not alive


PLUGIN_CHECK = """
import torch
from keepstate_vllm import GroupedLora
from vllm.lora.layers import LoRAMapping
torch.manual_seed(0)
widths = (576, 192, 192)
a = tuple(torch.randn(3, 1, 16, 576).bfloat16() / 24 for _ in widths)
b = tuple(torch.randn(3, 1, width, 16).bfloat16() / 4 for width in widths)
wrapper = GroupedLora(8192, 512, "cpu")
few = [[1] * 5, [0] * 4, [1, 1, 3, 0, 2, 1, 0, 0], [1, 1, 2, 2, 2, 3], [2], [0, 2]]
many = [[1, 0, 2] * 100, [3] * 300]
for number, asked in enumerate([*few, *many, *few]):
    if number == len(few + many):  # another adapter comes into a slot, as vLLM writes it
        with torch.inference_mode():
            a[1][2, 0, :8].copy_(torch.randn(8, 576) / 24)
            b[0][0] = 0
    x, before = torch.randn(len(asked), 576).bfloat16(), torch.randn(len(asked), 960).bfloat16()
    wrapper.update_metadata(LoRAMapping(tuple(asked), tuple(asked), is_prefill=True), [1, 2, 3], 3, 49152)
    y = before.clone()
    wrapper.add_lora_linear(y, x, a, b, 0.5, widths)
    wanted = before.float()
    for row, adapter in enumerate(asked):
        if adapter:
            parts = [x[row].float() @ p[adapter - 1, 0].float().T @ q[adapter - 1, 0].float().T for p, q in zip(a, b)]
            wanted[row] += 0.5 * torch.cat(parts)
    torch.testing.assert_close(y.float(), wanted, rtol=0.01, atol=0.03)
"""


def test_the_plugin_computes_what_lora_is_whatever_the_batch() -> None:
    done = subprocess.run(
        [installing.ensure("serve"), "-P", "-c", PLUGIN_CHECK],
        env=os.environ | {"PYTHONPATH": str(PLUGIN_FOLDER)},
        cwd=Path("/"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
