"""What stands behind the figures of a group: errors and endings by cell, tasks pair by pair, how it was played.

For the page. Counts and draws; says nothing of what is shown by it.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstate.bench.cells import CELL_CONFIG
from keepstate.bench.results import Episode
from keepstate.report.figures import Comparison
from keepstate.report.model import CellGroup
from keepstate.report.words import NONE
from keepstate.vocabulary import BASE

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""A head and rows, which begin with the name of a cell."""


def errors_by_cell(group: CellGroup) -> Table:
    """In how many episodes the agent's own code raised a class of errors; one may have several."""
    return _by_cell(group, lambda episode: set(episode.errors) or {"no error"})


def endings_by_cell(group: CellGroup) -> Table:
    """How many episodes ended for which reason."""
    return _by_cell(group, lambda episode: {str(episode.finish_reason)})


def _by_cell(group: CellGroup, kinds: Callable[[Episode], Collection[str]]) -> Table:
    counts = [Counter(kind for e in figures.cell.episodes for kind in kinds(e)) for figures in group.figures]
    total = sum(counts, Counter[str]())
    heads = sorted(total, key=lambda kind: (-total[kind], kind))
    rows = [
        (figures.cell.label, *(_part(counted[kind], len(figures.cell.episodes)) for kind in heads))
        for figures, counted in zip(group.figures, counts, strict=True)
    ]
    return ("cell", *heads), rows


def _part(count: int, of: int) -> str:
    return f"{count:,} ({100 * count / of:.0f} %)" if count else "0"


LEFT, RIGHT, TOP, HEIGHT = 30, 190, 10, 120
"""Of a drawing of pairs, in its own units."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """The scores of each task in two cells, joined: the paths of an SVG drawing, and how many they are."""

    name: str
    before: str
    """The cell on the left: the second of the comparison."""
    after: str
    paths: tuple[tuple[str, str], ...]
    """Kind (worse, same, better: of the right one) and the lines of its tasks."""
    counts: Mapping[str, int]


def pairs_of(comparison: Comparison) -> Pairs:
    """The tasks that are graded in both, each a line; those at the same place are drawn once."""
    after, before = comparison.first.by_task, comparison.second.by_task
    lines: dict[str, list[str]] = {"worse": [], "same": [], "better": []}
    for task in sorted(after.keys() & before.keys()):
        a, b = before[task].score, after[task].score
        start, end = (round(TOP + HEIGHT * (1 - min(max(score, 0.0), 1.0)), 1) for score in (a, b))
        lines["worse" if b < a else "better" if b > a else "same"].append(f"M{LEFT} {start:g}L{RIGHT} {end:g}")
    return Pairs(
        f"{comparison.first.label} against {comparison.second.label}",
        comparison.second.label,
        comparison.first.label,
        tuple((kind, "".join(dict.fromkeys(each))) for kind, each in lines.items() if each),
        {kind: len(each) for kind, each in lines.items()},
    )


def settings_of_cells(group: CellGroup) -> tuple[list[tuple[str, str]], Table]:
    """How the cells were played: what is the same in all of them by its key, and what is not, a row a cell."""
    cells = [
        _flat({"digest": f.cell.digest, "rungs": ", ".join(f.rungs), **f.cell.config, **f.cell.played_with})
        for f in group.figures
    ]
    keys = list(dict.fromkeys(key for cell in cells for key in cell))
    same = [key for key in keys if len({cell.get(key, NONE) for cell in cells}) == 1]
    apart = [key for key in keys if key not in same]
    rows = [
        (f.cell.label, *(cell.get(key, NONE) for key in apart)) for f, cell in zip(group.figures, cells, strict=True)
    ]
    return [(key, cells[0][key]) for key in same], (("cell", *apart), rows)


def commands_of(group: CellGroup) -> list[str]:
    """What is typed to play the cells of a group again, and to report on them; empty where a cell has no config."""
    cells = [figures.cell for figures in group.figures]
    configs = [cell.folder / CELL_CONFIG for cell in cells]
    if not all(path.is_file() for path in configs):
        return []
    models = {cell.adapter: cell.adapter_folder for cell in cells}
    base = models.pop(BASE, None)
    served = [f"--lora {shlex.quote(f'{name}={folder}')}" for name, folder in models.items() if folder]
    on = [f"--base-model {shlex.quote(str(base))}"] if base else []
    unknown = [name for name, folder in models.items() if not folder]
    play = [*(shlex.quote(_from_here(path)) for path in configs), f"--base-url http://127.0.0.1:{PORT}/v1 --run again"]
    return [
        *([f"# which folders these adapters lie in is not known: {', '.join(unknown)}"] if unknown else []),
        _lines([f"keepstate serve --port {PORT}", *on, *served]),
        _lines(["keepstate bench run", *play]),
        "keepstate report runs/again",
    ]


PORT = 8000
"""Of the commands that a report says: any free one."""


def _lines(parts: Sequence[str]) -> str:
    return " \\\n    ".join(parts)


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _flat(value: Mapping[str, Any], of: str = "") -> dict[str, str]:
    """`limits.turns` and the like, as text."""
    flat: dict[str, str] = {}
    for key, each in value.items():
        if isinstance(each, Mapping):
            flat |= _flat(each, f"{of}{key}.")
        else:
            flat[f"{of}{key}"] = "not set, or not known" if each is None else str(each)
    return flat
