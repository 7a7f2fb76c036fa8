"""An OpenAI-compatible server as a model: vLLM with adapters, or any other endpoint.

    model = ServerModel("http://127.0.0.1:8000/v1", "persistent", Sampling(temperature=0.2), nothink=True)

Sends the conversation as it is and returns the text as it came: nothing is stripped or parsed. Starts no server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
from openai.types.chat import ChatCompletion

from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import ContextOverflow, Message, Reply, Sampling, token_count
from keepstate.vocabulary import Origin

RETRIES = 6
"""With the client's back-off of 0.5 s doubling to 8 s: about 23 s, a server's hiccup but not its restart."""
READ_SECONDS = 900.0
CONNECT_SECONDS = 10.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

_CONTEXT = re.compile(r"context length|max_model_len|prompt is too long|max_tokens must be at least 1", re.IGNORECASE)
_ROOM = (
    re.compile(r"cannot be greater than max_model_len=(?P<context>\d+)"),
    re.compile(r"context length is (?P<context>\d+) tokens and your request has (?P<prompt>\d+) input tokens"),
    re.compile(r"context length is (?P<context>\d+) tokens\b.*?\((?P<prompt>\d+) in the messages"),
)
"""How vLLM 0.32, vLLM 0.10-0.20 and OpenAI say that `max_tokens` is too much for a prompt that itself may fit."""


class ServerModel:
    """One model name on one server. Share it between episodes; close it with `aclose` or `async with`.

    Args:
        base_url: Of the API, ending in `/v1`.
        name: Of the base or an adapter as served.
        sampling: How tokens are picked.
        nothink: Send `enable_thinking: false` to the chat template.
        concurrency: Most requests at once; so many connections are kept open.
        api_key: Defaults to the environment's `OPENAI_API_KEY`; servers on this machine get none.
        retries: Further attempts after a connection error, a time-out, or status 408, 409, 429 and 5xx.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        sampling: Sampling | None = None,
        *,
        nothink: bool = False,
        concurrency: int = 64,
        api_key: str | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.base_url = base_url
        self.name = name
        self.sampling = sampling or Sampling()
        self.nothink = nothink
        self._max_tokens = self.sampling.max_tokens
        local = urlsplit(base_url).hostname in LOOPBACK
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or (None if local else os.environ.get("OPENAI_API_KEY")) or "none",
            max_retries=retries,
            http_client=openai.DefaultAsyncHttpxClient(
                limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
                timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
                trust_env=not local,
            ),
        )

    async def __aenter__(self) -> ServerModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """Ask for one answer.

        Raises:
            EpisodeFailure: The server could not be reached or kept failing (origin model).
            ContextOverflow: The prompt leaves no room for an answer.
            UserError: The server does not know the model, or refuses the key.
        """
        try:
            return await self._ask(messages, seed, self._max_tokens)
        except openai.BadRequestError as error:
            room = self._room(error.message)
            if not room:
                raise refusal(error) from error
        try:
            return await self._ask(messages, seed, room)
        except openai.BadRequestError as error:
            raise refusal(error) from error

    async def served_models(self) -> list[str]:
        """The names this server answers to, sorted."""
        return sorted([model.id async for model in self._client.models.list()])

    async def _ask(self, messages: Sequence[Message], seed: int, max_tokens: int) -> Reply:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": list(messages),
            "temperature": self.sampling.temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        if self.sampling.top_p is not None:
            request["top_p"] = self.sampling.top_p
        if self.nothink:
            request["chat_template_kwargs"] = {"enable_thinking": False}
        try:
            # Not `chat.completions.create`: it walks every message of a growing conversation through its type
            # annotations, 2.3 ms for 10 messages where this takes 0.9 ms whatever their number.
            answer = await self._client.post("/chat/completions", cast_to=ChatCompletion, body=request)
        except openai.BadRequestError:
            raise
        except openai.NotFoundError as error:
            raise await self._unknown(error) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise UserError(
                f"{self.base_url} refuses access: {error.message}", "set OPENAI_API_KEY to a key it accepts"
            ) from error
        except openai.OpenAIError as error:
            raise EpisodeFailure(Origin.MODEL, f"{self.base_url}: {type(error).__name__}: {error}") from error
        return read_reply(answer)

    def _room(self, message: str) -> int:
        """New tokens that would fit, if the server says that only `max_tokens` is too large; 0 otherwise."""
        for pattern in _ROOM:
            if found := pattern.search(message):
                context, prompt = int(found["context"]), int(found.groupdict().get("prompt") or 0)
                self._max_tokens = min(self._max_tokens, context)
                return max(0, min(self._max_tokens, context - prompt))
        return 0

    async def _unknown(self, error: openai.NotFoundError) -> UserError:
        try:
            served = ", ".join(await self.served_models())
        except openai.OpenAIError:
            return UserError(
                f"no OpenAI-compatible API at {self.base_url}: {error.message}", "its URL should end in /v1"
            )
        return UserError(
            f"{self.base_url} does not serve a model named {self.name!r}; it serves: {served or 'none'}",
            "name one of these, or start the server with that adapter: keepstate serve --help",
        )


def refusal(error: openai.BadRequestError) -> Exception:
    """What a refused request means: the context is full, or the request itself is wrong."""
    if _CONTEXT.search(error.message):
        return ContextOverflow(error.message)
    return EpisodeFailure(Origin.MODEL, f"the server refused the request: {error.message}")


def read_reply(answer: Any) -> Reply:
    """The `Reply` in a chat completion.

    Raises:
        EpisodeFailure: It holds no text, or text that cannot be sent back (lone surrogates).
    """
    if not answer.choices:
        raise EpisodeFailure(Origin.MODEL, "the server answered without a choice")
    choice, usage = answer.choices[0], answer.usage
    text: str = choice.message.content or ""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EpisodeFailure(Origin.MODEL, f"the server answered with broken Unicode: {error}") from error
    details = getattr(usage, "prompt_tokens_details", None)
    return Reply(
        text,
        prompt_tokens=token_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=token_count(getattr(usage, "completion_tokens", None)),
        cached_tokens=token_count(getattr(details, "cached_tokens", None)),
        truncated=choice.finish_reason == "length",
    )
