"""Agents: the one loop that plays an episode (`episode.run_episode`), its prompts, and the notes that become its trace.

Nothing here executes an action (that is `keepstate.runtimes`) or writes a file (that is `keepstate.traces`). The
package itself imports none of its modules: prompts are had without the loop and its runtimes.
"""
