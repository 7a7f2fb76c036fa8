"""A full context, in the words of many servers and in words that nobody has seen: answers get the room that is left."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from stub_http import JsonHandler, answering_with

from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import ContextOverflow, Message, Sampling
from keepstate.models.server import ServerModel

CONTEXT, ASKED = 40_960, 12_288
Words = Callable[[int, int], Any]
"""The body of a refusal, of the prompt's tokens and the new tokens asked for."""


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": text, "type": "BadRequestError", "code": 400} | more}


def vllm_24(prompt: int, new: int) -> Any:
    bound = CONTEXT - new + 1
    return said(
        f"This model's maximum context length is {CONTEXT} tokens. However, you requested {new} output tokens and your"
        f" prompt contains at least {bound} input tokens, for a total of at least {CONTEXT + 1} tokens. Please reduce"
        " the length of the input prompt or the number of requested output tokens."
        f" (parameter=input_tokens, value={bound})"
    )


WORDS: dict[str, Words] = {
    "vllm 0.24": vllm_24,
    "vllm 0.24, at the top": lambda p, n: vllm_24(p, n)["error"],
    "vllm 0.24, detail": lambda p, n: {"detail": vllm_24(p, n)["error"]["message"]},
    "vllm 0.24, error is a text": lambda p, n: {"error": vllm_24(p, n)["error"]["message"]},
    "vllm 0.24, plain": lambda p, n: vllm_24(p, n)["error"]["message"],
    "vllm 0.10": lambda p, n: said(
        f"'max_tokens' or 'max_completion_tokens' is too large: {n}. This model's maximum context length is {CONTEXT} "
        f"tokens and your request has {p} input tokens ({n} > {CONTEXT} - {p})."
    ),
    "vllm 0.32": lambda p, n: said(
        f"max_tokens={n} cannot be greater than max_model_len={CONTEXT}. Please request fewer output tokens."
        if n > CONTEXT
        else f"Input length ({p}) exceeds model's maximum context length ({CONTEXT})."
    ),
    "sglang": lambda p, n: said(
        f"Requested token count exceeds the model's maximum context length of {CONTEXT} tokens. You requested a total"
        f" of {p + n} tokens: {p} tokens from the input messages and {n} tokens for the completion."
    ),
    "openrouter": lambda p, n: said(
        f"This endpoint's maximum context length is {CONTEXT} tokens. However, you requested about {p + n} tokens ({p}"
        f" of text input, {n} in the output). Please reduce the length of either one."
    ),
    "openai": lambda p, n: said(
        f"This model's maximum context length is {CONTEXT:,} tokens. However, you requested {p + n:,} tokens.",
        code="context_length_exceeded",
    ),
    "the code alone": lambda p, n: said("Bad request.", code="context_length_exceeded"),
    "llama.cpp": lambda p, n: said(
        f"request ({p + n} tokens) exceeds the available context size ({CONTEXT} tokens), try increasing it",
        type="exceed_context_size_error",
    ),
    "tgi": lambda p, n: {
        "error": f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {CONTEXT}. Given: {p} `inputs`"
        f" tokens and {n} `max_new_tokens`",
        "error_type": "validation",
    },
    "lm studio": lambda p, n: {
        "error": f"Trying to keep the first {p} tokens when context the overflows. However, the model is loaded with"
        f" context length of only {CONTEXT} tokens, which is not enough."
    },
    "dashscope": lambda p, n: said(
        f"<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, {CONTEXT}]"
    ),
    "gemini": lambda p, n: said(f"The input token count is {p} but model only supports up to {CONTEXT}."),
    "a comparison": lambda p, n: said(f"ValueError: prompt tokens ({p}) > context length {CONTEXT}"),
    "a prompt that does not fit": lambda p, n: said(f"Unable to fit {p + n} tokens into a context of {CONTEXT}."),
    "a list of details": lambda p, n: {
        "detail": [{"loc": ["body"], "msg": f"prompt is too long: {p} > {CONTEXT} maximum"}]
    },
}


CASES = [*((name, 400) for name in WORDS), *(("vllm 0.24", status) for status in (413, 422, 500))]


