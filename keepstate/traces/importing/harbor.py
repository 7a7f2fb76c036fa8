"""Rows that harbor exports of its trials (`harbor traces export`): `conversations` with agent, model, task and result.

Each row is one answer with all before it, so a trial of ten answers is ten rows, each the beginning of the next. Calls
and thoughts are texts in it; the trials' own trajectories (`agent/trajectory.json`, see `atif`) keep them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keepstate.traces.importing import UNKNOWN, Told, file_word, graded
from keepstate.vocabulary import FinishReason

KEYS = frozenset({"conversations", "agent", "trial_name", "run_id", "episode"})
READ = frozenset({*KEYS, "model", "task", "date", "result"})


def is_export(value: Any) -> bool:
    """Whether a value is such a row."""
    return isinstance(value, Mapping) and value.keys() >= KEYS and isinstance(value["conversations"], list)


def told_of(row: Mapping[str, Any]) -> Told:
    """What a row tells: one episode."""
    told = Told("harbor exports", list(row["conversations"]), family="harbor")
    told.model, told.started_at = str(row.get("model") or UNKNOWN), str(row.get("date") or "")
    if row.get("task"):
        told.task_id, told.name = row["task"], file_word(str(row["task"]).replace("/", "-"))
    told.lost |= {f"key {key}" for key in map(str, row) if key not in READ and row[key]}
    told.lost.add("calls and thoughts apart from the texts, tokens and limits: import the trials' trajectory.json")
    result = row.get("result")
    try:
        told.verdict = graded(float(result), told.lost) if result is not None else None
    except (TypeError, ValueError):
        told.finish, told.errors = FinishReason.FAILED, [str(result)]
    return told
