"""Agents: the one loop that plays an episode, its prompts, how answers are read and observations are shown.

Entry point: `await run_episode(task, runtime=..., model=..., sandbox=...)`. Nothing here executes an action (that is
`keepstate.runtimes`) or writes a file (that is `keepstate.traces`). The loop is imported when it is first named, so
that reading traces loads no runtime.
"""

from typing import TYPE_CHECKING, Any

from keepstate.agents.limits import EpisodeLimits
from keepstate.agents.prompts import system_prompt
from keepstate.traces.record import Trace

if TYPE_CHECKING:
    from keepstate.agents.episode import run_episode, turn_seed

__all__ = ["EpisodeLimits", "Trace", "run_episode", "system_prompt", "turn_seed"]


def __getattr__(name: str) -> Any:
    if name in ("run_episode", "turn_seed"):
        from keepstate.agents import episode

        return getattr(episode, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
