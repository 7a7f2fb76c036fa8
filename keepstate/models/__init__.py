"""Models: who answers. The interface, an OpenAI-compatible client, the scripted teacher, and a script for tests.

`keepstate.models.server` and `keepstate.models.teacher` are imported by name where they are used. Knows nothing of
episodes.
"""

from keepstate.models.base import ContextOverflow, Message, Model, Reply, Sampling

__all__ = ["ContextOverflow", "Message", "Model", "Reply", "Sampling"]
