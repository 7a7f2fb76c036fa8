"""How many episodes may be open at once, and on which server: as concurrency, the servers' caches and a budget allow.

An episode comes back to the server at every turn with all it said before. While the key-value cache holds the tokens of
all open episodes, each turn recomputes only what is new; once it does not, the oldest are evicted just before they are
needed and nothing hits (measured on vLLM: 64 and 80 open episodes hit .84, 96 hit .11, 128 hit 0). So an episode is let
in only while the tokens of all open ones, as they are expected to grow, never exceed the pool. Where they do all the
same, the newest wait before their next turn until older ones have ended: those read their conversation once more, where
otherwise all would at every turn. Of several servers an episode gets the emptiest, and stays there, where its
conversation is cached. Knows nothing of tasks and models.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from keepstate.models.base import ServerGone
from keepstate.models.budget import Budget

SHARE = 0.95
"""Of the pool that is handed out; the rest covers partly filled blocks."""
REMEMBERED = 50
"""Ended episodes of a kind that the estimate is made from."""
LOOK_SECONDS = 10.0
"""Between two looks at a server that no longer answered."""
GROWTH = 2
"""Times the longest open conversation of a kind that one may reach, as long as none of the kind has ended."""


PROMPT_TOKENS = 4_096
"""What a first prompt may take, before one has been counted; those of knapsack take 2,000."""


@dataclass(frozen=True, slots=True)
class Pools:
    """What servers hold."""

    tokens: Mapping[str, int | None] = field(default_factory=dict)
    """Of each one's cache by its base URL; None where it does not tell."""
    context: int = 0
    """Tokens that no conversation exceeds; 0 where nobody tells."""

    def admission(
        self, concurrency: int, servers: Iterable[str], max_tokens: int, budget: Budget | None = None
    ) -> Admission:
        """Who is let in to `servers`, with answers of at most so many tokens. Where the context is not known, by
        their number alone."""
        pools = {url: self.tokens.get(url) if self.context else None for url in servers}
        return Admission(concurrency, pools, self.context, PROMPT_TOKENS + max_tokens, budget)


@dataclass(eq=False, slots=True)
class Seat:
    """One open episode."""

    kind: str
    tokens: int = 0
    """Of its conversation, after the last turn."""
    grew: int = 0
    """By its last turn; 0 before the second."""
    server: str = ""
    """Where it is played, once it is let in."""


@dataclass(eq=False, slots=True)
class _Place:
    """One server and who is there."""

    server: str
    room: int | None
    """Tokens of its cache that are handed out."""
    open: dict[Seat, None] = field(default_factory=dict)
    """The oldest first."""
    gone: ServerGone | None = None
    """Why it takes no episodes now."""
    look_at: float = 0.0
    """When to see whether it is back, on the clock of `time.monotonic`."""


