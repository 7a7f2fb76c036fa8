"""The client against a real HTTP server: what is sent, what an answer is, what is none, and who is told."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from stub_http import JsonHandler, answering_with

from keepstate.errors import EpisodeFailure, UserError
from keepstate.models import endpoint as endpoint_module
from keepstate.models import server as server_module
from keepstate.models.base import Message, Sampling, TokenUsage
from keepstate.models.endpoint import connection
from keepstate.models.server import ServerModel
from keepstate.vocabulary import Origin

MESSAGES: list[Message] = [{"role": "system", "content": "s"}, {"role": "user", "content": "gé\u2028<|im_end|>"}]


def completion(text: str | None, finish: str = "stop", **usage: Any) -> tuple[int, dict[str, Any]]:
    message = {"role": "assistant", "content": text}
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "persistent",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, **usage},
    }


def refused(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "BadRequestError", "code": status}}


DRIP = (0, "")
"""A body that never ends, a byte at a time."""
Answer = tuple[int, dict[str, Any] | str] | None
"""Status and body; None: silence."""


@dataclass
class Server:
    """Answers from a list, the last entry for ever; keeps what it was asked."""

    answers: list[Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    sessions: list[str | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    metrics: Callable[[], str] | None = None
    short: Answer = None
    """Of a short question, where that is answered differently."""
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(*answers: Answer) -> Iterator[Server]:
    server = Server(list(answers))

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            server.keys.append(self.headers["Authorization"])
            if self.path == "/metrics":
                self.reply((200, server.metrics()) if server.metrics else (404, ""))
                return
            names = {name: f"/models/{name}" for name in ("base", "persistent", "persistent-s2")}
            cards = [{"id": name, "object": "model", "created": 0, "root": root} for name, root in names.items()]
            self.reply((200, {"object": "list", "data": cards}))

        def do_POST(self) -> None:
            request = self.asked()
            server.keys.append(self.headers["Authorization"])
            server.requests.append(request)
            server.sessions.append(self.headers["X-Session-Id"])
            if server.short is not None and len(request["messages"]) == 1:
                self.reply(server.short)
            else:
                self.reply(server.answers.pop(0) if len(server.answers) > 1 else server.answers[0])

        def reply(self, answer: Answer) -> None:
            if answer is None:
                server.over.wait(10)
                self.close_connection = True
                return
            status, value = answer
            page = {"Content-Type": "text/html"} if isinstance(value, str) and "<" in value else {}
            self.send(status or 200, value, page | server.headers, None if status else 10_000)
            while not status and not server.over.wait(0.02):
                self.wfile.write(b" ")

    with answering_with(Handler) as address:
        server.url = f"{address}/v1"
        try:
            yield server
        finally:
            server.over.set()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.001)


async def ask(server: Server, sampling: Sampling | None = None, **options: Any) -> Any:
    async with ServerModel(server.url, "persistent", sampling, **options) as model:
        return await model.reply(MESSAGES, seed=42, turn=0)


async def test_sends_what_was_asked_and_returns_the_text_untouched() -> None:
    text = "  <think>\n\n</think>\n\nhm\r\n```python\nx\n```\n\u00a0\n"
    with serving(completion(text, prompt_tokens_details={"cached_tokens": 5})) as server:
        reply = await ask(server)
    assert reply.text == text
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.cached_tokens) == (7, 3, 5)
    assert (reply.usage.total_tokens, reply.truncated) == (10, False)
    assert server.requests == [
        {"model": "persistent", "messages": MESSAGES, "temperature": 0.2, "max_tokens": 12288, "seed": 42}
    ]


async def test_all_turns_of_an_episode_name_one_session_and_others_another() -> None:
    prompt, other, later = ({"role": "system", "content": text} for text in ("play", "play well", "go on"))
    with serving(completion("hi")) as server:
        async with ServerModel(server.url, "persistent") as model:
            for turn, messages in enumerate(([prompt, prompt], [prompt, prompt, later], [prompt, other])):
                await model.reply(messages, seed=turn, turn=turn)
    first, second, another = server.sessions
    assert first
    assert another
    assert first == second != another


async def test_thinking_is_switched_off_only_when_asked() -> None:
    with serving(completion("a")) as server:
        await ask(server, Sampling(top_p=0.5), nothink=True)
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.requests[0]["top_p"] == 0.5


async def test_a_cut_answer_says_so_and_an_empty_one_is_empty() -> None:
    with serving(completion("", finish="length")) as server:
        reply = await ask(server)
    assert (reply.text, reply.truncated, reply.usage.cached_tokens) == ("", True, None)


def counted(prompt: int, cached: int | None = None) -> tuple[int, dict[str, Any]]:
    """A completion whose prompt has so many tokens."""
    status, body = completion("a")
    details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
    return status, body | {"usage": {"prompt_tokens": prompt, "completion_tokens": 1} | details}


@pytest.mark.parametrize(
    ("counts", "whole"),
    [
        ([(4_000, None), (2_900, None)], False),
        ([(4_000, None), (4_100, None)], True),
        ([(4_000, None), (3_990, None)], True),  # a template may write less of an earlier turn
        ([(4_000, None), (120, 3_990)], True),  # some count what came from the cache apart
        ([(4_000, None), (0, None)], True),
    ],
)
async def test_a_server_that_leaves_messages_out_is_no_answer(
    counts: list[tuple[int, int | None]], whole: bool
) -> None:
    longer = [*MESSAGES, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    with serving(*(counted(*each) for each in counts)) as server:
        async with ServerModel(server.url, "persistent", retries=1) as model:
            await model.reply(MESSAGES, seed=1, turn=0)
            if whole:
                assert (await model.reply(longer, seed=1, turn=1)).text == "a"
            else:
                with pytest.raises(EpisodeFailure, match="leaves messages out") as caught:
                    await model.reply(longer, seed=1, turn=1)
                assert caught.value.origin is Origin.MODEL


@pytest.mark.parametrize(("reason", "cut"), [("STOP", False), ("MAX_TOKENS", True), ("model_length", True)])
async def test_other_words_for_how_an_answer_ends_are_known(reason: str, cut: bool) -> None:
    with serving(answering({"content": "a"}, reason)) as server:
        assert (await ask(server)).truncated is cut


async def test_a_hiccup_is_retried() -> None:
    with serving(refused(500, "oops"), refused(503, "busy"), completion("fine")) as server:
        assert (await ask(server)).text == "fine"
    assert len(server.requests) == 3


async def test_an_unknown_model_names_the_served_ones() -> None:
    with serving(refused(404, "The model `persistent` does not exist.")) as server, pytest.raises(UserError) as caught:
        await ask(server)
    assert "base, persistent" in caught.value.message


async def test_a_model_that_is_listed_and_not_found_is_told_in_the_servers_words() -> None:
    with serving(refused(404, "No endpoints found")) as server, pytest.raises(UserError, match="although it serves"):
        await ask(server)


async def test_a_filter_of_prompts_refuses_one_conversation_and_not_the_run() -> None:
    with serving(completion("a"), refused(403, "Your input was flagged")) as server:
        server.short = completion("2")
        async with ServerModel(server.url, "persistent") as model:
            await model.reply(MESSAGES, seed=1, turn=0)
            with pytest.raises(EpisodeFailure, match="403: Your input was flagged"):
                await model.reply(MESSAGES, seed=1, turn=1)


async def test_an_answer_that_is_all_thought_among_others_costs_its_episode_alone() -> None:
    with serving(completion("a"), answering({"content": None, "reasoning_content": "hm"})) as server:
        async with ServerModel(server.url, "persistent") as model:
            await model.reply(MESSAGES, seed=1, turn=0)
            with pytest.raises(EpisodeFailure, match="come in reasoning_content"):
                await model.reply(MESSAGES, seed=1, turn=1)


async def test_attempts_that_take_long_are_not_repeated_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.6)
    with serving(refused(504, "gateway timeout")) as server, pytest.raises(UserError, match="gateway timeout"):
        await ask(server, seconds=1)
    assert len(server.requests) <= 4, "after one second no more, rather than eight"


async def test_a_refused_key_is_for_the_user() -> None:
    with serving(refused(401, "Unauthorized")) as server, pytest.raises(UserError, match="refuses access"):
        await ask(server)


async def test_text_that_cannot_be_sent_back_is_our_failure() -> None:
    with serving(completion("a\ud800")) as server, pytest.raises(EpisodeFailure, match="Unicode"):
        await ask(server)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": None, "completion_tokens": 2.5},
        {"prompt_tokens": -5, "completion_tokens": "7"},
        {"prompt_tokens": True, "completion_tokens": [1]},
        {"prompt_tokens": 1e400, "completion_tokens": float("nan")},
        {"prompt_tokens": 2**52, "completion_tokens": 10**30},
    ],
)
async def test_a_usage_that_holds_no_counts_is_unknown(usage: object) -> None:
    status, body = completion("a")
    with serving((status, body | {"usage": usage})) as server:
        reply = await ask(server)
    assert (reply.text, reply.usage) == ("a", TokenUsage())
    assert reply.usage.total_tokens is None


def answering(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> tuple[int, dict[str, Any]]:
    """A completion whose message is `message`."""
    status, body = completion("")
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}
    return status, body | {"choices": [choice]} | more


CALL = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("answer", "words", "hint"),
    [
        (answering({"content": None, "reasoning_content": "hm"}), "come in reasoning_content", "reasoning parser"),
        (answering({"content": "", "reasoning": "hm"}), "come in reasoning,", "reasoning parser"),
        (answering({"content": "\n\n", "reasoning_content": "hm"}), "come in reasoning_content", "reasoning parser"),
        (answering({"content": "", "thinking": "hm"}), "come in thinking,", "reasoning parser"),
        (answering({"content": None, "reasoning_details": [{"text": "hm"}]}), "reasoning_details", "reasoning parser"),
        (answering({"content": None, "function_call": {"name": "f"}}, None), "come as tool_calls", "tool parser"),
        (answering({"content": None, "tool_calls": CALL}, "tool_calls"), "come as tool_calls", "tool parser"),
        (
            answering({"content": "I call f.", "tool_calls": CALL}, "tool_calls"),
            "come as tool_calls",
            "tool parser",
        ),
        (answering({"content": "a"}, model="another"), "answers as 'another'", "look at"),
        (answering({"content": "a"}, model="persistent-s2"), "answers as 'persistent-s2'", "look at"),
    ],
)
async def test_answers_that_are_elsewhere_stop_the_run_with_the_remedy(answer: Any, words: str, hint: str) -> None:
    with serving(answer) as server, pytest.raises(UserError, match=words) as caught:
        await ask(server)
    assert hint in caught.value.hint
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (answering({"content": None, "reasoning": "hm"}, "length"), "all in reasoning and cut"),
        (answering({"content": None, "refusal": "I will not"}), "refuses to answer: I will not"),
        (answering({"content": ""}, "content_filter"), "content_filter"),
        (answering({"content": "half an ans"}, "content_filter"), "content_filter"),
        (answering({"content": ""}, "SAFETY"), "a filter of the server"),
        (answering({"content": "half"}, "insufficient_system_resource"), "broke the answer off"),
        (answering({"content": "a"}, ["stop"]), "not known here"),
        (answering({"content": "half"}, "abort"), "broke the answer off .finish_reason abort"),
        (answering({"content": None}, "error", error={"message": "boom"}), "boom"),
        (answering({"content": "half"}, error={"message": "upstream died", "code": 502}), "upstream died"),
        (answering({"content": "a"}, "vibes"), "not known here: 'vibes'"),
        (answering({"content": None}), "content is null"),
        (answering({"content": 5}), "of type int"),
        (answering({"content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}), "image_url, text"),
        (answering({"content": "a\ud800"}), "Unicode"),
        ((200, {"choices": [{"message": None}]}), "without a message"),
    ],
)
async def test_what_is_no_answer_is_our_failure_and_says_why(answer: Any, words: str) -> None:
    with serving(answer) as server, pytest.raises(EpisodeFailure, match=words) as caught:
        await ask(server, retries=1)
    assert caught.value.origin is Origin.MODEL
    assert server.requests[-1]["messages"] == list(server_module.PROBE), (
        "the server was asked whether it answers at all"
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {"error": {"message": "overloaded", "type": "x"}}), "overloaded"),
        ((200, {"choices": []}), "without a choice"),
        ((204, ""), r"\(nothing\)"),
        (answering({"content": "a" * 9_000_000}), 'more than 8,388,608 bytes; it begins: {"id"'),
        ((500, {"error": {"message": "\x1b[31mbo\ud800om\0\n"}}), "500: \ufffd.31mbo\ufffdom\ufffd$"),
        ((200, "<html><body>Bad gateway</body></html>"), "text/html.*Bad gateway"),
        ((200, 'data: {"choices": [{"delta": {"content": "hi"}}]}\n\ndata: [DONE]'), "no chat completion: data:"),
        ((200, '{"id": "1", "choi'), "no chat completion"),
        ((200, ""), r"\(nothing\)"),
        ((500, {"error": {"message": "oops"}}), "HTTP status 500: oops"),
        ((400, {"error": {"message": "bad template"}}), "refused the request: bad template"),
        ((422, {"detail": [{"loc": ["body", "seed"], "msg": "extra field"}]}), "extra field"),
        ((400, {"detail": "no seed, please"}), "no seed, please"),
        ((400, {"error": "plain words"}), "plain words"),
        ((402, "pay first"), "402: pay first"),
        (None, "no whole answer within 0.2 s"),
    ],
)
async def test_a_server_that_answers_nobody_stops_the_run_in_its_own_words(
    answer: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PROBE_SECONDS", 0.2)
    with serving(answer) as server, pytest.raises(UserError, match=f"gives no answers: .*{words}") as caught:
        await ask(server, retries=1, seconds=0.2 if answer is None else 5)
    assert "finished episodes are kept" in caught.value.hint


@pytest.mark.parametrize(
    ("first", "later", "still"),
    [
        ("vllm:tokens 1", "vllm:tokens 1", True),
        ("vllm:tokens 1", "", True),
        ("vllm:tokens 1", "vllm:tokens {}", False),
        ("http:requests 1", "http:requests 1", False),
    ],
)
async def test_an_engine_whose_figures_stand_still_is_not_waited_for(
    first: str, later: str, still: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(endpoint_module, "QUIET_SECONDS", 0.1)
    looks = itertools.count()

    def metrics() -> str:
        look = next(looks)
        return f"# HELP vllm:tokens\n{later.format(look) if look else first}\npython_gc {look}\n"

    seconds = 10 if still else 0.6
    with serving(None) as server:
        server.metrics = metrics
        with pytest.raises(UserError, match="gives no answers: it made no token" if still else "no whole answer"):
            await ask(server, seconds=seconds)


async def test_a_body_that_drips_is_as_silent_as_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PROBE_SECONDS", 0.2)
    with serving(DRIP) as server, pytest.raises(UserError, match="no whole answer"):
        await ask(server, seconds=0.3)


async def test_one_conversation_that_fails_does_not_stop_the_others_but_twenty_in_a_row_do() -> None:
    with serving(refused(503, "not this one")) as server:
        server.short = completion("2")
        async with ServerModel(server.url, "persistent", retries=0) as model:
            for _ in range(server_module.FAILED_IN_A_ROW - 1):
                with pytest.raises(EpisodeFailure, match="not this one"):
                    await model.reply(MESSAGES, seed=1, turn=0)
            with pytest.raises(UserError, match="20 requests in a row"):
                await model.reply(MESSAGES, seed=1, turn=0)


async def test_text_parts_are_one_text_and_an_alias_is_the_model() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    for name in ("persistent", "persistent-2026-11-01", "/models/persistent", None):
        with serving(answering({"content": parts}, None, model=name)) as server:
            assert (await ask(server)).text == "ab"


@pytest.mark.parametrize(
    ("told", "waits"), [("0.2", 0.2), ("3600", 0), ("-5", 0), ("junk", 0), ("Wed, 21 Oct 2099 07:28:00 GMT", 0)]
)
async def test_a_server_is_waited_for_as_long_as_it_asks_within_reason(told: str, waits: float) -> None:
    with serving(refused(429, "busy"), completion("a")) as server:
        server.headers = {"Retry-After": told}
        started = time.monotonic()
        reply = await ask(server)
        took = time.monotonic() - started
    assert waits <= took < waits + 60
    assert reply.seconds is not None
    assert reply.seconds <= took - waits, "waiting is not the model's time"


@pytest.mark.parametrize(
    ("date", "waits"), [("Wed, 21 Oct 2099 07:27:40 GMT", 20.0), ("Wed, 21 Oct 2099 07:29:00 GMT", None)]
)
def test_a_date_to_wait_for_is_by_the_clock_of_the_server(date: str, waits: float | None) -> None:
    headers = {"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT", "date": date}
    assert server_module._pause(endpoint_module.Said(429, headers, "", None)) == waits


THOUGHTS = ["<think>\nhm\n</think>\n\na", "</think>\n\na", "<think>\n\n</think>\n\na", "<think>\nhm"]


@pytest.mark.parametrize("text", THOUGHTS)
async def test_thinking_that_was_switched_off_stops_the_run_with_the_setting_to_mend(text: str) -> None:
    with serving(completion(text)) as server:
        assert (await ask(server)).text == text, "a model that may think thinks"
        with pytest.raises(UserError, match="think, although enable_thinking false was sent") as caught:
            await ask(server, nothink=True)
    assert "keepstate serve" in caught.value.hint
    with serving(answering({"content": "a", "reasoning_content": "hm"})) as server, pytest.raises(UserError):
        await ask(server, nothink=True)
    with serving(answering({"content": None, "reasoning_content": "hm"}, "length")) as server, pytest.raises(UserError):
        await ask(server, nothink=True)


async def test_a_rare_whim_of_the_model_is_its_own() -> None:
    with serving(*[completion("a")] * 25, completion("<think>hm</think>a")) as server:
        async with ServerModel(server.url, "persistent", nothink=True) as model:
            texts = [(await model.reply(MESSAGES, seed=1, turn=0)).text for _ in range(26)]
            assert texts[-1] == "<think>hm</think>a"
            with pytest.raises(UserError, match="think"):
                await model.reply(MESSAGES, seed=1, turn=0)


async def test_nobody_at_a_url_is_said_at_once() -> None:
    with serving(completion("a")) as server:
        pass
    started = time.monotonic()
    with pytest.raises(UserError, match="no server answers"):
        await ask(server)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("name", "sent"), [("OPENAI_API_KEY", None), ("KEEPSTATE_API_KEY", "Bearer secret")])
async def test_a_server_on_this_machine_gets_its_own_key_alone(
    name: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(completion("a")) as server:
        async with ServerModel(server.url, "persistent") as model:
            assert (await model.reply(MESSAGES, seed=1, turn=0)).text == "a"
    assert server.keys == [sent, sent, sent], "for models, metrics and the answer"


def test_every_client_of_another_machine_gets_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPSTATE_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert connection("https://api.example.com/v1")["headers"] == {"Authorization": "Bearer theirs"}
    monkeypatch.setenv("KEEPSTATE_API_KEY", "mine")
    assert connection("https://api.example.com/v1")["headers"] == {"Authorization": "Bearer mine"}
    for bad in ("a b", "a\n", "clé"):
        monkeypatch.setenv("KEEPSTATE_API_KEY", bad)
        with pytest.raises(UserError, match="no HTTP header") as caught:
            connection("http://127.0.0.1:8000/v1")
        assert bad not in caught.value.message
    for url in ("127.0.0.1:8000/v1", "ftp://a/v1", "http:///v1", "http://a:x/v1"):
        with pytest.raises(UserError, match="no address of a server"):
            connection(url)
