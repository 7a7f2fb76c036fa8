"""Agents: the one loop that plays an episode, its prompts, how answers are read and observations are shown.

Entry point: `await run_episode(task, runtime=..., model=..., sandbox=...)`. Nothing here executes an action (that is
`keepstate.runtimes`) or writes a file (that is `keepstate.traces`).
"""

from keepstate.agents.episode import run_episode, turn_seed
from keepstate.agents.limits import EpisodeLimits
from keepstate.agents.prompts import system_prompt
from keepstate.agents.record import Trace

__all__ = ["EpisodeLimits", "Trace", "run_episode", "system_prompt", "turn_seed"]
