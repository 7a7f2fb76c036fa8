"""`keepstate serve check`: what a running server really does, asked of itself; ours or anybody's.

Everything is asked over HTTP. What a server cannot or will not tell is unknown, which is neither right nor wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx2

from keepstate.dataset.manifest import TEMPLATE, read_manifest
from keepstate.dataset.parity import local_prompts
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.models.endpoint import ServerFault, connection, context_of, served_models, shown
from keepstate.serve.applied import ROUNDING, SECONDS, largest_difference, prompt_log_probs
from keepstate.serve.loaded import AdapterContent, loaded_by
from keepstate.serve.prompt_parity import difference

THINK, END_THINK = "<think>", "</think>"
BLOCK = 128
"""Tokens of the largest usual block of a prefix cache: the last, half-filled one is read again."""
LONG_TEXT = "one two three four five six "


class Standing(StrEnum):
    """How one thing stands."""

    OK = "ok"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ServerRow:
    """One thing that was asked."""

    topic: str
    standing: Standing
    text: str

    def on(self, base_url: str) -> ServerRow:
        """The same, told of one of several servers."""
        return replace(self, topic=f"{shown(base_url)} {self.topic}")


def check_server(base_url: str, *, dataset: Path | None = None) -> list[ServerRow]:
    """Ask a server for everything.

    Args:
        base_url: Ending in `/v1`.
        dataset: One whose chat template and tokenizer it should have.

    Raises:
        UserError: No server answers there, it refuses the key, or there is no such data set.
    """
    try:
        cards = served_models(base_url)
    except ServerFault as fault:
        raise UserError(
            f"no server answers at {shown(base_url)} ({fault})", "start it, or correct the URL (it ends in /v1)"
        ) from fault
    if not cards:
        raise UserError(f"{shown(base_url)} serves no model", "load one there, or ask another server")
    checker = ServerChecker(base_url, cards)
    rows = [*checker.models(), *checker.thinking(), *checker.adapters(), checker.prefix_cache()]
    return [*rows, *(checker.template(dataset) if dataset else ())]


def applied_row(name: str, parent: str, most: float, noise: float) -> ServerRow:
    """Whether an adapter is applied.

    Args:
        name: Of the adapter.
        parent: Of its base model.
        most: The largest difference of a log-probability between both.
        noise: The same between two answers of the base: on a GPU others who ask at the same time change its rounding.
    """
    text = f"largest difference from {parent} {most:.3g}"
    if most > max(ROUNDING, 2 * noise):
        return ServerRow(f"{name}: applied", Standing.OK, text)
    if noise > ROUNDING:
        text += f", of {parent} from itself {noise:.3g}: check again while nobody else asks"
        return ServerRow(f"{name}: applied", Standing.UNKNOWN, text)
    return ServerRow(f"{name}: applied", Standing.WRONG, f"it changes nothing: {text}")


class ServerChecker:
    """Asks one server.

    Args:
        base_url: Ending in `/v1`.
        cards: What it says of its models, by name.
    """

    def __init__(self, base_url: str, cards: Mapping[str, Mapping[str, Any]]) -> None:
        self.base_url, self.cards = base_url.rstrip("/"), cards
        self.loaded = loaded_by(base_url)

    def models(self) -> Iterator[ServerRow]:
        """What it serves, each with its context."""
        for name, card in self.cards.items():
            context, parent = context_of(self.cards, name), card.get("parent")
            what = f"adapter of {parent}" if parent else "base model"
            standing = Standing.OK if context else Standing.UNKNOWN
            yield ServerRow(name, standing, f"{what}, context {f'{context:,} tokens' if context else 'not told'}")

    def thinking(self) -> Iterator[ServerRow]:
        """Whether the tokens of a prompt forbid to think, as the server makes them and as a benchmark asks for them."""
        for name in self.cards:
            plain, asked = self._thinks(name, {}), self._thinks(name, {"enable_thinking": False})
            standing, text = Standing.UNKNOWN, "its prompts' tokens are not told (no /tokenize)"
            if asked is not None:
                standing = Standing.WRONG if asked else Standing.OK
                text = "off in the tokens of its prompts" + (", but only where a request asks for it" if plain else "")
                if asked:
                    text = "on: the prompt leaves it open, also where a request turns it off"
            yield ServerRow(f"{name}: thinking", standing, text)

    def adapters(self) -> Iterator[ServerRow]:
        """Whether each is applied, and whether its folder still holds what was loaded."""
        parents = {name: str(card.get("parent")) for name, card in self.cards.items()}
        parents = {name: parent for name, parent in parents.items() if parent in self.cards}
        unadapted = {parent: self._log_probs(parent) for parent in set(parents.values())}
        for name, parent in parents.items():
            theirs, ours, again = unadapted[parent], self._log_probs(name), self._log_probs(parent)
            if theirs is None or ours is None or again is None:
                yield ServerRow(f"{name}: applied", Standing.UNKNOWN, "log-probabilities of a prompt are not told")
            else:
                yield applied_row(name, parent, largest_difference(ours, theirs), largest_difference(again, theirs))
            yield self._weights(name)

    def prefix_cache(self) -> ServerRow:
        """Whether the second turn of a conversation finds the first one in the cache."""
        name = next(iter(self.cards))
        topic, context = f"{name}: prefix cache", context_of(self.cards, name) or 2048
        messages = [{"role": "user", "content": f"{time.time_ns()} {LONG_TEXT * min(100, context // 20)}"}]
        first = self._answer(name, messages)
        if first is None:
            return ServerRow(topic, Standing.UNKNOWN, "it did not answer a conversation")
        messages += [{"role": "assistant", "content": first[0]}, {"role": "user", "content": "go on"}]
        second = self._answer(name, messages)
        told = second and (second[1].get("prompt_tokens_details") or {}).get("cached_tokens")
        if told is None and self.loaded is None:
            return ServerRow(
                topic,
                Standing.UNKNOWN,
                "not told, or nothing came from it: vllm serve tells with --enable-prompt-tokens-details",
            )
        before, cached = int(first[1].get("prompt_tokens", 0)), int(told or 0)
        text = f"of {before:,} tokens of the first turn {min(cached, before):,} came from the cache in the second"
        return ServerRow(topic, Standing.OK if cached > before - BLOCK else Standing.WRONG, text)

    def template(self, dataset: Path) -> Iterator[ServerRow]:
        """Whether its prompts are those of a data set's own template and tokenizer.

        Raises:
            UserError: There is no such data set.
        """
        manifest = read_manifest(dataset)
        local = local_prompts(load_template(dataset / TEMPLATE), TextTokenizer(Path(manifest.tokenizer.name)))
        for name in self.cards:
            try:
                words = difference(self.base_url, name, local)
                standing, text = (Standing.WRONG, words) if words else (Standing.OK, f"prompts are those of {dataset}")
            except UserError as error:
                standing, text = Standing.UNKNOWN, error.message
            yield ServerRow(f"{name}: template", standing, text)

    def _weights(self, name: str) -> ServerRow:
        """What it loaded under a name, and whether that still lies in the folder."""
        topic, content = f"{name}: weights", self.loaded.adapters.get(name) if self.loaded else None
        if content is None:
            return ServerRow(topic, Standing.UNKNOWN, "not known: `keepstate serve` did not start it here")
        same = AdapterContent.read(content.folder) == content
        text = f"SHA-256 {str(content.weights)[:12]}, as in {content.folder}"
        changed = f"SHA-256 {str(content.weights)[:12]}; {content.folder} changed after it was loaded: start it again"
        return ServerRow(topic, Standing.OK if same else Standing.WRONG, text if same else changed)

    def _thinks(self, name: str, switches: Mapping[str, Any]) -> bool | None:
        """Whether a prompt leaves thinking open; None where its tokens are not told."""
        conversation = {"messages": [{"role": "user", "content": "1 + 1"}], "add_generation_prompt": True}
        told = self._tokens(name, conversation | ({"chat_template_kwargs": switches} if switches else {}))
        if told is None:
            return None
        if END_THINK in told or THINK in told:
            return END_THINK not in told
        return self._tokens(name, {"prompt": THINK, "add_special_tokens": False}) == [THINK]

    def _tokens(self, name: str, text: Mapping[str, Any]) -> list[str] | None:
        """The tokens that it makes of a text, as strings."""
        url = f"{self.base_url.removesuffix('/v1')}/tokenize"
        body = self._post(url, {"model": name, **text, "return_token_strs": True})
        told = (body or {}).get("token_strs")
        return [str(each) for each in told] if isinstance(told, list) else None

    def _log_probs(self, name: str) -> list[float] | None:
        try:
            return prompt_log_probs(self.base_url, name)
        except httpx2.HTTPError:
            return None

    def _answer(self, name: str, messages: list[dict[str, str]]) -> tuple[str, dict[str, Any]] | None:
        """The text of an answer and what it took."""
        asked = {"model": name, "messages": messages, "max_tokens": 8, "temperature": 0}
        body = self._post(f"{self.base_url}/chat/completions", asked)
        try:
            return str((body or {})["choices"][0]["message"]["content"] or ""), dict((body or {}).get("usage") or {})
        except (KeyError, TypeError, IndexError):
            return None

    def _post(self, url: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """The JSON that it answers; None where it gives none."""
        try:
            answer = httpx2.post(url, json=dict(asked), timeout=SECONDS, **connection(url))
            body = answer.json() if answer.status_code == 200 else None
        except (httpx2.HTTPError, ValueError):
            return None
        return body if isinstance(body, dict) else None
