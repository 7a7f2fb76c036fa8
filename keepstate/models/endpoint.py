"""How a server is reached: one place for address, key, proxies, connections, and for what it says in its own words.

    endpoint = Endpoint("http://127.0.0.1:8000/v1")
    said = await endpoint.ask("GET", "/models", seconds=10)

Every client of a server is made from `connection`. Knows nothing of conversations; retries nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx2

from keepstate.errors import UserError
from keepstate.files import content_hash
from keepstate.models.base import ServerGone
from keepstate.models.budget import Budget
from keepstate.models.cache import AnswerCache
from keepstate.models.connections import Connections

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
KEY = "KEEPSTATE_API_KEY"
"""Sent to every server that keepstate asks, on this machine too."""
REMOTE_KEY = "OPENAI_API_KEY"
"""Sent to servers on other machines where `KEEPSTATE_API_KEY` is not set: a key of OpenAI's is no local server's."""
SECONDS = 10.0
"""For questions that need no thinking: models, metrics."""
SPREAD_SECONDS = 2.0
"""Most by which those who wait for the same server come apart."""
QUIET_SECONDS = 120.0
"""Between two looks at the figures of an engine that has not answered: it may compile, or read a long prompt slowly."""
SESSION = "X-Session-Id"
"""Of a conversation, by its model, system prompt and goal: Ray Serve hands all its turns to one replica, whose cache
has it. Others do not heed it."""
MAX_WORDS = 600
HIDDEN = "[key left out]"
LEAST_SECRET, SECRET_IN_ANSWER = 4, 16
"""Characters of a key that is hidden in a server's errors, and in its answers, where `EMPTY`, as local servers have it,
may be a word."""
MAX_BODY = 8 * 2**20
"""Bytes of one answer: 12,288 tokens are rarely more than 60 KB."""
_FIGURES = re.compile(r"^(?:vllm|sglang):.*", re.MULTILINE)
CONTEXT_KEYS = ("max_model_len", "loaded_context_length", "context_length", "context_window", "max_context_length")
"""How vLLM and SGLang, LM Studio, OpenRouter, Groq and others name the context in `/v1/models`."""


class ServerFault(Exception):
    """The server gave no answer, or none that can be used.

    Args:
        message: What happened, with the server's own words.
        again: Another attempt may help.
        pause: Seconds that the server asks to wait before it.
        busy: It is asked more often than it allows.
    """

    def __init__(self, message: str, *, again: bool = False, pause: float | None = None, busy: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.pause = pause
        self.busy = busy


@dataclass(frozen=True, slots=True)
class Said:
    """What a server sent back."""

    status: int
    headers: Mapping[str, str]
    text: str
    body: Any
    """Of the JSON; None where it is none."""

    @property
    def fine(self) -> bool:
        """By its status."""
        return 200 <= self.status < 300

    @property
    def models(self) -> dict[str, dict[str, Any]] | None:
        """The models in an answer of `/v1/models`, by name; None where it is no such answer."""
        data = self.body.get("data") if isinstance(self.body, dict) else None
        if not isinstance(data, list) or not all(isinstance(card, dict) and "id" in card for card in data):
            return None
        return {str(card["id"]): card for card in data}

    @property
    def words(self) -> str:
        """Its message, wherever it stands (`error.message`, `error`, `detail`, `message`), else all it said."""
        return plain(_message(self.body) or self.text) or "(nothing)"

    @property
    def code(self) -> str:
        """The names that it gives its error, in one text."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        places = [place for place in (error, self.body) if isinstance(place, dict)]
        return " ".join(str(place[key]) for place in places for key in ("code", "type") if key in place)


def connection(base_url: str) -> dict[str, Any]:
    """How every client of the server at `base_url` is made: its key, and a proxy for other machines only.

    A user and password in the address are sent instead of the key.

    Raises:
        UserError: That is no address of a server, or the key cannot be sent.
    """
    try:
        parts = urlsplit(base_url)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise UserError(f"{base_url!r} is no address of a server", "write it as http://HOST:PORT/v1")
    local = parts.hostname in LOOPBACK
    name = KEY if os.environ.get(KEY) or local else REMOTE_KEY
    key = os.environ.get(name)
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise UserError(
            f"the key in {name} holds a character that no HTTP header can carry (a space, a line's end, an accent)",
            f"set {name} again, without quotes or a line's end inside",
        )
    made: dict[str, Any] = {"trust_env": not local, "follow_redirects": True, "headers": {}}
    if parts.username is not None:
        return made | {"auth": (unquote(parts.username), unquote(parts.password or ""))}
    return made | ({"headers": {"Authorization": f"Bearer {key}"}} if key else {})


