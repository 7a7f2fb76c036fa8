"""The client against a real HTTP server that speaks vLLM's dialect, with vLLM's own words of refusal."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai._base_client
import pytest

from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import ContextOverflow, Message, Sampling
from keepstate.models.server import ServerModel
from keepstate.vocabulary import Origin

MESSAGES: list[Message] = [{"role": "system", "content": "s"}, {"role": "user", "content": "gé\u2028<|im_end|>"}]


def completion(text: str | None, finish: str = "stop", **usage: Any) -> tuple[int, dict[str, Any]]:
    message = {"role": "assistant", "content": text}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **usage},
    }


def refused(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "BadRequestError", "code": status}}


@dataclass
class Server:
    """Answers from a list, the last entry for ever; keeps what it was asked."""

    answers: list[tuple[int, dict[str, Any]]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(*answers: tuple[int, dict[str, Any]]) -> Iterator[Server]:
    server = Server(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            names = ["base", "persistent"]
            self.send(200, {"object": "list", "data": [{"id": n, "object": "model", "created": 0} for n in names]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.requests.append(json.loads(body))
            self.send(*(server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]))

        def send(self, status: int, value: dict[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.001)


async def ask(server: Server, sampling: Sampling | None = None, **options: Any) -> Any:
    async with ServerModel(server.url, "persistent", sampling, **options) as model:
        return await model.reply(MESSAGES, seed=42, turn=0)


async def test_sends_what_was_asked_and_returns_the_text_untouched() -> None:
    text = "  <think>\n\n</think>\n\nhm\r\n```python\nx\n```\n\u00a0\n"
    with serving(completion(text, prompt_tokens_details={"cached_tokens": 5})) as server:
        reply = await ask(server)
    assert reply.text == text
    assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens, reply.truncated) == (7, 3, 5, False)
    assert server.requests == [
        {"model": "persistent", "messages": MESSAGES, "temperature": 0.2, "max_tokens": 12288, "seed": 42}
    ]


async def test_thinking_is_switched_off_only_when_asked() -> None:
    with serving(completion("a")) as server:
        await ask(server, Sampling(top_p=0.5), nothink=True)
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.requests[0]["top_p"] == 0.5


async def test_a_cut_answer_says_so_and_an_empty_one_is_empty() -> None:
    with serving(completion(None, finish="length")) as server:
        reply = await ask(server)
    assert (reply.text, reply.truncated, reply.cached_tokens) == ("", True, None)


async def test_a_hiccup_is_retried() -> None:
    with serving(refused(500, "oops"), refused(503, "busy"), completion("fine")) as server:
        assert (await ask(server)).text == "fine"
    assert len(server.requests) == 3


async def test_a_server_that_keeps_failing_is_our_failure() -> None:
    with serving(refused(500, "oops")) as server, pytest.raises(EpisodeFailure, match="oops") as caught:
        await ask(server, retries=2)
    assert caught.value.origin is Origin.MODEL
    assert len(server.requests) == 3


async def test_no_server_at_all_is_our_failure() -> None:
    with serving(completion("a")) as server:
        pass
    with pytest.raises(EpisodeFailure, match="APIConnectionError") as caught:
        await ask(server, retries=1)
    assert caught.value.origin is Origin.MODEL


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens, "
        "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
        "Input length (9000) exceeds model's maximum context length (8192).",
        "This model's maximum context length is 8192 tokens. However, you requested 9012 tokens (9000 in the messages, "
        "12 in the completion). Please reduce the length of the messages or completion.",
        "max_tokens must be at least 1, got 0.",
    ],
)
async def test_a_full_context_ends_the_episode(message: str) -> None:
    with serving(refused(400, message)) as server, pytest.raises(ContextOverflow):
        await ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("message", "room"),
    [
        ("max_tokens=12288 cannot be greater than max_model_len=8192. Please request fewer output tokens.", 8192),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 12288. This model's maximum context length is 8192 "
            "tokens and your request has 700 input tokens (12288 > 8192 - 700).",
            7492,
        ),
        (
            "This model's maximum context length is 8192 tokens. However, you requested 12988 tokens (700 in the "
            "messages, 12288 in the completion). Please reduce the length of the messages or completion.",
            7492,
        ),
    ],
)
async def test_too_many_new_tokens_are_cut_to_the_room_there_is(message: str, room: int) -> None:
    with serving(refused(400, message), completion("a"), completion("b")) as server:
        async with ServerModel(server.url, "persistent") as model:
            assert (await model.reply(MESSAGES, seed=1, turn=0)).text == "a"
            assert (await model.reply(MESSAGES, seed=1, turn=1)).text == "b"
    assert [r["max_tokens"] for r in server.requests] == [12288, room, 8192]


async def test_another_refusal_is_our_failure_not_an_overflow() -> None:
    with serving(refused(400, "bad template")) as server, pytest.raises(EpisodeFailure, match="bad template"):
        await ask(server)


async def test_an_unknown_model_names_the_served_ones() -> None:
    with serving(refused(404, "The model `persistent` does not exist.")) as server, pytest.raises(UserError) as caught:
        await ask(server)
    assert "base, persistent" in caught.value.message


async def test_a_refused_key_is_for_the_user() -> None:
    with serving(refused(401, "Unauthorized")) as server, pytest.raises(UserError, match="refuses access"):
        await ask(server)


async def test_text_that_cannot_be_sent_back_is_our_failure() -> None:
    with serving(completion("a\ud800")) as server, pytest.raises(EpisodeFailure, match="Unicode"):
        await ask(server)


async def test_the_key_stays_away_from_local_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(completion("a")) as server:
        async with ServerModel(server.url, "m") as model:
            assert model._client.api_key == "none"
            assert (await model.reply(MESSAGES, seed=1, turn=0)).text == "a"


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": 2.5},
        {"prompt_tokens": -5, "completion_tokens": "7"},
        {"prompt_tokens": True, "completion_tokens": [1]},
        {"prompt_tokens": 1e400, "completion_tokens": float("nan")},
    ],
)
async def test_a_usage_that_holds_no_counts_is_unknown(usage: object) -> None:
    status, body = completion("a")
    with serving((status, body | {"usage": usage})) as server:
        reply = await ask(server)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("a", None, None)
