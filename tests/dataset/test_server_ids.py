"""Prompt ids from a server that answers as vLLM's `/tokenize` does."""

from collections.abc import Iterator

import pytest
from made_traces import make_trace
from stub_http import JsonHandler, answering_with

from keepstate.dataset.parity import local_prompts
from keepstate.dataset.server_ids import server_prompts
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError

TEMPLATE = load_template("chatml")


@pytest.fixture
def server(small_tokenizer: TextTokenizer) -> Iterator[str]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": "base"}, {"id": "persistent"}]})

        def do_POST(self) -> None:
            body = self.asked()
            assert body["chat_template_kwargs"] == {"enable_thinking": False}
            text = TEMPLATE.render(body["messages"], generation_prompt=body["add_generation_prompt"])
            self.send(200, {"tokens": small_tokenizer.ids(text), "count": 0})

    with answering_with(Handler) as address:
        yield address


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_prompts_come_from_the_server_with_the_generation_prompt(
    end: str, server: str, small_tokenizer: TextTokenizer
) -> None:
    messages = make_trace().messages[:2]
    assert server_prompts(server + end, None)(messages) == local_prompts(TEMPLATE, small_tokenizer)(messages)


def test_a_model_or_server_that_is_not_there_says_so(server: str) -> None:
    with pytest.raises(UserError, match="no model 'nobody'") as refused:
        server_prompts(server, "nobody")
    assert "base, persistent" in refused.value.hint
    with pytest.raises(UserError, match="the server at"):
        server_prompts("http://127.0.0.1:9", None)
