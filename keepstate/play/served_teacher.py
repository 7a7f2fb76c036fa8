"""A model behind a server as teacher of a collection, with a cache of its answers and a bound on what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from keepstate.models.base import Sampling
from keepstate.models.budget import Budget, BudgetSpent
from keepstate.models.cache import AnswerCache
from keepstate.models.endpoint import Endpoint
from keepstate.models.server import RETRIES, ServerModel
from keepstate.play.admission import Pools
from keepstate.play.collect import CollectPlan, collect
from keepstate.play.engine import Engine
from keepstate.play.tally import Tally
from keepstate.vocabulary import AUTO


@dataclass
class ServedTeacher:
    """Plays one collection."""

    servers: Sequence[str]
    """Base URLs of one server, or of several alike."""
    model: str
    sampling: Sampling
    retries: int = RETRIES
    cache: Path | None = None
    """SQLite file of answers; None keeps none."""
    budget: Budget | None = None
    pools: Pools = field(default_factory=Pools)
    """What the servers hold."""
    watch: Callable[[str], Callable[[], None]] = lambda _url: lambda: None
    """Gives for each base URL what its model has for `ServerModel.believe`."""
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
        engine: Engine | None = None,
        on_progress: Callable[[Sequence[Tally]], None] = lambda _: None,
    ) -> None:
        """`keepstate.play.collect.collect` with this teacher; a spent budget ends it, and what is finished is kept.

        Raises:
            UserError: As there, or the cache cannot be used.
        """
        with closing(AnswerCache(self.cache, plan.served)) if self.cache else nullcontext() as answers:
            async with AsyncExitStack() as stack:
                servers = {url: self._on(url, plan.concurrency, answers, stack) for url in self.servers}
                first = servers[self.servers[0]]
                taught = replace(plan, teacher=lambda _task, _name: first, budget=self.budget, servers=servers)
                taught = replace(taught, pools=self.pools, max_tokens=self.sampling.max_tokens)
                try:
                    await collect(
                        taught, isolation=isolation, allow_unsafe=allow_unsafe, engine=engine, on_progress=on_progress
                    )
                except BudgetSpent as spent:
                    self.stopped = spent
                self.found = answers.found if answers else 0
                self.thought_apart = sum(server.thought_apart for server in servers.values())

    def _on(self, url: str, concurrency: int, answers: AnswerCache | None, stack: AsyncExitStack) -> ServerModel:
        endpoint = Endpoint(url, concurrency=concurrency, cache=answers, budget=self.budget, kept_as=self.servers[0])
        stack.push_async_callback(endpoint.aclose)
        return ServerModel(endpoint, self.model, self.sampling, retries=self.retries, believe=self.watch(url))

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
