"""A model behind a server as teacher of a collection, with a cache of its answers and a bound on what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from keepstate.models.base import Sampling
from keepstate.models.budget import Budget, BudgetSpent
from keepstate.models.cache import AnswerCache
from keepstate.models.endpoint import Endpoint
from keepstate.models.server import RETRIES, ServerModel
from keepstate.play.collect import CollectPlan, collect
from keepstate.play.tally import Tally
from keepstate.vocabulary import AUTO


@dataclass
class ServedTeacher:
    """Plays one collection."""

    base_url: str
    model: str
    sampling: Sampling
    retries: int = RETRIES
    cache: Path | None = None
    """SQLite file of answers; None keeps none."""
    budget: Budget | None = None
    stopped: BudgetSpent | None = None
    """The budget was spent before the end."""
    found: int = 0
    """Answers that came from the cache."""
    thought_apart: int = 0
    """Answers beside which the server put thoughts."""

    async def collect(
        self,
        plan: CollectPlan,
        *,
        isolation: str = AUTO,
        allow_unsafe: bool = False,
        on_progress: Callable[[Sequence[Tally]], None] = lambda _: None,
    ) -> None:
        """`keepstate.play.collect.collect` with this teacher; a spent budget ends it, and what is finished is kept.

        Raises:
            UserError: As there, or the cache cannot be used.
        """
        with closing(AnswerCache(self.cache, plan.served)) if self.cache else nullcontext() as answers:
            endpoint = Endpoint(self.base_url, concurrency=plan.concurrency, cache=answers, budget=self.budget)
            async with aclosing(endpoint):
                server = ServerModel(endpoint, self.model, self.sampling, retries=self.retries)
                taught = replace(plan, teacher=lambda _task, _name: server, budget=self.budget)
                try:
                    async with server:
                        await collect(taught, isolation=isolation, allow_unsafe=allow_unsafe, on_progress=on_progress)
                except BudgetSpent as spent:
                    self.stopped = spent
                self.found, self.thought_apart = answers.found if answers else 0, server.thought_apart

    def words(self, left: int) -> Iterator[str]:
        """Lines for people on how it went; `left` episodes are not over."""
        if self.cache:
            yield f"{self.found} answers came from {self.cache}"
        if self.budget and not self.stopped:
            yield f"spent: {self.budget}"
        if self.thought_apart:
            yield f"the server put thoughts beside {self.thought_apart} answers: these are recorded without them"
        if self.stopped:
            yield f"stopped: {self.stopped.message}; {left} episodes are left\n{self.stopped.hint}"
            if self.budget and (cut := self.budget.cut) and not self.cache:
                yield f"{cut} episodes were cut off: their answers are paid for again, but not with --cache FILE"
