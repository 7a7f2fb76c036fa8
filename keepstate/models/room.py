"""How many new tokens fit: learnt from what a server tells, refuses and accepts, in no particular words.

Shared by all conversations with one model. Asks nobody: `keepstate.models.server` does.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence

from keepstate.models.base import Message

MARGIN, SPARE = 1.03, 16
"""On an estimate: conversations of one kind differ by 1 to 2 % in tokens a byte."""
REMEMBERED = 16
OPEN_CONVERSATIONS = 4096
"""Whose last count is remembered."""
COUNTDOWN = 0.75
"""From one try to the next where nothing is known: 12,288 to 1,000 in nine."""
MAX_NUMBERS = 8
LEAST_CONTEXT = 1_000
"""Smaller numbers in a refusal are new tokens, statuses or lines."""
_NUMBER = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\w,])|(?<![\w.])\d{1,9}(?!\w)")
_THING = re.compile(r"context|token|length|\binput\b|\bprompt\b", re.IGNORECASE)
_EXCESS = re.compile(
    r"exceed|long|large|greater|bigger|maximum|limit|overflow|reduce|shorten|too many|less than|"
    r"must be <|not enough|at most|\bfit\b|only supports up to|range of input|surpass|shift|"
    r"\d[^\d=]{0,12}>[^\d=]{0,20}\d",
    re.IGNORECASE,
)
_OTHER = re.compile(
    r"per (second|minute|hour|day)|rate.?limit|quota|TPM|memory|busy|queue|overload|timed? ?out|"
    r"below|minimum|>=|too (small|short|low)|greater than or equal|must be (strictly )?(greater|positive)",
    re.IGNORECASE,
)
"""Limits of another kind: tokens a minute (some servers answer 413 with them), its load, too few new tokens."""
_ANY_PARAMETER = re.compile(r"input validation error|invalid input|input should|input_(value|type)", re.IGNORECASE)
"""What TGI and pydantic say of any parameter, a temperature too."""


class Room:
    """What is known of how much fits.

    Args:
        asked: New tokens that are wanted of every turn.
    """

    def __init__(self, asked: int) -> None:
        self.asked = asked
        self.context: int | None = None
        """Tokens that prompt and answer may have together; None where it is not known."""
        self._exact = False
        """It is the context, and not only what was once accepted."""
        self._found: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        """Bytes of conversations, and the new tokens that fitted where more did not and no context explains it."""
        self._densities: deque[float] = deque(maxlen=REMEMBERED)
        self._counts: dict[int, int] = {}
        """Tokens of conversations, by the hash of their texts."""

    def estimate(self, messages: Sequence[Message]) -> int | None:
        """Tokens that the prompt will have, rather too many; None before any answer told how many a byte has."""
        if not self._densities:
            return None
        return math.ceil(_size(messages) * max(self._densities) * MARGIN) + SPARE

    def full(self, messages: Sequence[Message], words: str | None, told: int | None, counted: int = 0) -> bool:
        """Whether the prompt leaves no room, where not even one new token was accepted.

        Args:
            messages: The prompt.
            words: Of a refusal that says so: it is believed unless what the server counted so far shows that the prompt
                is shorter than its context. None: the refusal says something else, and a count has to show it.
            told: Context that the server tells elsewhere.
            counted: Tokens that it counts in this prompt; 0: it does not.
        """
        context = told or (self.context if self._exact else None)
        if words is None:
            least = counted or _size(messages) * min(self._densities, default=0) / MARGIN
            return context is not None and least >= context
        numbers = [number for number in _numbers(words) if number >= LEAST_CONTEXT and number != self.asked]
        if numbers and context not in numbers:
            context = min(numbers)
        before = self.estimate(messages[:-2])
        if context is None or before is None:
            return True
        return before + _size(messages[-2:]) >= context  # what is new since: a token has a byte at least

    def planned(self, messages: Sequence[Message]) -> int:
        """New tokens to ask for; below 1 where the prompt may leave none."""
        prompt, size = self.estimate(messages), _size(messages)
        found = min((fitted for length, fitted in self._found if size >= length), default=self.asked)
        return found if self.context is None or prompt is None else min(found, self.context - prompt)

    def left(self, prompt: int | None) -> int:
        """New tokens that may fit behind a prompt of so many, at most."""
        known = self._exact and self.context is not None and prompt is not None
        return min(self.asked, self.context - prompt) if known else self.asked  # type: ignore[operator]

    def saw(self, messages: Sequence[Message], prompt: int | None) -> None:
        """The server counted so many tokens in these messages."""
        if prompt:
            self._densities.append(prompt / _size(messages))
            if self.context is not None and prompt >= self.context:
                self.context, self._exact = None, False  # whatever was learnt, it was no context

    def was_whole(self, messages: Sequence[Message], prompt: int | None, cached: int | None) -> bool:
        """Whether the server read all of a conversation, as far as is known: that needs more tokens than its beginning.

        Args:
            messages: The conversation, which goes on from one without the last two of them.
            prompt: Tokens that the server counted in it; None where it does not say.
            cached: Of these, or beside them, what came from its cache.
        """
        texts = tuple(message["content"] for message in messages)
        before = self._counts.pop(hash(texts[:-2]), None)
        if not prompt:
            return True
        while len(self._counts) >= OPEN_CONVERSATIONS:
            del self._counts[next(iter(self._counts))]
        self._counts[hash(texts)] = prompt
        return before is None or prompt + (cached or 0) + SPARE >= before

    def tries(self, refused: int, prompt: int | None, words: str, told: int | None) -> list[int]:
        """New tokens to try where `refused` were too many: what the known context leaves, then the largest first.

        A number in a refusal may be the context or a cap, whatever the words around it: the server itself shows which,
        by accepting what follows from it. Where there is none, it is counted down.

        Args:
            refused: New tokens that were refused.
            prompt: Tokens of the prompt; None where the server does not count.
            words: Of the refusal.
            told: Context that the server tells elsewhere.
        """
        known = [context - prompt for context in (self.context if self._exact else None, told) if context and prompt]
        numbers = list(dict.fromkeys(_numbers(words)))[:MAX_NUMBERS]
        found = {number - before for number in numbers for before in ([prompt] if prompt else numbers)} | set(numbers)
        step = refused
        while step > 1:
            step = int(step * COUNTDOWN)
            found.add(step)
        ordered = dict.fromkeys([*known, *sorted(found, reverse=True)])
        return [size for size in ordered if 0 < size < refused]

    def accepted(
        self, messages: Sequence[Message], size: int, prompt: int | None, words: str, told: int | None
    ) -> None:
        """`size` new tokens fitted, where more did not."""
        numbers = set(_numbers(words))
        if not prompt or (size in numbers and size + prompt not in numbers | {told}):
            self._found.append((_size(messages), size))  # a cap on answers, or a server that does not count
        else:
            self.context, self._exact = prompt + size, prompt + size in numbers | {told, self.context}


def is_about_context(words: str, code: str) -> bool:
    """Whether a refusal speaks of too long a prompt, in anybody's words.

    Proves nothing by itself: it is asked only of a request that wants a single token and is refused all the same.
    """
    coded = code.lower()
    if "context" in coded and ("exceed" in coded or "size" in coded):
        return True
    words = _ANY_PARAMETER.sub("", words)
    return bool(_THING.search(words) and _EXCESS.search(words) and not _OTHER.search(words))


def _numbers(words: str) -> list[int]:
    return [int(found.replace(",", "")) for found in _NUMBER.findall(words)]


def _size(messages: Sequence[Message]) -> int:
    """UTF-8 bytes, and about as many for each message as its role and its marks take."""
    return sum(len(message["content"].encode("utf-8", "surrogatepass")) + 24 for message in messages)
