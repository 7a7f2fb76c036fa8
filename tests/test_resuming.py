"""The one rule of resuming: the same goes on, another is refused by the names of its keys."""

import json
from pathlib import Path

import pytest

from keepstate.resume import OtherWork, Record, changed_keys


def test_changed_keys_are_named_with_both_values_and_what_is_unknown_is_not_compared() -> None:
    before = {"limits": {"turns": 10, "seconds": 60}, "weights": None, "seed": 1, "data": "a" * 64}
    now = {"limits": {"turns": 20, "seconds": 60}, "weights": "b", "data": "c" * 64}
    changes = ["data: aaaaaaaaaaaa... -> cccccccccccc...", "limits.turns: 10 -> 20", "seed: 1 -> None"]
    assert changed_keys(before, now, unknown=("weights",)) == changes
    assert changed_keys(before, now)[-1] == "weights: None -> b"
    assert changed_keys(before, before) == []


def test_a_record_tells_what_differs_by_its_values_and_not_by_its_digest(tmp_path: Path) -> None:
    def record(**limits: float) -> Record:
        return Record(tmp_path / "record.json", "some.schema.v1", {"model": "a", "limits": limits})

    assert record(turns=4).changes() is None, "nothing was written down"
    record(turns=4).write()
    written = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(written | {"digest": "of an older layout"}))
    assert record(turns=4.0).changes() == []
    assert record(turns=5).changes() == ["limits.turns: 4 -> 5"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"decisive": null}', '{"decisive": [1]}', "\xff"])
def test_a_record_that_cannot_be_read_is_one_of_unknown_work(text: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(text.encode("latin-1"))
    changes = Record(tmp_path / "record.json", "some.schema.v1", {"model": "a"}).changes()
    assert changes == ["record.json cannot be read, so nobody knows what made it"]


def test_a_refusal_names_folder_keys_and_both_ways_on() -> None:
    refused = OtherWork({"runs/x holds 3 episodes": ["seed: 1 -> 2"], "y holds 1": ["a: 0 -> 1"]}, "--run NAME")
    assert refused.message == (
        "runs/x holds 3 episodes of other options:\n  seed: 1 -> 2\ny holds 1 of other options:\n  a: 0 -> 1"
    )
    assert refused.hint == "keep both: --run NAME; or replace what lies there: --fresh"
