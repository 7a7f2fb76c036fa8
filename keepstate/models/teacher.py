"""The scripted teacher: plays tasks by their family's plan, in any runtime, to be learnt from. Asks no model."""

from __future__ import annotations

from collections.abc import Sequence

from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import Message, Reply
from keepstate.tasks.aside import Aside
from keepstate.tasks.base import Task
from keepstate.tasks.families import family_of, told
from keepstate.vocabulary import Origin, RuntimeName

NAME = "scripted-teacher-1"
"""Recorded in every trace; the number changes with what the teachers of families in this package do or say."""


class ScriptedTeacher:
    """A `Model` that answers for one task in one runtime.

    Args:
        task: What is played.
        runtime: Whose format and whose memory the answers assume.
        seed: Varies the decisions.
        tool_calls: The cap on tool calls per action that the episode will have.

    Raises:
        UserError: The task is none that its family can play by itself.
    """

    def __init__(self, task: Task, runtime: RuntimeName, *, seed: int = 0, tool_calls: int = 25) -> None:
        self.name = NAME
        family = family_of(task)
        with told(family, "plan"):
            script = family.script(task, runtime, seed=seed, tool_calls=tool_calls)
        if script is None:
            raise UserError(
                f"the scripted teacher cannot play {task.name}: the family {task.family} has no plan",
                "let a model play: keepstate traces collect --teacher llm --base-url URL --model NAME;"
                " or write Family.plan, see docs/tasks.md",
            )
        self._script = script
        self._kind = type(family)
        self._in_place = family.source is None
        self._aside: Aside | None = None

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        """The next answer; `seed` is not used, as the decisions are the task's.

        Raises:
            EpisodeFailure: The last observation is none that the teacher's own actions can lead to, or its code hangs.
        """

        def answer() -> str:
            try:
                return self._script.answer(messages, turn)
            except (Exception, SystemExit) as error:
                seen = messages[-1]["content"][:300]
                message = f"the scripted teacher cannot go on after turn {turn}: {error!r}; it saw: {seen}"
                raise EpisodeFailure(Origin.MODEL, message) from error

        if self._in_place:
            return Reply(answer())
        self._aside = self._aside or Aside()  # a user's code may wait or hang
        what = f"the scripted teacher, after turn {turn},"
        return Reply(await self._aside.run(answer, what=what, kind=self._kind, origin=Origin.MODEL))
