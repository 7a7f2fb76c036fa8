"""Two tiny models, of Llama's and of Qwen3's shape, are really trained and served with the templates that fit them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_tokenizers import make_tokenizer
from made_traces import make_trace, write_traces
from tiny_loop import EPOCHS, PLAYED

from keepstate.setup import installing

SCRIPT = Path(__file__).with_name("tiny_loop.py")
WEIGHTS = Path(__file__).parents[1] / "train" / "tiny_family.py"

pytestmark = [pytest.mark.train_env, pytest.mark.serve_env, pytest.mark.timeout(900)]


def test_two_tiny_models_go_all_the_way(tmp_path: Path) -> None:
    """Both at once: mostly they load packages, with one thread each. Of one the checkpoints are played too. Qwen3's
    tokenizer ends texts here, as its base models' do, so that training and server must be told where a turn ends.
    """
    python = installing.ensure("train")
    installing.ensure("serve")
    kinds = {"llama3": "llama", "qwen3": "qwen3"}
    for family in kinds:
        make_tokenizer(family, tmp_path / family / "model")
        write_traces(tmp_path / family / "traces", [make_trace(number) for number in range(6)])
    about = tmp_path / "qwen3" / "model" / "tokenizer_config.json"
    about.write_text(about.read_text().replace('"eos_token": "<|im_end|>"', '"eos_token": "<|endoftext|>"'))
    models = [f"{kind}={tmp_path / family / 'model'}" for family, kind in kinds.items()]
    subprocess.run([python, "-I", WEIGHTS, *models], check=True, capture_output=True)
    running = {
        family: subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path / family],
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"{family}.log").open("w"),
            text=True,
        )
        for family in kinds
    }
    try:
        for family, process in running.items():
            check(family, process, tmp_path)
    finally:
        for process in running.values():
            process.kill()


def check(family: str, process: "subprocess.Popen[str]", folder: Path) -> None:
    out, _ = process.communicate()
    assert process.returncode == 0, (folder / f"{family}.log").read_text()[-3_000:]
    made = json.loads(out.splitlines()[-1])
    assert made["template"] == {"llama3": "llama3", "qwen3": "qwen3_nothink"}[family]
    assert made["eot_tokens"] == {"llama3": None, "qwen3": ["<|im_end|>"]}[family]
    assert made["same_base"]
    assert made["steps"] == 6 * EPOCHS
    if family == "llama3":
        assert [step for step, _ in made["scores"]] == [PLAYED, 6 * EPOCHS]
        assert None not in [score for _, score in made["scores"]], "each is known, a 0 of it is the model's"
        assert made["stood"] > 1, "the training stood still while the first was played"
        assert f"step {PLAYED} in persistent" in made["card"]
    for name in ("base", "persistent"):
        assert made[name][1:] == ["stop", ""], "the server writes on behind the token that ends an answer"
    assert made["base"][0] != made["persistent"][0]
