"""Tied sets: what the data cannot tell apart."""

from pathlib import Path

import pytest
from made_results import Made, write_made_cell

from keepstate.bench.results import read_results
from keepstate.report.ties import _cliques, in_words, tied_sets
from keepstate.vocabulary import RuntimeName

REACT = RuntimeName.REACT


@pytest.mark.parametrize(
    ("pairs", "sets"),
    [
        ([], [{0}, {1}, {2}, {3}]),
        ([(0, 1), (1, 2)], [{0, 1}, {1, 2}, {3}]),
        ([(0, 1), (1, 2), (0, 2), (2, 3)], [{0, 1, 2}, {2, 3}]),
    ],
)
def test_the_largest_sets(pairs: list[tuple[int, int]], sets: list[set[int]]) -> None:
    tied: dict[int, set[int]] = {place: set() for place in range(4)}
    for a, b in pairs:
        tied[a].add(b)
        tied[b].add(a)
    assert sorted(map(sorted, _cliques(set(), set(tied), set(), tied))) == sorted(map(sorted, sets))


def test_cells_are_tied_by_holm_over_all_pairs_and_draws_are_averaged(tmp_path: Path) -> None:
    """`b` differs from `c` and `e` by p = 2/64 alone, by Holm no more; `a` differs from all on ten tasks."""
    for draw in (0, 1):
        write_made_cell(tmp_path, "a", REACT, lambda i, by=draw: Made(0.1 * by), 10, seed=draw, name=f"a{draw}")
    write_made_cell(tmp_path, "b", REACT, lambda _: Made(0.6), 10)
    write_made_cell(tmp_path, "c", REACT, lambda i: Made(0.6 + 0.1 * (i < 6)), 10)
    write_made_cell(tmp_path, "e", REACT, lambda i: Made(0.6 + 0.1 * (i >= 4)), 10)
    write_made_cell(tmp_path, "other", REACT, lambda _: Made(0.6), 11)
    sets = tied_sets(read_results(tmp_path))
    assert sets == (("a → react",), ("b → react", "c → react", "e → react"))
    assert in_words(sets) == (
        "Shown neither to differ nor to be equal: (b → react, c → react, e → react)."
        " Shown to differ from all others: a → react."
    )
    assert in_words(tied_sets(read_results(tmp_path / "a0"))) == ""
