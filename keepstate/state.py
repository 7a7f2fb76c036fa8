"""What the next action finds of the state that the last one left: the one thing in which the CodeAct runtimes differ.

`persistent` keeps all, `forget` nothing; those between are defined in docs/runtimes.md. Keeps nothing itself: the
runtime asks here whether its interpreter lives on.
"""

from __future__ import annotations

from dataclasses import dataclass

from keepstate.vocabulary import RuntimeName

LIFETIME = "lifetime-"


@dataclass(frozen=True, slots=True)
class StateRule:
    """When an interpreter lives on, and what of it."""

    actions: int | None
    """It serves so many actions, whether they fail or not; None: all of the episode."""
    after_cap: bool = False
    """It lives on past that after each action that went beyond the cap on tool calls."""
    announced: bool = True
    """What lives on is named by `globals` of the observation."""
    variables_only: bool = False
    """Names of modules and of what can be called (functions, classes) are taken away after each action."""

    @classmethod
    def of(cls, runtime: RuntimeName) -> StateRule:
        """The rule of a runtime that executes Python.

        Raises:
            KeyError: The runtime is react, which has no interpreter.
        """
        if runtime.startswith(LIFETIME):
            return cls(int(runtime.removeprefix(LIFETIME)))
        return RULES[runtime]

    def keeps(self, actions: int, *, cut: bool) -> bool:
        """Whether an interpreter lives on.

        Args:
            actions: How many it has served, the last one included.
            cut: Whether the last one went beyond the cap: a tool call was refused for it, whatever the code then did.
        """
        return self.actions is None or actions < self.actions or (self.after_cap and cut)


RULES = {
    "persistent": StateRule(None),
    "forget": StateRule(1),
    "carry-after-cap": StateRule(1, after_cap=True, announced=False),
    "carry-after-cap-announced": StateRule(1, after_cap=True),
    "variables-only": StateRule(None, variables_only=True),
}
