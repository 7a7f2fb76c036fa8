"""An OpenAI-compatible server as a model: vLLM with adapters, or any other endpoint.

    model = ServerModel("http://127.0.0.1:8000/v1", "persistent", Sampling(temperature=0.2), nothink=True)

Sends the conversation as it is and returns the text as it came: nothing is stripped. What the server does wrong is a
failure of ours, or stops the run where every request will meet it; never an answer of the model. Starts no server.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from email.utils import parsedate_to_datetime
from typing import Any

from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.answers import read_reply, reasoning_of, usage_of
from keepstate.models.base import ContextOverflow, Message, Reply, Sampling, ServerGone, token_count
from keepstate.models.cache import Kept
from keepstate.models.endpoint import SECONDS, Endpoint, Said, ServerFault, context_of, key_refused, said_of
from keepstate.models.room import Room, is_about_context
from keepstate.models.thinking import thinks
from keepstate.vocabulary import Origin

RETRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Doubling, so six retries wait about 23 s: a server's hiccup or quick restart, but not vLLM's start."""
BUSY_PAUSE = 60.0
"""The longest where a server says that it is asked too often (429): such limits count by the minute."""
LONGEST_ASKED_PAUSE = 300.0
"""A `Retry-After` beyond it is not waited for: our own pauses are."""
SPENT = "insufficient_quota"
"""How OpenAI names a 429 that no waiting mends."""
GRACE_SECONDS = 20.0
"""An answer may take the whole time limit of its episode and this: whatever takes longer is not being answered."""
READ_SECONDS = 900.0 + GRACE_SECONDS
PROBE_SECONDS = 10.0
RENAMED = re.compile(r"max_tokens.*\b(unsupported|not supported)\b.*max_completion_tokens", re.IGNORECASE | re.DOTALL)
"""How OpenAI's servers refuse the older name of the bound on new tokens."""
FAILED_IN_A_ROW = 20
"""Requests given up without one answer between them, after which a run stops although the server answers others."""
RARE = 20
"""Thoughts in more than one of so many answers are the server's setting, in fewer a whim of the model's."""

CUT_PROMPT = (
    "the server counts fewer tokens in this conversation than in its beginning, so it leaves messages out where they do"
    " not fit: give it a longer context (Ollama: OLLAMA_CONTEXT_LENGTH), or make it refuse"
)
"""Answered, it would be graded as the model's doing."""

PROBE: tuple[Message, ...] = ({"role": "user", "content": "1 + 1"},)


class RequestRefused(Exception):
    """The server refuses this very request: its new tokens, its prompt, or something else in it."""

    def __init__(self, said: Said) -> None:
        super().__init__(said.words)
        self.words, self.code = said.words, said.code


