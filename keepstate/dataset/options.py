"""What may be chosen when a data set is built. Recorded in its manifest as given."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Length(StrEnum):
    """What happens to a conversation longer than `max_tokens`."""

    DROP = "drop"
    CUT = "cut"
    """After the last answer that fits, so that system, goal and whole turns stay; marked in the index."""
    RAISE = "raise"
    """The build stops and names it."""


class Balance(StrEnum):
    """What is made equal over the arms that are built together."""

    NONE = "none"
    TRAINED = "trained"
    """Trained tokens of the train split: no arm has more than the smallest."""
    TOTAL = "total"
    """All tokens of the train split."""


class BuildOptions(BaseModel):
    """Which traces become rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(default=16_384, gt=0)
    """The training context."""
    length: Length = Length.DROP
    solved: bool = False
    """Only traces whose task was solved."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    finished: bool = True
    """Only episodes that the agent itself ended."""
    failed: bool = False
    """Also episodes that a failure of ours ended (they are not graded)."""
    paired: bool = False
    """Only tasks that every arm has."""
    balance: Balance = Balance.NONE
    val_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Of the tasks."""
    seed: int = 0
    """Decides which tasks are held out, and the order of rows."""
