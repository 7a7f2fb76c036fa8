"""What a model may cost: tokens or money, counted as the server counts, over all requests of one command.

An unfinished episode is money lost. So none is begun that could not be finished, by what episodes took so far (the
first goes alone, where the budget is small), and where that was too little for all that are open, the older ones go
first. Near the end requests wait for each other, so that a budget is exceeded by about one answer and not by as many as
are asked for at once. Not counted: answers from a cache, which cost nothing, and what a server broke off, which it does
not tell.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain

from keepstate.errors import UserError
from keepstate.models.base import TokenUsage

PER = 1_000_000
"""Prices are for so many tokens."""
GUESSED_ANSWERS = 40
"""What an episode takes until one has ended: so many of the largest answer so far. As many turns it has by default."""

REMEMBERED = 50
"""Finished episodes of a kind that the next ones are judged by."""


class BudgetSpent(UserError):
    """The budget is used up: the run stops, what is finished is kept."""


@dataclass(eq=False, slots=True)
class OpenEpisode:
    """One that is open, and what it took so far: shares of the budget."""

    kind: str
    spent: float = 0.0
    last: float = 0.0
    """Its last answer: the next one, of a longer conversation, takes about as much."""


_CURRENT: ContextVar[OpenEpisode | None] = ContextVar("episode", default=None)
"""Who asks: an episode and all its requests are of one task."""


@dataclass
class Budget:
    """A bound on what is spent. Changes in place; share it between all models of a command."""

    tokens: int | None = None
    """Prompt and completion tokens together."""
    cost: float | None = None
    """In the currency of the prices; prompt tokens from the server's own cache at the full price."""
    price_in: float = 0.0
    """Of a million prompt tokens."""
    price_out: float = 0.0
    """Of a million completion tokens, thoughts included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: int = 0
    """Episodes that it ended after they had been answered."""
    _open: int = 0
    """Requests that are being answered."""
    _largest: float = 0.0
    """Share of the budget that one answer took at most."""
    _episodes: list[OpenEpisode] = field(default_factory=list)
    """Open ones, the oldest first."""
    _ended: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=REMEMBERED)))
    """What finished ones took, by kind."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def spent_cost(self) -> float:
        """Money so far."""
        return (self.prompt_tokens * self.price_in + self.completion_tokens * self.price_out) / PER

    @property
    def share(self) -> float:
        """What part of it is spent; 1 and more: all."""
        return max(self._shares(self.prompt_tokens + self.completion_tokens, self.spent_cost))

    def _shares(self, tokens: int, cost: float) -> tuple[float, float]:
        return tokens / self.tokens if self.tokens else 0.0, cost / self.cost if self.cost else 0.0

    @asynccontextmanager
    async def episode(self, kind: str) -> AsyncIterator[None]:
        """Around every episode; waits until what is left lets it be finished beside those that are open.

        Args:
            kind: Episodes of one kind take about as much as each other.

        Raises:
            BudgetSpent: It does not, and nothing else is open; or nothing is left.
        """
        opened = OpenEpisode(kind)
        async with self._changed:
            await self._changed.wait_for(lambda: not self._episodes or self._left_by([*self._episodes, opened]) >= 0)
            if self.share >= 1 or (any(self._ended.values()) and self._left_by([*self._episodes, opened]) < 0):
                raise self._over()
            self._episodes.append(opened)
        before = _CURRENT.set(opened)
        try:
            yield
            if opened.spent:
                self._ended[kind].append(opened.spent)
        except BudgetSpent:
            self.cut += bool(opened.spent)
            raise
        finally:
            _CURRENT.reset(before)
            self._episodes.remove(opened)
            async with self._changed:
                self._changed.notify_all()

    def _left_by(self, episodes: Sequence[OpenEpisode]) -> float:
        """What these leave of the budget, played to their end; less than nothing as long as no answer tells."""
        return 1 - self.share - sum(map(self._expected, episodes)) if self._largest else -1.0

    def _expected(self, episode: OpenEpisode) -> float:
        """What it still takes: what nine of ten finished ones, of its kind if there are any, stayed within.

        Of one that has outgrown them nobody knows; it is taken for as long as the first was before it ended.
        """
        ended = sorted(self._ended[episode.kind] or chain.from_iterable(self._ended.values()))
        usual = ended[(len(ended) * 9) // 10] if ended else 0.0
        whole = usual if usual > episode.spent else GUESSED_ANSWERS * self._largest
        return max(whole - episode.spent, episode.last)

    def _over(self) -> BudgetSpent:
        what = "the budget is spent" if self.share >= 1 else "what is left of the budget is less than an episode takes"
        again = "repeat the command to go on with as much again, or with a larger one: finished episodes are kept"
        return BudgetSpent(f"{what}: {self}", again)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Around every request.

        Raises:
            BudgetSpent: Nothing is left.
        """
        async with self._changed:
            await self._changed.wait_for(self._may_ask)
            if self.share >= 1:
                raise self._over()
            self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            async with self._changed:
                self._changed.notify_all()

    def _may_ask(self) -> bool:
        """Whether what is being answered, and older episodes, leave room for one more; or nothing is left."""
        if self.share >= 1:
            return True
        if self._open and not (self._largest and self.share + (self._open + 1) * self._largest <= 1):
            return False
        asking = _CURRENT.get()
        until = self._episodes[: self._episodes.index(asking) + 1] if asking in self._episodes else []
        return len(until) <= 1 or self._left_by(until) >= 0

    def spend(self, usage: TokenUsage) -> None:
        """Count an answer.

        Raises:
            UserError: The server does not count its tokens.
        """
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            raise UserError(
                "the server does not tell what its answers take, so no budget can be kept",
                "leave --max-tokens-total and --max-cost out",
            )
        before = self.share
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        took = self.share - before
        self._largest = max(self._largest, took)
        if (asking := _CURRENT.get()) in self._episodes and asking is not None:
            asking.spent, asking.last = asking.spent + took, took

    def __str__(self) -> str:
        told = f"{self.prompt_tokens + self.completion_tokens:,}"
        parts = [f"{told} of {self.tokens:,} tokens" if self.tokens else f"{told} tokens"]
        if self.cost:
            parts.append(f"{self.spent_cost:.4f} of {self.cost:g} in money")
        return ", ".join(parts)
