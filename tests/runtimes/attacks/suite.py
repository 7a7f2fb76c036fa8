"""All attacks, by group and name."""

from __future__ import annotations

from attacks import (
    calls,
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

BY_RUNG = (processes, files, network, privileges)
"""Groups whose outcome depends on what a rung isolates."""
GROUPS = (*BY_RUNG, resources, clock, interpreter, endings, frames, channel, calls)
ATTACKS = {f"{group.__name__.removeprefix('attacks.')}: {a.name}": a for group in GROUPS for a in group.ATTACKS}
