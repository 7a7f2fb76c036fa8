"""How many episodes may be open at once: so many as concurrency, the server's cache and a budget allow.

An episode comes back to the server at every turn with all it said before. While the key-value cache holds the tokens of
all open episodes, each turn recomputes only what is new; once it does not, the oldest are evicted just before they are
needed and nothing hits (measured on vLLM: 64 and 80 open episodes hit .84, 96 hit .11, 128 hit 0). So an episode is let
in only while the tokens of all open ones, as they are expected to grow, never exceed the pool. Where they do all the
same, the newest wait before their next turn until older ones have ended: those read their conversation once more, where
otherwise all would at every turn. Knows nothing of tasks and models.
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
GROWTH = 2
"""Times the longest open conversation of a kind that one may reach, as long as none of the kind has ended."""


@dataclass(eq=False, slots=True)
class Seat:
    """One open episode."""

    kind: str
    tokens: int = 0
    """Of its conversation, after the last turn."""
    grew: int = 0
    """By its last turn; 0 before the second."""


class Admission:
    """Lets episodes in, first come, first served.

    Args:
        concurrency: Most episodes at once.
        pool_tokens: What the server's cache holds; None where it is not known.
        context: Tokens that no conversation exceeds.
        first_turn: Tokens of a prompt and an answer, at most: what is expected of an episode until one of its kind has
            had a turn; the context where None.
        budget: What all answers together may take: no episode is let in that could not be finished.
    """

    def __init__(
        self,
        concurrency: int,
        pool_tokens: int | None = None,
        context: int = 0,
        first_turn: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._budget = budget
        self.pool_tokens = pool_tokens
        self._context = context
        self._first = context if first_turn is None else min(context, first_turn)
        self._room = int(pool_tokens * SHARE) if pool_tokens else None
        self._open: dict[Seat, None] = {}
        """The oldest first."""
        self._waiting: deque[tuple[Seat, asyncio.Future[None]]] = deque()
        self._held: dict[Seat, asyncio.Future[None]] = {}
        """Open ones that wait before a turn."""
        self._began: dict[str, int] = {}
        """Tokens of the newest first turn of each kind."""
        self._ended: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def estimate(self, kind: str) -> int:
        """Tokens that an episode of this kind is expected to reach: what nine of ten stayed within.

        Short episodes end first; so open ones that have outgrown those that ended count as well.
        """
        ended = sorted(self._ended[kind])
        reached = sorted(seat.tokens for seat in self._open if seat.kind == kind and seat.tokens)
        if not ended:
            longest = max(reached, default=self._began.get(kind, 0))
            return min(self._context, GROWTH * longest) or self._first
        known = ended + [tokens for tokens in reached if tokens > ended[-1]]
        return known[(len(known) * 9) // 10]

    def expected_tokens(self, *more: str) -> int:
        """The most tokens that all open episodes, and new ones of the kinds `more`, are expected to hold at one time.

        All grow equally fast, each until it has what is expected of its kind; then it ends.
        """
        kinds = [(seat.kind, seat.tokens + seat.grew) for seat in self._open] + [(kind, 0) for kind in more]
        estimates = {kind: self.estimate(kind) for kind, _ in kinds}
        left = []
        for kind, tokens in kinds:  # those of the turn that is under way are among them
            now = tokens or self._began.get(kind, estimates[kind] // GROWTH)
            left.append((max(0, estimates[kind] - now), now))
        most = total = 0
        for number, (growth, now) in enumerate(sorted(left, reverse=True), 1):  # just before this one ends
            total += now
            most = max(most, total + number * growth)
        return most

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
            self._open.pop(seat, None)
            if not admitted.done() or admitted.cancelled():
                self._waiting = deque(entry for entry in self._waiting if entry[0] is not seat)
            self._let_go_on()
            self._let_in()

    async def turn(self, seat: Seat) -> None:
        """Wait until the cache has room for another turn of an open episode."""
        if self._room is None:
            return
        self._held[seat] = asyncio.get_running_loop().create_future()
        self._let_go_on()
        try:
            await self._held[seat]
        finally:
            del self._held[seat]

    def grown(self, seat: Seat, tokens: int) -> None:
        """Note how long the conversation is after a turn; who waits may fit, now that its kind is better known."""
        if seat.tokens:
            seat.grew = max(0, tokens - seat.tokens)
        else:
            self._began[seat.kind] = tokens
        seat.tokens = tokens
        self._let_in()

    def _let_go_on(self) -> None:
        """Let those have their turn that the cache holds beside all older ones, and the oldest in any case."""
        total = 0
        for number, seat in enumerate(self._open):
            total += seat.tokens + seat.grew
            if number and self._room is not None and total > self._room:
                return
            if (held := self._held.get(seat)) and not held.done():
                held.set_result(None)

    def _let_in(self) -> None:
        """Let in whoever is next, as long as the next one fits."""
        while self._waiting and self._fits(self._waiting[0][0].kind):
            seat, admitted = self._waiting.popleft()
            self._open[seat] = None
            if not admitted.done():
                admitted.set_result(None)

    def _fits(self, kind: str) -> bool:
        if not self._open:
            return True
        if len(self._open) >= self.concurrency:
            return False
        if self._room is None:
            return True
        held = any(not turn.done() for turn in self._held.values())
        return not held and self.expected_tokens(kind) <= self._room
