"""What an adapter was trained for: the runtimes of its traces, and which training of several it is.

It stands in the card that `keepstate train` leaves; of a checkpoint, in the record of the training around it. Of an
adapter without either it is not known, unless its name is a runtime's. Reads JSON files; loads no weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field, ValidationError

from keepstate.closed import Closed
from keepstate.files import content_hash, parse_json
from keepstate.vocabulary import BASE, RuntimeName

RUN = "keepstate-run.json"
"""What decides a training, in the adapter's folder; see `keepstate.train.run_folder`."""
BETWEEN = "+"
"""Between the runtimes of mixed data, where they are written as one word."""


class TrainedFor(Closed):
    """What an adapter was trained for."""

    runtimes: tuple[RuntimeName, ...]
    """Of the traces that it was trained on; empty for the base model."""
    training: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of what decides its training, seed apart: trainings that differ in their seed alone have the same."""
    seed: int | None = None
    """Of its training; null where it is not known."""

    @property
    def playable(self) -> tuple[RuntimeName, ...]:
        """The runtimes whose answers it can give: all of the kinds of agent that it was trained as; the base: all."""
        agents = {runtime.agent for runtime in self.runtimes}
        names = dict.fromkeys((*RuntimeName, *self.runtimes))
        return tuple(name for name in names if not agents or name.agent in agents)


def runtimes_in(word: str) -> tuple[RuntimeName, ...]:
    """`persistent+forget` as runtimes.

    Raises:
        ValueError: A part of it names none.
    """
    return tuple(RuntimeName(part) for part in word.split(BETWEEN))


def as_word(runtimes: Iterable[RuntimeName]) -> str:
    """Runtimes as one word, the inverse of `runtimes_in`."""
    return BETWEEN.join(runtimes)


def by_name(name: str) -> TrainedFor | None:
    """What a name alone tells: `base`, or a runtime's."""
    if name == BASE:
        return TrainedFor(runtimes=())
    try:
        return TrainedFor(runtimes=(RuntimeName(name),))
    except ValueError:
        return None


def training_of(decisive: dict[str, object]) -> str:
    """See `TrainedFor.training`."""
    return content_hash({key: value for key, value in decisive.items() if key != "seed"})


def told_by_record(checkpoint: Path) -> TrainedFor | None:
    """What the record of a training tells of one of its checkpoints; None where there is none that does.

    The same checkpoint of trainings that differ in their seed alone has the same `training`.
    """
    try:
        decisive = parse_json((checkpoint.parent / RUN).read_bytes())["decisive"]
        training = training_of(decisive | {"checkpoint": checkpoint.name})
        return TrainedFor(runtimes=runtimes_in(decisive["runtime"]), training=training, seed=decisive.get("seed"))
    except (OSError, ValueError, ValidationError, KeyError, TypeError, AttributeError, RecursionError):
        return None
