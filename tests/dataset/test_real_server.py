"""The proof against a real vLLM (its CPU build, the laptop's base model): its own tokens, not our rendering."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from made_traces import ANSWERS, build_one, make_trace, write_traces

from keepstate.dataset import read_manifest
from keepstate.dataset.check import CheckOptions, check_dataset
from keepstate.dataset.parity import local_prompts
from keepstate.dataset.server_ids import server_prompts
from keepstate.dataset.templates import FOLDER, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.processes import GuardedProcess
from keepstate.serve.ports import HOST, free_port
from keepstate.setup import installing
from keepstate.setup.basemodel import ensure_base_model
from keepstate.vocabulary import RuntimeName

SECONDS = 500
ODD = ["🎒 e\u0301 \x00\x07 \u2028 \r\n", "<|im_ [[dummy_message]] {{x}} {% x %} \ufeff", " \n", "a" * 20_000, ""]

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(SECONDS + 60)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM that serves the base model by the template that training gets."""
    url = f"http://{HOST}:{free_port()}"
    command = [installing.ensure("serve"), "-P", "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", ensure_base_model(), "--chat-template", FOLDER / "chatml.jinja", "--enforce-eager"]
    command += ["--served-model-name", "base", "--host", HOST, "--port", url.rsplit(":", 1)[1]]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PATH": "/usr/bin:/bin"}
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as output, GuardedProcess(command, output=output, env=own) as process:
        for _ in range(SECONDS):
            assert process.poll() is None, log.read_text()[-3_000:]
            try:
                if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(1)
        yield url


def test_every_prompt_of_the_server_is_ours_token_for_token(served: str) -> None:
    tokenizer = TextTokenizer(ensure_base_model())
    of_server, ours = server_prompts(served, None), local_prompts(load_template("chatml"), tokenizer)
    for number, text in enumerate(ODD):
        messages = make_trace(number, answers=[text or "x", *ANSWERS], observation=text, goal=text).messages
        for length in (1, 2, 4, 6):
            assert of_server(messages[:length]) == ours(messages[:length])


@pytest.mark.train_env
def test_the_certificate_names_the_server(served: str, tmp_path: Path) -> None:
    root = write_traces(tmp_path / "t", [make_trace(n, observation=ODD[n % len(ODD)]) for n in range(10)])
    build_one(root, RuntimeName.PERSISTENT, tmp_path / "d", tokenizer=ensure_base_model())
    report = check_dataset(CheckOptions(tmp_path / "d", server=served))
    assert (report.rows, report.bad) == (10, [])
    certificate = read_manifest(tmp_path / "d").certificate
    assert certificate is not None
    assert certificate.server == served