def use_key_file(path: Path) -> None:
    """Take the key in a file for every server that this process asks or starts.

    Raises:
        UserError: There is none, or more than one line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:  # whose own words may hold bytes of the key
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise UserError(f"the key in {path} cannot be read: {reason}", "name a file that holds it") from error
    if len(lines) != 1:
        raise UserError(f"{path} holds {len(lines)} words, a key is one", "write the key alone into it")
    os.environ[KEY] = lines[0]


def shown(base_url: str) -> str:
    """The address without user and password, as it is told, recorded and asked."""
    parts = urlsplit(base_url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _secrets(made: Mapping[str, Any]) -> list[str]:
    """What a connection sends that no server's words may carry into a file, also as JSON writes it, longest first."""
    told = [made["headers"].get("Authorization", "").removeprefix("Bearer "), *made.get("auth", ())[1:]]
    forms = {form for key in told for form in (key, json.dumps(key)[1:-1], key.replace("/", "\\/"))}
    return sorted((form for form in forms if len(form) >= LEAST_SECRET), key=len, reverse=True)


def key_refused(base_url: str, words: str) -> UserError:
    """What to tell of a server that wants a key, or another one."""
    local = urlsplit(base_url).hostname in LOOPBACK
    names = f"{KEY} ({REMOTE_KEY} goes to other machines only)" if local else f"{KEY} or {REMOTE_KEY}"
    return UserError(f"{base_url} refuses access: {words}", f"set {names} to a key that it accepts")


class Endpoint:
    """One server. Share it between all models of a run; close it with `aclose`.

    Args:
        base_url: Of the API, ending in `/v1`.
        concurrency: Most requests at once; so many connections are kept open.
        cache: Where models look for answers and keep them; its owner closes it.
        budget: What all answers together may take.
        kept_as: Base URL under which answers are kept: that of the first of several servers alike, its own where None.
    """

    def __init__(
        self,
        base_url: str,
        *,
        concurrency: int = 64,
        cache: AnswerCache | None = None,
        budget: Budget | None = None,
        kept_as: str | None = None,
    ) -> None:
        self.cache, self.budget = cache, budget
        made = connection(base_url)
        self.base_url = shown(base_url).rstrip("/")
        self.kept_as = shown(kept_as or base_url).rstrip("/")
        self.answered = float("-inf")
        """When it last gave an answer that could be used, on the clock of `time.monotonic`."""
        self.reached = False
        """Somebody answered there once."""
        self._has_figures = False
        """It told what its engine counts, when it was reached."""
        self.failed = 0
        """Requests given up since then."""
        self.checking = asyncio.Lock()
        """Held while somebody finds out whether it still answers."""
        self._connections = Connections(made, concurrency + 2)
        self._secrets = _secrets(made)
        self._held_until = float("-inf")
        """When it may be asked again after it asked to wait, on the clock of `time.monotonic`."""

    def hold(self, seconds: float) -> None:
        """It asks to be left alone for so long: all who ask it wait."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    async def free(self) -> None:
        """Wait until it may be asked again, each a little longer by chance, so that not all come at once."""
        if (wait := self._held_until - time.monotonic()) > 0:
            await asyncio.sleep(wait + random.uniform(0, min(SPREAD_SECONDS, wait)))

    def _without_key(self, text: str, *, fine: bool) -> str:
        for secret in self._secrets:
            if not fine or len(secret) >= SECRET_IN_ANSWER:
                text = text.replace(secret, HIDDEN)
        return text

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, seconds: float, session: str = ""
    ) -> Said:
        """Send one request and read the whole answer, whatever its status.

        Args:
            method: GET or POST.
            path: Below the base URL; `..` leaves `/v1`.
            body: Sent as JSON.
            seconds: From sending to the last byte: a server that drips is as silent as one that hangs.
            session: Of which conversation it is.

        Raises:
            ServerFault: It could not be reached, broke off, or took longer.
        """
        url = f"{self.base_url.removesuffix('/v1')}{path[2:]}" if path.startswith("..") else f"{self.base_url}{path}"
        content = bytearray()
        try:
            stream = self._connections.stream(method, url, json=body, headers={SESSION: session} if session else None)
            async with asyncio.timeout(seconds), stream as response:
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_BODY:
                        start = plain(self._without_key(content[:200].decode(errors="replace"), fine=False))
                        raise ServerFault(f"an answer of more than {MAX_BODY:,} bytes; it begins: {start}")
        except TimeoutError as error:
            raise ServerFault(f"no whole answer within {seconds:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            words = self._without_key(f"{type(error).__name__}: {error}".removesuffix(": "), fine=False)
            raise ServerFault(words, again=True) from error
        text = self._without_key(content.decode(errors="replace"), fine=response.is_success)
        return said_of(text, response.status_code, response.headers)

    async def complete(self, request: Mapping[str, Any], *, seconds: float) -> Said:
        """Ask for a chat completion, as `ask` does, and look at times whether the engine does anything at all.

        Raises:
            ServerFault: Also where none of its figures moved from one look to the next. One that tells none is waited
                for to the end: silence alone is no sign, as a slow server with one slot is silent too.
        """
        session = content_hash([request["model"], request["messages"][:2]])
        asked = self.ask("POST", "/chat/completions", request, seconds=seconds, session=session)
        asking = asyncio.ensure_future(asked)
        looks: list[str | None] = []
        try:
            while not (await asyncio.wait((asking,), timeout=QUIET_SECONDS if self._has_figures else None))[0]:
                looks.append(await self.figures())
                if looks[-2:-1] == looks[-1:] and not asking.done():
                    raise ServerFault(f"it made no token for {QUIET_SECONDS:g} s, by its own metrics")
            return asking.result()
        finally:
            asking.cancel()

    async def figures(self) -> str | None:
        """Everything that an engine counts of its work; None where it does not tell, as all but vLLM and SGLang."""
        try:
            told = "\n".join(_FIGURES.findall((await self.ask("GET", "../metrics", seconds=SECONDS)).text)) or None
        except ServerFault:
            told = None
        self._has_figures = self._has_figures or told is not None
        return told

    async def reach(self) -> None:
        """Make sure that somebody answers there at all.

        Raises:
            ServerGone: Nobody does.
            UserError: The key is refused.
        """
        try:
            await self.models()
        except ServerFault as fault:
            hint = "start it, or correct the URL (it ends in /v1)"
            raise ServerGone(f"no server answers at {self.base_url} ({fault})", hint, self.is_there) from fault
        await self.figures()
        self.reached = True

    async def is_there(self) -> bool:
        """Whether it tells its models."""
        return await self.cards() is not None

    async def cards(self) -> dict[str, dict[str, Any]] | None:
        """What it says of the models it serves, by name; None where it does not tell."""
        try:
            return (await self.models()).models
        except (ServerFault, UserError):
            return None

    async def models(self, *, seconds: float = SECONDS) -> Said:
        """Ask which models it serves, as `ask` does.

        Raises:
            ServerFault: It gave no answer.
            UserError: It refuses the key.
        """
        said = await self.ask("GET", "/models", seconds=seconds)
        if said.status in (401, 403):
            raise key_refused(self.base_url, said.words)
        return said

    def answers(self) -> None:
        """It just gave an answer that could be used."""
        self.answered, self.failed = time.monotonic(), 0


def said_of(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Said:
    """What a server sent back, from its text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return Said(status, headers or {}, text, value)


