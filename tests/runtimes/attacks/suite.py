"""All attacks by name, and where each is tried."""

from __future__ import annotations

from attacks import (
    Attack,
    channel,
    clock,
    endings,
    files,
    frames,
    interpreter,
    network,
    privileges,
    processes,
    resources,
)
from keepstate.vocabulary import Rung

BY_RUNG = (processes, files, network, privileges)
"""Groups whose outcome depends on what a rung isolates."""
GROUPS = (*BY_RUNG, resources, clock, interpreter, endings, frames, channel)
ATTACKS = {f"{group.__name__.removeprefix('attacks.')}: {a.name}": a for group in GROUPS for a in group.ATTACKS}

_DEPENDENT = {id(attack) for group in BY_RUNG for attack in group.ATTACKS}


def is_repetition(attack: Attack, rung: Rung) -> bool:
    """Whether `attack` at `rung` tells little that the same attack at the top rung does not."""
    return rung is not Rung.NAMESPACES and id(attack) not in _DEPENDENT
