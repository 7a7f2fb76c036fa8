"""`keepstate serve check`: what a server tells of itself is judged, what it does not tell is unknown."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_tokenizers import make_tokenizer
from made_traces import make_trace, write_traces
from stub_http import JsonHandler, answering_with

from keepstate.cli import cli
from keepstate.dataset import BuildOptions, build_datasets
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.serve.check import applied_row
from keepstate.vocabulary import RuntimeName


@dataclass
class Vllm:
    """Speaks as much of vLLM as is asked; its fields are defects."""

    log_probs: dict[str, float] = field(default_factory=lambda: {"base": -1.0, "persistent": -1.5})
    thinks: bool = False
    always: bool = False
    """Whatever a request says."""
    cached: float = 1.0
    tokenizer: TextTokenizer | None = None

    def tokenize(self, asked: dict[str, Any]) -> dict[str, Any]:
        if "prompt" in asked:
            return {"tokens": [1], "token_strs": ["<think>"]}
        off = not self.always and (not self.thinks or "chat_template_kwargs" in asked)
        strs = ["<|im_start|>", "assistant", *(["<think>", "</think>"] if off else [])]
        if self.tokenizer is None:
            return {"tokens": list(range(len(strs))), "token_strs": strs}
        text = load_template("chatml").render(asked["messages"], generation_prompt=True)
        return {"tokens": self.tokenizer.ids(text), "token_strs": strs}

    def complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        places = [None, {"7": {"logprob": self.log_probs[asked["model"]], "rank": 1}}]
        return {"choices": [{"text": "", "prompt_logprobs": places} for _ in asked["prompt"]]}

    def chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        tokens = sum(len(message["content"].split()) for message in asked["messages"])
        usage: dict[str, Any] = {"prompt_tokens": tokens}
        if len(asked["messages"]) > 1:
            usage["prompt_tokens_details"] = {"cached_tokens": int(self.cached * tokens)}
        return {"choices": [{"message": {"content": "well"}}], "usage": usage}


@contextmanager
def serving(vllm: Vllm | None) -> Iterator[str]:
    """A server of `base` and an adapter; without `vllm` one that tells nothing but its models and answers."""

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            cards = [{"id": "base", "max_model_len": 4096}, {"id": "persistent", "parent": "base"}]
            self.send(200, {"data": cards if vllm else [{"id": "other"}]})

        def do_POST(self) -> None:
            asked = self.asked()
            known = {"/tokenize": "tokenize", "/v1/completions": "complete", "/v1/chat/completions": "chat"}
            if vllm is None:
                answer = {"choices": [{"message": {"content": "well"}}], "usage": {"prompt_tokens": 700}}
                self.send(200 if "chat" in self.path else 404, answer)
            else:
                self.send(200, getattr(vllm, known[self.path])(asked))

    with answering_with(Handler) as url:
        yield url


def check(vllm: Vllm | None, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit code, and by topic standing and words."""
    with serving(vllm) as url:
        done = CliRunner().invoke(cli, ["serve", "check", url, "--json", *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, {row["topic"]: (row["standing"], row["text"]) for row in json.loads(done.output)}


def test_a_server_that_does_all_it_should() -> None:
    code, rows = check(Vllm())
    assert code == 0
    wrong = {topic: row for topic, row in rows.items() if row[0] != "ok"}
    assert list(wrong) == ["persistent: weights"], "who started it is not known"
    assert rows["persistent"] == ("ok", "adapter of base, context 4,096 tokens")


@pytest.mark.parametrize(
    ("vllm", "topic", "words"),
    [
        (Vllm(log_probs={"base": -1.0, "persistent": -1.0}), "persistent: applied", "it changes nothing"),
        (Vllm(always=True), "base: thinking", "on: the prompt leaves it open, also where a request turns it off"),
        (Vllm(cached=0.1), "base: prefix cache", "tokens of the first turn 6"),
    ],
)
def test_what_is_wrong_is_said_and_ends_with_1(vllm: Vllm, topic: str, words: str) -> None:
    code, rows = check(vllm)
    assert code == 1
    assert rows[topic][0] == "wrong"
    assert words in rows[topic][1]


@pytest.mark.parametrize(
    ("most", "noise", "standing"),
    [(0.25, 0.0, "ok"), (16.0, 1.0, "ok"), (1.0, 1.0, "unknown"), (0.0, 0.0, "wrong"), (0.0, 0.5, "unknown")],
)
def test_rounding_under_load_is_no_adapter(most: float, noise: float, standing: str) -> None:
    """Beside 64 other requests an H200's base differed from itself by 1.0."""
    assert applied_row("persistent", "base", most, noise).standing == standing


def test_thinking_that_is_off_only_where_it_is_asked_for_is_said() -> None:
    code, rows = check(Vllm(thinks=True))
    assert code == 0
    assert rows["base: thinking"] == ("ok", "off in the tokens of its prompts, but only where a request asks for it")


def test_a_server_that_is_not_vllm_is_mostly_unknown() -> None:
    code, rows = check(None)
    assert code == 0
    assert {topic: standing for topic, (standing, _) in rows.items()} == {
        "other": "unknown",
        "other: thinking": "unknown",
        "other: prefix cache": "unknown",
    }


def test_prompts_are_compared_with_a_data_set_s(tmp_path: Path) -> None:
    make_tokenizer("qwen3", tmp_path / "model")
    write_traces(tmp_path / "traces", [make_trace(number) for number in range(3)])
    arms = {RuntimeName.PERSISTENT: tmp_path / "traces"}, {RuntimeName.PERSISTENT: tmp_path / "data"}
    options = BuildOptions(val_fraction=0)
    build_datasets(*arms, template="chatml", tokenizer_path=tmp_path / "model", options=options)
    same = Vllm(tokenizer=TextTokenizer(tmp_path / "model"))
    code, rows = check(same, "--dataset", str(tmp_path / "data"))
    assert (code, rows["persistent: template"][0]) == (0, "ok")
    code, rows = check(Vllm(), "--dataset", str(tmp_path / "data"))
    assert (code, rows["persistent: template"][0]) == (1, "wrong")


def test_without_json_it_is_a_table() -> None:
    with serving(Vllm()) as url:
        done = CliRunner().invoke(cli, ["serve", "check", f"{url}/v1/"])
    assert done.output.splitlines()[0].split() == ["ok", "base", "base", "model,", "context", "4,096", "tokens"]


def test_options_of_a_new_server_are_not_passed_over() -> None:
    done = CliRunner().invoke(cli, ["serve", "--laptop", "check", "http://127.0.0.1:9"])
    assert done.exit_code == 2
    assert "options of a new server stand before check" in done.output