@dataclass
class Engine:
    """A server with a context, which counts a prompt's tokens as a quarter of its bytes."""

    words: Words
    status: int = 400
    tells: bool = False
    """Its context, in `/v1/models`."""
    counts: bool = True
    """Tokens, in the usage."""
    tokenizes: bool = False
    long: bool = False
    """Its answers use up all they may."""
    sizes: list[int] = field(default_factory=list)
    """New tokens that were asked for."""
    url: str = ""

    def answer(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
        prompt = sum(len(message["content"]) for message in request["messages"]) // 4
        if path == "/tokenize":
            return (200, {"count": prompt, "tokens": []}) if self.tokenizes else (404, {"detail": "Not Found"})
        new = request["max_tokens"]
        self.sizes.append(new)
        if prompt + new > CONTEXT:
            return self.status, self.words(prompt, new)
        usage = {"prompt_tokens": prompt, "completion_tokens": new if self.long else 5}
        choice = {"message": {"content": f"{new}"}, "finish_reason": "length" if self.long else "stop"}
        return 200, {"choices": [choice], "usage": usage if self.counts else None}


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    class Handler(JsonHandler):
        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": "m", "max_model_len": CONTEXT if engine.tells else None}]})

        def do_POST(self) -> None:
            self.send(*engine.answer(self.path, self.asked()))

    with answering_with(Handler) as address:
        engine.url = f"{address}/v1"
        yield engine


def prompt_of(tokens: int) -> list[Message]:
    return [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "u" * (4 * tokens - 400)}]


async def ask(engine: Engine, *tokens: int, asked: int = ASKED) -> list[str]:
    async with ServerModel(engine.url, "m", Sampling(max_tokens=asked), retries=6) as model:
        return [(await model.reply(prompt_of(size), seed=1, turn=turn)).text for turn, size in enumerate(tokens)]


@pytest.mark.parametrize(("name", "status"), CASES)
async def test_an_answer_gets_the_room_that_is_left_in_anybodys_words(name: str, status: int) -> None:
    with running(Engine(WORDS[name], status)) as engine:
        (text,) = await ask(engine, 30_000)
        exact = CONTEXT - 30_000
        least = 0.75 * exact if name == "the code alone" else exact
        assert least <= int(text) <= exact
        assert engine.sizes[:2] == [ASKED, 1]


@pytest.mark.parametrize(("name", "status"), CASES)
async def test_a_prompt_that_leaves_no_room_ends_the_episode_after_one_more_request(name: str, status: int) -> None:
    for tokens in (CONTEXT, CONTEXT + 10_000):
        with running(Engine(WORDS[name], status)) as engine:
            with pytest.raises(ContextOverflow):
                await ask(engine, tokens)
            assert engine.sizes == [ASKED, 1]


@pytest.mark.parametrize("tells", [False, True])
async def test_what_was_learnt_spares_later_turns_every_refusal(tells: bool) -> None:
    with running(Engine(vllm_24, tells=tells)) as engine:
        texts = await ask(engine, 20_000, 30_000, 31_000, 34_000, 500)
        assert engine.sizes[:4] == [ASKED, ASKED, 1, *([10_960] if tells else [10_961])]
        assert len(engine.sizes) == (7 if tells else 8)
        assert texts[0] == texts[-1] == str(ASKED)
        assert texts[1] == "10960"
        assert 0.85 * 9_960 < int(texts[2]) <= 9_960, "rather less than is refused: this answer did not need it"


async def test_an_answer_that_an_estimate_cut_is_asked_again_with_all_the_room() -> None:
    with running(Engine(vllm_24, tells=True, long=True)) as engine:
        assert await ask(engine, 30_000, 31_000, 40_955) == ["10960", "9960", "5"]


async def test_a_context_below_what_is_wanted_costs_two_requests_once() -> None:
    with running(Engine(WORDS["vllm 0.32"], tells=True)) as engine:
        await ask(engine, 700, 900, 1_500, 700, asked=50_000)
        assert engine.sizes[:3] == [50_000, 1, CONTEXT - 700]
        assert len(engine.sizes) == 6


UNSEEN: Words = lambda p, n: said("Das passt hier nicht hinein.")  # noqa: E731


async def test_words_that_nobody_has_seen_are_no_overflow_but_a_room_to_be_found() -> None:
    with running(Engine(UNSEEN)) as engine:
        first, second = await ask(engine, 30_000, 30_500)
        assert 0.75 * 10_960 <= int(first) <= 10_960
        assert 0.6 * 10_460 <= int(second) <= 10_460
        assert engine.sizes[-2:] == [int(first), int(second)], "the second needed no refusal"


