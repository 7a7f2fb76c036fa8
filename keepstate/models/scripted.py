"""A model that replays given answers: drives the real loop in tests and benchmarks, without a server.

Does not look at the conversation; `conversations` keeps what it was sent, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

from keepstate.errors import EpisodeFailure
from keepstate.models.base import Message, Reply
from keepstate.vocabulary import Origin


class ScriptedModel:
    """Answers turn k with the k-th text.

    Args:
        answers: Texts or whole replies; an exception is raised in its place.
        name: Recorded in the trace.
    """

    def __init__(self, answers: Sequence[str | Reply | Exception], name: str = "scripted") -> None:
        self.name = name
        self.answers = tuple(answers)
        self.conversations: list[tuple[Message, ...]] = []
        self.seeds: list[int] = []

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """The next answer of the script.

        Raises:
            EpisodeFailure: The script has no answer for this turn.
            Exception: What the script holds for this turn.
        """
        self.conversations.append(tuple(messages))
        self.seeds.append(seed)
        if turn >= len(self.answers):
            raise EpisodeFailure(Origin.MODEL, f"the script ends after {len(self.answers)} answers")
        answer = self.answers[turn]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(answer)
