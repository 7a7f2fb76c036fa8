"""What a model may cost: tokens or money, counted as the server counts, over all requests of one command.

Near the end requests wait for each other, so that a budget is exceeded by about one answer and not by as many as are
asked for at once. Not counted: answers from a cache, which cost nothing, and what a server broke off, which it does not
tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from keepstate.errors import UserError
from keepstate.models.base import TokenUsage

PER = 1_000_000
"""Prices are for so many tokens."""


class BudgetSpent(UserError):
    """The budget is used up: the run stops, what is finished is kept."""


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
    _open: int = 0
    """Requests that are being answered."""
    _largest: float = 0.0
    """Share of the budget that one answer took at most."""
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
    async def request(self) -> AsyncIterator[None]:
        """Around every request.

        Raises:
            BudgetSpent: Nothing is left.
        """
        async with self._changed:
            await self._changed.wait_for(self._may_ask)
            if self.share >= 1:
                again = (
                    "repeat the command to go on with as much again, or with a larger one: finished episodes are kept"
                )
                raise BudgetSpent(f"the budget is spent: {self}", again)
            self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            async with self._changed:
                self._changed.notify_all()

    def _may_ask(self) -> bool:
        """Whether what is being answered leaves room for one more, or nothing is left to wait for."""
        if not self._open or self.share >= 1:
            return True
        return bool(self._largest) and self.share + (self._open + 1) * self._largest <= 1

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
        self._largest = max(self._largest, self.share - before)

    def __str__(self) -> str:
        told = f"{self.prompt_tokens + self.completion_tokens:,}"
        parts = [f"{told} of {self.tokens:,} tokens" if self.tokens else f"{told} tokens"]
        if self.cost:
            parts.append(f"{self.spent_cost:.4f} of {self.cost:g} in money")
        return ", ".join(parts)