class Admission:
    """Lets episodes in, first come, first served.

    Args:
        concurrency: Most episodes at once on each server.
        pools: What the cache of each server holds, by its base URL; None where it is not known. One server without a
            name where nothing is given.
        context: Tokens that no conversation exceeds.
        first_turn: Tokens of a prompt and an answer, at most: what is expected of an episode until one of its kind has
            had a turn; the context where None.
        budget: What all answers together may take: no episode is let in that could not be finished.
    """

    def __init__(
        self,
        concurrency: int,
        pools: Mapping[str, int | None] | None = None,
        context: int = 0,
        first_turn: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._budget = budget
        self._places = {
            server: _Place(server, int(tokens * SHARE) if tokens else None)
            for server, tokens in (pools or {"": None}).items()
        }
        self._context = context
        self._first = context if first_turn is None else min(context, first_turn)
        self._waiting: deque[tuple[Seat, asyncio.Future[None]]] = deque()
        self._held: dict[Seat, asyncio.Future[None]] = {}
        """Open ones that wait before a turn."""
        self._began: dict[str, int] = {}
        """Tokens of the newest first turn of each kind."""
        self._ended: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    @property
    def most(self) -> int:
        """Episodes at once on all servers together."""
        return self._concurrency * len(self._places)

    def leave(self, server: str, gone: ServerGone) -> bool:
        """Let no more episodes in to a server that no longer answers, until it does.

        Returns:
            Whether it took part until now.

        Raises:
            ServerGone: It was the last one.
        """
        place = self._places[server]
        before, place.gone = place.gone, gone
        if all(other.gone for other in self._places.values()):
            raise gone
        place.look_at = time.monotonic() + LOOK_SECONDS
        return before is None

    async def look_again(self) -> None:
        """Let servers that left take part again as soon as they answer."""
        for place in self._places.values():
            if place.gone and time.monotonic() >= place.look_at:
                place.look_at = time.monotonic() + LOOK_SECONDS  # first, as others come by while one is asked
                if await place.gone.is_back():
                    place.gone = None
                    self._let_in()

    def estimate(self, kind: str) -> int:
        """Tokens that an episode of this kind is expected to reach: what nine of ten stayed within.

        Short episodes end first; so open ones that have outgrown those that ended count as well.
        """
        ended = sorted(self._ended[kind])
        seats = (seat for place in self._places.values() for seat in place.open)
        reached = sorted(seat.tokens for seat in seats if seat.kind == kind and seat.tokens)
        if not ended:
            longest = max(reached, default=self._began.get(kind, 0))
            return min(self._context, GROWTH * longest) or self._first
        known = ended + [tokens for tokens in reached if tokens > ended[-1]]
        return known[(len(known) * 9) // 10]

    def length(self, kind: str) -> float:
        """Tokens that ended episodes of this kind came to on the mean; infinite where none is known: it may be long."""
        ended = self._ended.get(kind)
        return sum(ended) / len(ended) if ended else math.inf

    def expected_tokens(self, *more: str, server: str = "") -> int:
        """The most tokens that all open episodes of a server, and new ones of the kinds `more`, are expected to hold at
        one time.

        All grow equally fast, each until it has what is expected of its kind; then it ends.
        """
        kinds = [(seat.kind, seat.tokens + seat.grew) for seat in self._places[server].open] + [
            (kind, 0) for kind in more
        ]
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
            for place in self._places.values():
                place.open.pop(seat, None)
            if not admitted.done() or admitted.cancelled():
                self._waiting = deque(entry for entry in self._waiting if entry[0] is not seat)
            self._let_go_on()
            self._let_in()

    async def turn(self, seat: Seat) -> None:
        """Wait until the cache has room for another turn of an open episode."""
        if self._places[seat.server].room is None:
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
        """Let those have their turn that a cache holds beside all older ones, and the oldest in any case."""
        for place in self._places.values():
            total = 0
            for number, seat in enumerate(place.open):
                total += seat.tokens + seat.grew
                if number and place.room is not None and total > place.room:
                    break
                if (held := self._held.get(seat)) and not held.done():
                    held.set_result(None)

    def _let_in(self) -> None:
        """Let in whoever is next, as long as the next one fits somewhere."""
        while self._waiting and (place := self._place_for(self._waiting[0][0].kind)):
            seat, admitted = self._waiting.popleft()
            seat.server = place.server
            place.open[seat] = None
            if not admitted.done():
                admitted.set_result(None)

    def _place_for(self, kind: str) -> _Place | None:
        """The emptiest server that has room for one more, and answers."""
        fullness = {
            place: full
            for place in self._places.values()
            if place.gone is None and (full := self._full_with(place, kind)) <= 1
        }
        return min(fullness, key=fullness.__getitem__, default=None)

    def _full_with(self, place: _Place, kind: str) -> float:
        """How full a server is with one more, of what it takes: beyond 1 it has no room. An empty one always has."""
        full = (len(place.open) + 1) / self._concurrency
        if place.room is None or full > 1:
            return full
        if any(seat in self._held and not self._held[seat].done() for seat in place.open):
            return math.inf
        full = max(full, self.expected_tokens(kind, server=place.server) / place.room)
        return full if place.open else min(full, 1.0)