async def test_a_full_context_in_words_that_nobody_has_seen_needs_a_count() -> None:
    with running(Engine(UNSEEN, tells=True, tokenizes=True)) as engine, pytest.raises(ContextOverflow):
        await ask(engine, 50_000)
    with running(Engine(UNSEEN, tells=True)) as engine, pytest.raises(ContextOverflow):
        await ask(engine, 1_000, 50_000)  # by what it counted before
    with running(Engine(UNSEEN, tells=True)) as engine:
        with pytest.raises(EpisodeFailure, match="Das passt hier nicht hinein"):
            await ask(engine, 50_000)
        assert engine.sizes == [ASKED, 1, 1], "refused twice; a short question is answered"


@dataclass
class Broken(Engine):
    """Refuses long conversations in words about a context, whatever they are asked for."""

    above: int = 3_000

    def answer(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
        prompt = sum(len(message["content"]) for message in request["messages"]) // 4
        if path == "/tokenize" or prompt < self.above:
            return super().answer(path, request)
        self.sizes.append(request["max_tokens"])
        return 413, vllm_24(prompt, ASKED)


@pytest.mark.parametrize("tells", [False, True])
async def test_words_about_a_context_that_the_servers_own_counts_belie_are_its_fault(tells: bool) -> None:
    with running(Broken(vllm_24, tells=tells)) as engine:
        async with ServerModel(engine.url, "m", Sampling(max_tokens=ASKED)) as model:
            messages = prompt_of(1_000)
            assert await model.reply(messages, seed=1, turn=0)
            messages += [{"role": "assistant", "content": "a" * 4_000}, {"role": "user", "content": "o" * 4_000}]
            with pytest.raises(EpisodeFailure, match="refused the request: This model's maximum context length"):
                await model.reply(messages, seed=1, turn=1)
        assert engine.sizes == [ASKED, ASKED, 1, 1], "one more request, and whether it answers at all"


async def test_a_context_that_is_smaller_than_the_server_tells_is_still_full() -> None:
    small = Engine(lambda p, n: said(f"maximum context length is 8192 tokens, the prompt has {p}, asked {n}"))
    small.answer = lambda path, request: (  # type: ignore[method-assign]
        Engine.answer(small, path, request)
        if len(request["messages"][-1]["content"]) < 30_000
        else (400, small.words(9_000, request["max_tokens"]))
    )
    small.tells = True
    with running(small) as engine:
        async with ServerModel(engine.url, "m", Sampling(max_tokens=ASKED)) as model:
            await model.reply(prompt_of(1_000), seed=1, turn=0)
            with pytest.raises(ContextOverflow):
                await model.reply(prompt_of(9_000), seed=1, turn=1)


@pytest.mark.parametrize("name", ["vllm 0.24", "the code alone"])
async def test_a_server_that_counts_nothing_is_counted_down(name: str) -> None:
    with running(Engine(WORDS[name], counts=False)) as engine:
        first, second, short = await ask(engine, 38_000, 38_020, 100)
        assert 0.75 * 2_960 <= int(first) <= 2_960
        assert second == first
        assert short == str(ASKED), "a short conversation is not held to what a long one left"


async def test_a_cap_on_answers_is_no_context() -> None:
    class Capped(Engine):
        def answer(self, path: str, request: dict[str, Any]) -> tuple[int, Any]:
            if request["max_tokens"] > 4_096:
                self.sizes.append(request["max_tokens"])
                return 400, said("max_tokens is too large: this model supports at most 4096 completion tokens")
            return super().answer(path, request)

    with running(Capped(vllm_24)) as engine:
        assert await ask(engine, 700, 9_000) == ["4096", "4096"]


@pytest.mark.parametrize(
    "words",
    [
        "Request too large: tokens per minute (TPM): Limit 6000, requested 53192",
        "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16, but got 1 instead.",
        "Out of memory: the input needs more than the limit of 80 GiB",
        "Unrecognized request argument supplied: chat_template_kwargs",
        "temperature: Input should be less than or equal to 2",
        "Input validation error: `seed` greater than the maximum",
        "body.seed: Input should be greater than or equal to 0",
        "min_tokens must be greater than 0 with this prompt",
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    ],
)
async def test_a_limit_of_another_kind_is_no_context(words: str) -> None:
    with (
        running(Engine(lambda p, n: said(words), 413)) as engine,
        pytest.raises((EpisodeFailure, UserError), match="refused the request: " + re.escape(words[:20])),
    ):
        await ask(engine, 50_000)
