"""Who answers: the interface of every model, whether a server, the scripted teacher or a test's script."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from keepstate.closed import Closed
from keepstate.errors import UserError


@with_config(ConfigDict(extra="forbid"))
class Message(TypedDict):
    """One message of the conversation, as sent and as recorded."""

    role: Literal["system", "user", "assistant"]
    """Who speaks; `user` is the goal, and after it what the agent saw."""
    content: str
    """The text."""


Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
"""Up to what a double holds exactly, so that a sum or a mean of counts is one."""


class TokenUsage(Closed):
    """Tokens of one call or the sum over an episode's calls, as counted by the server; None is unknown, never 0.

    A count is a whole number, 0 or more.
    """

    prompt_tokens: Count | None = None
    """What was sent; over an episode a token that is sent at every turn counts every time."""
    completion_tokens: Count | None = None
    """What was answered."""
    total_tokens: Count | None = Field(
        default_factory=lambda told: known_sum((told["prompt_tokens"], told["completion_tokens"]))
    )
    """Both; their sum where it is not given."""
    cached_tokens: Count | None = None
    """Prompt tokens that came from the server's prefix cache; None where it does not say."""

    @classmethod
    def over(cls, usages: Sequence[TokenUsage]) -> TokenUsage:
        """What several calls took; a sum over an unknown count is unknown."""
        cached = [usage.cached_tokens for usage in usages if usage.cached_tokens is not None]
        return cls(
            prompt_tokens=known_sum(usage.prompt_tokens for usage in usages),
            completion_tokens=known_sum(usage.completion_tokens for usage in usages),
            total_tokens=known_sum(usage.total_tokens for usage in usages),
            cached_tokens=sum(cached) if cached else None,  # vLLM leaves the count out where it is 0
        )


def known_sum(counts: Iterable[int | None]) -> int | None:
    """Their sum; None where one of them is unknown."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, byte for byte as received."""

    text: str
    usage: TokenUsage = field(default_factory=TokenUsage)
    """As the server counted them; unknown where it does not say, or nothing that is a count."""
    truncated: bool = False
    """The answer hit the token limit."""
    seconds: float | None = None
    """What the request took that was answered: refusals, retries and waiting for them apart. None: not measured."""


MAX_TOKENS = 2**31
"""No model has such a context: what is beyond it is no count, and sums of counts stay exact in JSON."""


def token_count(told: Any) -> int | None:
    """What somebody says of tokens, as a count; None where it is none (a fraction, negative, absurd, a text)."""
    return told if isinstance(told, int) and not isinstance(told, bool) and 0 <= told <= MAX_TOKENS else None


class Sampling(Closed, allow_inf_nan=False):
    """How a server picks tokens. The defaults are the specification's; recorded in every trace."""

    temperature: float = Field(default=0.2, ge=0)
    """0 takes the likeliest token."""
    max_tokens: int = Field(default=12_288, ge=1)
    """New tokens a turn; less where the context has no room for them."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """As the server has it where it is not given."""


PATIENCE = 5.0
"""Seconds beyond the time limit that a model may take for one answer, unless it bounds its waiting by itself."""


class ContextOverflow(Exception):
    """The conversation no longer fits the model's context: ends the episode, graded as it stands."""


class ServerGone(UserError):
    """A server gives no answers: of several the others go on, else it ends the run.

    Args:
        message: What happened.
        hint: What to do where it was the only one.
        is_back: Whether it answers again.
    """

    def __init__(self, message: str, hint: str, is_back: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(message, hint)
        self.is_back = is_back


class Model(Protocol):
    """Answers a conversation.

    `name` is recorded in every trace, and so is `sampling`, a `Sampling`, of a model that has it. One that may keep
    silent for ever has to give up by itself, with a failure.
    """

    name: str

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """Answer `messages`.

        Args:
            messages: The whole conversation so far; the last message is the user's.
            seed: Differs by task and turn, equal in repeated runs.
            turn: 0 for the first answer of the episode.

        Raises:
            EpisodeFailure: The model could not be asked (origin model), after its retries.
            ContextOverflow: The conversation is too long for it.
            ServerGone: Nobody answers there.
        """


class Relay:
    """A model that passes every question on to another, and sees to what comes back.

    Args:
        model: Who answers.
    """

    def __init__(self, model: Model) -> None:
        self.name = model.name
        self.sampling = getattr(model, "sampling", None)
        self.patience: float | None = getattr(model, "patience", PATIENCE)
        self._model = model

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """Its answer, as `passed` leaves it. Raises what it raises."""
        return self.passed(await self._model.reply(messages, seed=seed, turn=turn))

    def passed(self, reply: Reply) -> Reply:
        """What becomes of an answer."""
        raise NotImplementedError