class ServerModel:
    """One model name on one server. Share it between episodes; close it with `aclose` or `async with`.

    Args:
        server: Base URL of the API, ending in `/v1`, or an `Endpoint` that several models share and its owner closes.
        name: Of the base or an adapter as served.
        sampling: How tokens are picked.
        nothink: Send `enable_thinking: false` to the chat template, and stop where the server thinks all the same.
        concurrency: Most requests at once, of a URL.
        retries: Further attempts after a connection error, an error in a 200, or status 408, 409, 425, 429 and 5xx.
        seconds: Longest that one request may take, to its last byte.
        believe: Called when an answer has come, before it counts or is kept; raises where it is another model's.
    """

    def __init__(
        self,
        server: str | Endpoint,
        name: str,
        sampling: Sampling | None = None,
        *,
        nothink: bool = False,
        concurrency: int = 64,
        retries: int = RETRIES,
        seconds: float = READ_SECONDS,
        believe: Callable[[], None] = lambda: None,
    ) -> None:
        self.endpoint = Endpoint(server, concurrency=concurrency) if isinstance(server, str) else server
        self._owned = isinstance(server, str)
        self.name = name
        self.sampling = sampling or Sampling()
        self.nothink = nothink
        self._retries, self._seconds, self._believe = retries, seconds, believe
        self._limit = "max_tokens"
        """How the server calls the bound on new tokens."""
        self.thought_apart = 0
        """Answers whose thoughts the server put beside them: no trace holds those."""
        self._room = Room(self.sampling.max_tokens)
        self._same_names = {name}
        self._spoke = self._thought = 0
        self.patience = None
        """Asked for no more of it by the episode: every request is bounded by `seconds`, and so are their number."""

    async def __aenter__(self) -> ServerModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, unless the endpoint is another's."""
        if self._owned:
            await self.endpoint.aclose()

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """Ask for one answer, with the new tokens that there is room for.

        Raises:
            EpisodeFailure: The server gave no answer that can be used (origin model).
            ContextOverflow: The prompt leaves no room: even a single token was refused, and nothing that the server
                counted says otherwise.
            UserError: No request will be answered: nobody is there, the model is unknown, the key refused, or answers
                are put elsewhere or hold thoughts that were switched off; or the budget is spent.
        """
        if not self.endpoint.reached:
            async with self.endpoint.checking:
                if not self.endpoint.reached:
                    await self.endpoint.reach()  # so that a dead URL is said at once, and not after all retries
        started = time.monotonic()
        try:
            reply = await self._answered(messages, seed)
        except (ServerFault, RequestRefused) as fault:
            raise await self._given_up(fault, started) from fault
        self.endpoint.answers()
        return reply

    async def _answered(self, messages: Sequence[Message], seed: int) -> Reply:
        """An answer within the room there is, by what is known of it; where that fails, by trying."""
        size = self._room.planned(messages)
        if size < 1:
            return await self._fitted(messages, seed, self._room.asked + 1)
        try:
            reply = await self._ask(messages, seed, size)
        except RequestRefused as refused:
            return await self._fitted(messages, seed, size, refused.words)
        left = self._room.left(reply.usage.prompt_tokens)
        if reply.truncated and size < left:  # cut by an estimate
            return await self._fitted(messages, seed, left + 1, had=(reply, size))
        return reply

    async def _fitted(
        self,
        messages: Sequence[Message],
        seed: int,
        refused: int,
        words: str = "",
        had: tuple[Reply, int] | None = None,
    ) -> Reply:
        """The longest answer that fits: one new token shows whether any does and how long the prompt is."""
        short, size = had or (await self._shortest(messages, seed), 0)
        prompt = short.usage.prompt_tokens or None
        told = context_of(await self.endpoint.cards(), self.name)
        for more in self._room.tries(refused, prompt, words, told):
            if more <= size:
                break
            try:
                reply = await self._ask(messages, seed, more)
            except RequestRefused:
                continue
            self._room.accepted(messages, more, prompt, words, told)
            return reply
        return short if had else await self._ask(messages, seed, 1)

    async def _shortest(self, messages: Sequence[Message], seed: int) -> Reply:
        """An answer of one token, which is refused only where the prompt leaves no room or is wrong itself."""
        try:
            return await self._ask(messages, seed, 1, counting=True)
        except RequestRefused as refused:
            words = refused.words if is_about_context(refused.words, refused.code) else None
            told = context_of(await self.endpoint.cards(), self.name)
            if self._room.full(messages, words, told, await self._count(messages) if words is None else 0):
                raise ContextOverflow(refused.words) from refused
            raise ServerFault(f"the server refused the request: {refused.words}") from refused

    async def _count(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt by vLLM's or SGLang's `/tokenize`; 0 where there is none."""
        body = {"model": self.name, "messages": list(messages), "add_generation_prompt": True} | self._template()
        try:
            said = await self.endpoint.ask("POST", "../tokenize", body, seconds=SECONDS)
        except ServerFault:
            return 0
        count = said.body.get("count") if said.status == 200 and isinstance(said.body, dict) else None
        return token_count(count) or 0

    async def _ask(self, messages: Sequence[Message], seed: int, size: int, *, counting: bool = False) -> Reply:
        """Ask until there is an answer or nothing helps.

        Raises:
            RequestRefused: The request itself is refused.
            ServerFault: No attempt was answered.
        """
        started = time.monotonic()
        for attempt in itertools.count():
            try:
                reply = await self._attempt(self._request(messages, seed, size), counting=counting)
                self._room.saw(messages, reply.usage.prompt_tokens)
                return reply
            except ServerFault as fault:
                if not fault.again or attempt >= self._retries or time.monotonic() - started > self._seconds:
                    raise
                if fault.pause:
                    self.endpoint.hold(fault.pause)
                else:
                    longest = BUSY_PAUSE if fault.busy else LONGEST_PAUSE
                    await asyncio.sleep(min(longest, FIRST_PAUSE * 2**attempt) * random.uniform(0.75, 1))
        raise AssertionError

    async def _attempt(self, request: dict[str, Any], *, counting: bool = False) -> Reply:
        """One answer: the one that is kept of exactly this request, else the server's, which is kept if it is one."""
        url, cache, budget = self.endpoint.kept_as, self.endpoint.cache, self.endpoint.budget
        if cache and (kept := cache.find(url, request)):
            try:
                return await self._read(said_of(kept.body), kept.seconds, counting=counting)
            except ServerFault:  # the file is damaged, or was written by a version that took more for an answer
                cache.drop(url, request)
        async with budget.request() if budget else nullcontext():
            await self.endpoint.free()  # after the budget's turn, which may have taken until another hold
            started = time.monotonic()
            said = await self.endpoint.complete(request, seconds=self._seconds)
            await self._check(said)
            self._believe()
            if budget:
                budget.spend(usage_of(said.body))
        seconds = time.monotonic() - started
        reply = await self._read(said, seconds, counting=counting)
        if not self._room.was_whole(request["messages"], reply.usage.prompt_tokens, reply.usage.cached_tokens):
            raise ServerFault(CUT_PROMPT)
        if cache:
            cache.keep(url, request, Kept(said.text, seconds))
        return reply

    async def _read(self, said: Said, seconds: float, *, counting: bool) -> Reply:
        if counting:  # only its usage is looked at
            return read_reply(Said(said.status, said.headers, said.text, _counted(said.body)))
        await self._check_name(said)
        try:
            reply = read_reply(said, seconds, may_think=not self.nothink)
        except UserError as error:
            if self._spoke and not self.nothink and reasoning_of(said.body):  # no setting, as other answers came
                raise ServerFault(error.message) from error
            raise UserError(f"{self.endpoint.base_url}: {error.message}", error.hint) from error
        apart = bool(reasoning_of(said.body))
        self.thought_apart += apart
        thought = self.nothink and (apart or thinks(reply.text))
        self._thought += thought
        self._spoke += not thought
        if thought and self._thought * RARE > self._spoke:
            raise self._thinks()
        return reply

    async def _check(self, said: Said) -> None:
        """Raise what any answer but a completion means."""
        status, url = said.status, self.endpoint.base_url
        what = f"HTTP status {status}"
        error = said.body.get("error") if isinstance(said.body, dict) else None
        if said.fine and error:  # OpenRouter and others put an upstream's status here
            code = error.get("code") if isinstance(error, dict) else None
            status, what = (code if isinstance(code, int) and 400 <= code < 600 else 500), "an error for an answer"
        elif said.fine:
            return
        if status == 401 or (status == 403 and self.endpoint.answered < 0):  # later: this prompt, to a filter
            raise key_refused(url, said.words)
        if status == 404:
            raise await self._unknown(said)
        if status == 429 and SPENT in said.code:
            hint = "see to the account, then repeat the command: finished episodes are kept"
            raise UserError(f"{url} gives no more answers: {said.words}", hint)
        if self._limit == "max_tokens" and status == 400 and RENAMED.search(said.words):
            self._limit = "max_completion_tokens"
            raise ServerFault(said.words, again=True)
        if status in (400, 413, 422) or (status == 500 and is_about_context(said.words, said.code)):
            raise RequestRefused(said)
        again = status in (408, 409, 425, 429) or status >= 500
        asked = _pause(said)
        wait = asked if asked is not None and asked <= LONGEST_ASKED_PAUSE else None
        words = f"{what}: {said.words}" if wait or not asked else f"{what}, asks to wait {asked:,.0f} s: {said.words}"
        raise ServerFault(words, again=again, pause=wait, busy=status == 429)

    async def _unknown(self, said: Said) -> UserError:
        url, served = self.endpoint.base_url, await self.endpoint.cards()
        if served is None:
            return UserError(f"no OpenAI-compatible API at {url}: {said.words}", "its URL should end in /v1")
        names = ", ".join(sorted(served)) or "none"
        if self.name in served:
            message = f"{url} does not answer as {self.name!r}, although it serves: {names}; it says: {said.words}"
            return UserError(message, "look at the server's log")
        return UserError(
            f"{url} does not serve a model named {self.name!r}; it serves: {names}",
            "name one of these, or start the server with that adapter: keepstate serve --help",
        )

    async def _check_name(self, said: Said) -> None:
        """Stop where another model answers: one that is neither an alias, nor a version, nor what ours is made of."""
        told = said.body.get("model") if isinstance(said.body, dict) else None
        if not isinstance(told, str) or not told or told in self._same_names:
            return
        short, long = sorted((told.lower(), self.name.lower()), key=len)
        cards = await self.endpoint.cards() or {}
        ours, theirs = cards.get(self.name), cards.get(told, {})
        root, other = ours.get("root") if ours else None, theirs.get("root")
        if (
            (ours is None and told not in cards)
            or told == root
            or (other == root if root and other else long.startswith(short))
        ):
            self._same_names.add(told)
            return
        raise UserError(
            f"{self.endpoint.base_url} answers as {told!r}, although {self.name!r} was asked",
            f"look at what the server serves under {self.name!r}, and repeat the command: finished episodes are kept",
        )

    def _thinks(self) -> UserError:
        return UserError(
            f"{self.endpoint.base_url} lets {self.name!r} think, although enable_thinking false was sent",
            "start it with keepstate serve; or give vllm serve a --chat-template that heeds it and"
            """ --default-chat-template-kwargs '{"enable_thinking": false}'; to let it think: nothink: false""",
        )

    async def _given_up(self, fault: Exception, started: float) -> Exception:
        """What a request that got no answer means: for its episode, or (where nothing is answered) for the run."""
        endpoint, url = self.endpoint, self.endpoint.base_url
        endpoint.failed += 1
        again = "start it again and repeat the command: finished episodes are kept"
        async with endpoint.checking:
            if endpoint.answered < started:
                if not await self._alive():
                    gone = "gives no answers" if endpoint.answered < 0 else "no longer answers"
                    return ServerGone(f"the server at {url} {gone}: {fault}", again, self._alive)
                endpoint.answered = time.monotonic()
        if endpoint.failed >= FAILED_IN_A_ROW:
            words = f"{endpoint.failed} requests in a row had no answer from {url}; the last: {fault}"
            return ServerGone(words, again, self._alive)
        return EpisodeFailure(Origin.MODEL, f"{url}: {fault}")

    async def _alive(self) -> bool:
        """Whether it answers a short question with one token."""
        try:
            said = await self.endpoint.ask(
                "POST", "/chat/completions", self._request(PROBE, 0, 1), seconds=PROBE_SECONDS
            )
        except ServerFault:
            return False
        return said.fine and isinstance(said.body, dict) and bool(said.body.get("choices"))

    def _request(self, messages: Sequence[Message], seed: int, size: int) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": list(messages),
            "temperature": self.sampling.temperature,
            self._limit: size,
            "seed": seed,
        }
        if self.sampling.top_p is not None:
            request["top_p"] = self.sampling.top_p
        return request | self._template()

    def _template(self) -> dict[str, Any]:
        return {"chat_template_kwargs": {"enable_thinking": False}} if self.nothink else {}


def _counted(body: Any) -> dict[str, Any]:
    """A completion with the usage of `body` and nothing else of it."""
    usage = body.get("usage") if isinstance(body, dict) else None
    return {"choices": [{"message": {"content": ""}, "finish_reason": "length"}], "usage": usage}


def _pause(said: Said) -> float | None:
    """Seconds that a server asks to wait: a number, a date (RFC 9110, section 10.2.3), or OpenAI's milliseconds."""
    try:
        seconds = float(said.headers.get("retry-after-ms", "")) / 1000
    except ValueError:
        told = said.headers.get("retry-after", "")
        try:
            seconds = float(told)
        except ValueError:
            try:
                now = said.headers.get("date")  # by the server's own clock, where it tells
                seconds = parsedate_to_datetime(told).timestamp() - (
                    parsedate_to_datetime(now).timestamp() if now else time.time()
                )
            except (TypeError, ValueError, OverflowError):
                return None
    return seconds if 0 <= seconds < math.inf else None
