"""What harbor writes: the result of a trial, beside its trajectory, and the rows that it exports of its trials.

A trial's folder holds `agent/trajectory.json` (see `atif`), `result.json` and what its verifier wrote. The export
(`harbor traces export`) is `conversations` with agent, model, task and result: each row is one answer with all before
it, so a trial of ten answers is ten rows, each the beginning of the next, and calls and thoughts are texts in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keepstate.files import parse_json
from keepstate.traces.importing import UNKNOWN, Told, file_word, graded, mapping
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


def add_result(told: Told, trajectory: Path) -> None:
    """Tell task and verdict of a trajectory by what lies around it in the trial's folder; nothing where none does."""
    trial = trajectory.parent.parent if trajectory.parent.name == "agent" else trajectory.parent
    result = mapping(_json(trial / "result.json"))
    if not {"task_name", "trial_name"} <= result.keys():
        result = {}
    rewards = mapping(mapping(result.get("verifier_result")).get("rewards"))
    rewards = rewards or mapping(_json(trial / "verifier/reward.json"))
    if not rewards and isinstance(alone := _json(trial / "verifier/reward.txt"), int | float):
        rewards = {"reward": alone}
    if not result and not rewards:
        return
    if isinstance(name := result.get("task_name"), str) and name:
        told.task_id, told.name, told.family = name, file_word(name.replace("/", "-")), "harbor"
    score = next(iter(rewards.values())) if len(rewards) == 1 else rewards.get("reward")
    told.verdict = graded(score, told.lost, {key: value for key, value in rewards.items() if value is not score})
    if told.verdict is None and (error := mapping(result.get("exception_info"))):
        told.finish = FinishReason.FAILED
        told.errors = [f"{error.get('exception_type')}: {error.get('exception_message')}"]


def _json(path: Path) -> Any:
    """The JSON value in a file; None where there is none."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
