"""Files and hashes that everything else stands on."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstate.files import ListHash, canonical_json, changed_keys, content_hash, parse_json, write_json

TEXT = st.text(st.characters(codec=None))
ITEMS = st.lists(st.one_of(TEXT, st.integers(), st.dictionaries(TEXT, TEXT), st.none()), max_size=8)


@given(ITEMS, st.lists(st.integers(0, 8), max_size=5))
def test_the_hash_of_a_growing_list_is_that_of_the_whole(items: list[Any], stops: list[int]) -> None:
    running = ListHash()
    for stop in [*sorted(stops), len(items), len(items)]:
        assert running.of(items[:stop]) == content_hash(items[:stop])


def test_changed_keys_are_named_with_both_values_and_what_is_unknown_is_not_compared() -> None:
    before = {"limits": {"turns": 10, "seconds": 60}, "weights": None, "seed": 1, "data": "a" * 64}
    now = {"limits": {"turns": 20, "seconds": 60}, "weights": "b", "data": "c" * 64}
    changes = ["data: aaaaaaaaaaaa... -> cccccccccccc...", "limits.turns: 10 -> 20", "seed: 1 -> None"]
    assert changed_keys(before, now, unknown=("weights",)) == changes
    assert changed_keys(before, now)[-1] == "weights: None -> b"
    assert changed_keys(before, before) == []


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e400", "-1e999", "{"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON number|Expecting"):
        parse_json(text)


def test_json_is_read_and_written_strictly(tmp_path: Path) -> None:
    assert parse_json(b'{"a": [1, 1.5e3, null, "NaN"]}') == {"a": [1, 1500.0, None, "NaN"]}
    for write in (partial(write_json, tmp_path / "x.json"), canonical_json):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write({"score": float("nan")})
    assert not list(tmp_path.iterdir())
