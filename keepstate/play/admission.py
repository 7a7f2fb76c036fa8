"""How many episodes may be open at once: so many as concurrency, the server's cache and a budget allow.

An episode comes back to the server at every turn with all it said before. While the key-value cache holds the tokens of
all open episodes, each turn recomputes only what is new; once it does not, the oldest are evicted just before they are
needed and nothing hits (measured on vLLM: 64 and 80 open episodes hit .84, 96 hit .11, 128 hit 0). So an episode is let
in only when the tokens that all open ones are expected to reach fit the pool. Knows nothing of tasks and models.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from keepstate.models.budget import Budget

SHARE = 0.95
"""Of the pool that is handed out; the rest covers partly filled blocks."""
REMEMBERED = 50
"""Ended episodes of a kind that the estimate is made from."""


@dataclass(eq=False, slots=True)
class Seat:
    """One open episode."""

    kind: str
    tokens: int = 0
    """Of its conversation now; update it after every turn."""


class Admission:
    """Lets episodes in, first come, first served.

    Args:
        concurrency: Most episodes at once.
        pool_tokens: What the server's cache holds; None where it is not known.
        first_estimate: Tokens expected of an episode before any of its kind has ended: the context, as an untrained
            model may talk until it is full. So a run starts slowly, and opens up when the first of each kind end.
        budget: What all answers together may take: no episode is let in that could not be finished.
    """

    def __init__(
        self, concurrency: int, pool_tokens: int | None = None, first_estimate: int = 0, budget: Budget | None = None
    ) -> None:
        self.concurrency = concurrency
        self._budget = budget
        self.pool_tokens = pool_tokens
        self._first = first_estimate
        self._room = int(pool_tokens * SHARE) if pool_tokens else None
        self._open: set[Seat] = set()
        self._waiting: deque[tuple[Seat, asyncio.Future[None]]] = deque()
        self._ended: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def estimate(self, kind: str) -> int:
        """Tokens that an episode of this kind is expected to reach: what nine of ten stayed within.

        Short episodes end first; so open ones that have outgrown those that ended count as well.
        """
        ended = sorted(self._ended[kind])
        if not ended:
            return self._first
        outgrown = sorted(seat.tokens for seat in self._open if seat.kind == kind and seat.tokens > ended[-1])
        known = ended + outgrown
        return known[(len(known) * 9) // 10]

    def expected_tokens(self) -> int:
        """Tokens that all open episodes are expected to reach."""
        estimates = {kind: self.estimate(kind) for kind in {seat.kind for seat in self._open}}
        return sum(max(seat.tokens, estimates[seat.kind]) for seat in self._open)

    @asynccontextmanager
    async def seat(self, kind: str) -> AsyncIterator[Seat]:
        """Wait for room, and hold it as long as the context lasts.

        Raises:
            BudgetSpent: What is left of it suffices for no further episode.
        """
        seat = Seat(kind)
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((seat, admitted))
        self._let_in()
        try:
            await admitted
            async with self._budget.episode(kind) if self._budget else nullcontext():
                yield seat
            if seat.tokens:
                self._ended[kind].append(seat.tokens)
        finally:
            self._open.discard(seat)
            if not admitted.done() or admitted.cancelled():
                self._waiting = deque(entry for entry in self._waiting if entry[0] is not seat)
            self._let_in()

    def _let_in(self) -> None:
        """Let in whoever is next, as long as the next one fits."""
        while self._waiting and self._fits(self._waiting[0][0].kind):
            seat, admitted = self._waiting.popleft()
            self._open.add(seat)
            if not admitted.done():
                admitted.set_result(None)

    def _fits(self, kind: str) -> bool:
        if not self._open:
            return True
        if len(self._open) >= self.concurrency:
            return False
        return self._room is None or self.expected_tokens() + self.estimate(kind) <= self._room