def plain(told: str) -> str:
    """A server's words as one line that a terminal and a file can hold."""
    words = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(told.split()))
    return words[:MAX_WORDS] + "..." if len(words) > MAX_WORDS else words


def served_models(base_url: str, *, seconds: float = SECONDS) -> dict[str, dict[str, Any]]:
    """`Endpoint.models` for who has no event loop: what a server says of the models it serves, by name.

    Raises:
        ServerFault: It gave no answer, or none that names models.
        UserError: That is no address of a server, or it refuses the key.
    """

    async def ask() -> Said:
        endpoint = Endpoint(base_url, concurrency=1)
        try:
            return await endpoint.models(seconds=seconds)
        finally:
            await endpoint.aclose()

    said = asyncio.run(ask())
    if said.models is None:
        raise ServerFault(f"HTTP status {said.status}: {said.words}")
    return said.models


def context_of(cards: Mapping[str, Mapping[str, Any]] | None, name: str) -> int | None:
    """Tokens of context that a server tells of a model; vLLM tells it of an adapter's base alone."""
    cards = cards or {}
    card = cards.get(name, {})
    for place in (card, cards.get(str(card.get("parent")), {})):
        for key in CONTEXT_KEYS:
            told = place.get(key)
            if isinstance(told, int) and not isinstance(told, bool) and told > 0:
                return told
    return None


def _message(value: Any, depth: int = 4) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "; ".join(filter(None, (_message(item, depth - 1) for item in value[:10])))
    if isinstance(value, dict) and depth:
        for key in ("error", "message", "detail", "msg", "errors"):
            if told := _message(value.get(key), depth - 1):
                return told
    return ""
