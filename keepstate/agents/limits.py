"""What one episode may use. The defaults are those of the specification's benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field

from keepstate.traces.record import RuntimeLimits
from keepstate.vocabulary import RuntimeName

CODEACT_SECONDS = 900.0
REACT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class EpisodeLimits:
    """Bounds of one episode. Reaching one ends it; it is graded as it stands."""

    turns: int = 40
    """Answers of the model."""
    seconds: float = CODEACT_SECONDS
    """Of the model's answers and of the actions together; waiting for a server that does not answer is not counted."""
    runtime: RuntimeLimits = field(default_factory=RuntimeLimits)
    """Bounds of one action."""

    @classmethod
    def default(cls, runtime: RuntimeName) -> EpisodeLimits:
        """The specification's limits for `runtime`: 900 s, in react 600 s."""
        return cls(seconds=REACT_SECONDS if runtime is RuntimeName.REACT else CODEACT_SECONDS)
