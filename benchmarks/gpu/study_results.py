"""The last stage of the study: the registered comparisons, and everything that says how they were made, in one folder.

Reads finished cells; computes with keepstate's own statistics (docs/statistics.md). Writes no weights and no episodes.
"""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from study_commands import ALL_OF_IT, NOTES, PLAYED
from study_second_round import second_round_lines
from study_sizes import RUN, SECOND, Size

from keepstate import __version__
from keepstate.bench.results import CellResult, Fit, read_results
from keepstate.errors import UserError
from keepstate.files import file_hash, parse_json, write_atomic, write_json
from keepstate.report.figures import MARGIN, cell_figures
from keepstate.report.significance import ERROR, PairedDifference, holm, paired_difference
from keepstate.report.statistics import Estimate, bounded_mean, median_ratio
from keepstate.train.trained_for import as_word

MOST_BYTES = 20 << 20
P, S, R, MIX = "persistent", "forget", "react", "persistent+forget"
Arm = tuple[str, str]
"""Trained for, acts in."""
PRIMARY: dict[str, tuple[Arm, Arm]] = {"G": ((P, P), (P, S)), "M": ((P, S), (S, S)), "Q": ((S, P), (P, P))}
SECONDARY: dict[str, tuple[Arm, Arm]] = {"mixed, persistent": ((MIX, P), (P, P)), "mixed, forget": ((MIX, S), (S, S))}
"""First - second; each of the two is a family for Holm, over all sets of tasks."""
LEARNT: tuple[Arm, ...] = ((P, P), (S, S), (R, R))
PLACE = re.compile(r"(?:/[\w.+-]+)+/(?=(?:models|adapters)/)")
"""Where a machine keeps its models and the study: of no use to others, and not for them to see."""
REPLAYED = {
    "same": "the same",
    "addresses": "but for addresses",
    "chance": "by clock or chance",
    "different": "different",
}
COPIED = ("report.md", "report.json", "index.html", "episodes.csv", "*.svg")

CLAIM = {True: "speak of a mismatch", False: "carry no claim"}

Seeds = Mapping[int, CellResult]


@dataclass(frozen=True, slots=True)
class Registered:
    """One registered comparison on one set of tasks."""

    name: str
    tasks: str
    difference: PairedDifference
    each: Mapping[int, float]
    """By training seed."""
    tokens: Estimate | None
    p_holm: float | None = None

    @property
    def shown(self) -> bool:
        """Below 5 % in its family, and with the same sign in every training, of which there are two or more."""
        mean = self.difference.difference.value
        alike = len(self.each) > 1 and all(each * mean > 0 for each in self.each.values())
        return alike and self.p_holm is not None and self.p_holm < ERROR


def write_results(folder: Path, target: Path, family: str, size: Size) -> None:
    """Write `target` from the study in `folder`.

    Raises:
        UserError: It would hold more than `MOST_BYTES`.
    """
    cells = read_results(folder / "runs" / RUN)
    arms, complete = _arms(cells, size)
    families = [_compared(arms, size, of) for of in (PRIMARY, SECONDARY)]
    lines = [f"# Results: {family}, {len(complete)} trainings ({', '.join(map(str, complete)) or 'none complete'})", ""]
    lines += _sizes(size) + _matrix(cells, arms, size) + _learnt(arms, size)
    for title, found in zip(("Primary", "Mixed"), families, strict=True):
        head = f"{title} comparisons (cap {size.caps[0]}, Holm over {len(found)})"
        lines += _table(head, found, claims=_plays(arms, size))
    if (folder / SECOND).is_dir():
        lines += ["## Second round", "", f"[On its own page](../{second_page(target).name}/README.md).", ""]
    replays = {name: _replayed(folder / f"{name}.json") for name in ("replay", "exposure")}
    lines += _replay_lines(replays, cells, size.caps[0]) + _times(folder, cells) + LAYOUT
    _write(folder, target, lines, cells, replays, report=folder / "report")


def write_second_round(folder: Path, target: Path, size: Size) -> None:
    """Write `target` from the second round in `folder`.

    Raises:
        UserError: It would hold more than `MOST_BYTES`.
    """
    run = folder / "runs" / SECOND
    cells = read_results(run) if run.is_dir() else []
    replays = {"replay": _replayed(folder / f"replay-{SECOND}.json")}
    lines = ["# Results: the second round", "", *_sizes(size), *second_round_lines(folder)]
    lines += _replay_lines(replays, cells, size.caps[0]) + _times(folder, cells) + LAYOUT
    if (made := folder / SECOND / "configs").is_dir():
        shutil.copytree(made, target / "configs" / SECOND, dirs_exist_ok=True)
    _write(folder, target, lines, cells, replays, report=folder / SECOND / "report")


def second_page(target: Path) -> Path:
    """Where the second round of the study that is written to `target` is written."""
    return target.with_name(f"{target.name}-{SECOND}")


def _write(
    folder: Path,
    target: Path,
    lines: Sequence[str],
    cells: Sequence[CellResult],
    replays: Mapping[str, Any],
    *,
    report: Path,
) -> None:
    """A page, and beside it the report and what says how all was made."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in COPIED:
        for path in report.glob(pattern):
            shutil.copy(path, target / path.name)
    shutil.copytree(folder / "configs", target / "configs", dirs_exist_ok=True)
    shutil.copy(folder / NOTES, target / NOTES)
    write_json(target / "hashes.json", _hashes(folder, cells))
    write_json(target / "replay.json", replays)
    write_atomic(target / "README.md", "\n".join(lines) + "\n")
    for path in filter(Path.is_file, target.rglob("*")):
        write_atomic(path, PLACE.sub("", path.read_text()))
    if (there := sum(path.stat().st_size for path in target.rglob("*") if path.is_file())) > MOST_BYTES:
        raise UserError(f"{target} holds {there >> 20} MiB, more than {MOST_BYTES >> 20}", "take out its largest files")


def _arms(cells: Sequence[CellResult], size: Size) -> tuple[dict[tuple[str, Arm], Seeds], list[int]]:
    """Greedy cells under the first cap by tasks, arm and training seed, of trainings that were played whole."""
    found: dict[tuple[str, Arm], dict[int, CellResult]] = defaultdict(dict)
    for cell in cells:
        of, config = cell.trained_for, cell.config
        greedy = config["sampling"]["temperature"] == 0 and config["limits"]["tool_calls"] == size.caps[0]
        if greedy and of and of.runtimes and of.seed is not None:
            found[cell.difficulty, (as_word(of.runtimes), str(cell.runtime))][of.seed] = cell
    asked = [(tasks, arm) for tasks in size.sets for pair in (*PRIMARY.values(), *SECONDARY.values()) for arm in pair]
    asked += [(tasks, (R, R)) for tasks in size.sets]
    whole = [
        seed for seed in size.seeds if all(seed in found[each] and found[each][seed].missing == 0 for each in asked)
    ]
    return {each: {seed: found[each][seed] for seed in whole} for each in asked}, whole


def _compared(arms: Mapping[tuple[str, Arm], Seeds], size: Size, of: Mapping[str, tuple[Arm, Arm]]) -> list[Registered]:
    """One family of comparisons, adjusted for its number."""
    found = [
        one
        for tasks in size.sets
        for name, (first, second) in of.items()
        if (one := _one(name, tasks, arms[tasks, first], arms[tasks, second]))
    ]
    adjusted = holm([one.difference.p_different for one in found])
    return [
        Registered(one.name, one.tasks, one.difference, one.each, one.tokens, p)
        for one, p in zip(found, adjusted, strict=True)
    ]


def _one(name: str, tasks: str, first: Seeds, second: Seeds) -> Registered | None:
    """A task's score is the mean over trainings; only tasks that are graded in all of them count."""
    cells = [*first.values(), *second.values()]
    if not cells:
        return None
    shared = sorted(set.intersection(*(set(cell.by_task) for cell in cells)))

    def means(of: Seeds, figure: str) -> list[Any]:
        values = [[getattr(cell.by_task[task], figure) for cell in of.values()] for task in shared]
        return [None if None in each else fmean(each) for each in values]

    difference = paired_difference(means(first, "score"), means(second, "score"), margin=MARGIN)
    if difference is None:
        return None
    each = {
        seed: fmean(first[seed].by_task[task].score - second[seed].by_task[task].score for task in shared)
        for seed in first
    }
    return Registered(name, tasks, difference, each, median_ratio(means(first, "tokens"), means(second, "tokens")))


def _plays(arms: Mapping[tuple[str, Arm], Seeds], size: Size) -> bool:
    """Whether both specialists lie above the blind floor in every training, on tasks like those of the training."""
    cells = [cell for arm in LEARNT[:2] for cell in arms[size.trained_on, arm].values()]
    corrected = [cell_figures(cell).corrected for cell in cells]
    return bool(cells) and all(each is not None and each.low is not None and each.low > 0 for each in corrected)


def _matrix(cells: Sequence[CellResult], arms: Mapping[tuple[str, Arm], Seeds], size: Size) -> list[str]:
    """Every cell under the first cap, over the trainings that were played whole; draws are in the report alone."""
    base = {
        (cell.difficulty, ("base", str(cell.runtime))): {0: cell}
        for cell in cells
        if cell.fit is Fit.BASE and cell.config["limits"]["tool_calls"] == size.caps[0]
    }
    head = "| tasks | trained for → acts in | n | optimality % [95 %] | each training | solved | missing | tokens |"
    rows = []
    for (tasks, (of, runtime)), seeds in sorted({**base, **arms}.items()):
        every = [cell.by_task for cell in seeds.values()]
        shared = set.intersection(*map(set, every)) if every else set()
        if not shared:
            continue
        score = bounded_mean([fmean(of_task[task].score for of_task in every) for task in sorted(shared)])
        each = [fmean(100 * of_task[task].score for task in shared) for of_task in every]
        episodes = [episode for cell in seeds.values() for episode in cell.episodes]
        tokens = [episode.tokens for episode in episodes]
        rows.append(
            f"| {tasks} | {of} → {runtime} | {len(shared)} | {_range(score, '.1f', 100)}"
            f" | {', '.join(f'{value:.1f}' for value in each)}"
            f" | {sum(episode.solved for episode in episodes)}/{len(episodes)}"
            f" | {sum(episode.missed_variable for episode in episodes)}/{len(episodes)}"
            f" | {'unknown' if None in tokens else format(fmean(filter(None, tokens)), ',.0f')} |"
        )
    return [f"## Cells (cap {size.caps[0]}, temperature 0)", "", head, "|---" * 8 + "|", *rows, ""]


def _table(title: str, found: Sequence[Registered], *, claims: bool) -> list[str]:
    head = (
        "| tasks | | n | difference, points [95 %] | each training | p, Holm | shown | verdict | tokens, ratio [95 %] |"
    )
    rows = [
        f"| {one.tasks} | {one.name} | {one.difference.difference.n} | {_points(one.difference.difference)}"
        f" | {', '.join(f'{100 * value:.1f}' for value in one.each.values())}"
        f" | {'-' if one.p_holm is None else format(one.p_holm, '.2g')} | {'yes' if one.shown and claims else 'no'}"
        f" | {one.difference.verdict} | {_range(one.tokens, '.2f', 1)} |"
        for one in found
    ]
    return (
        [f"## {title}", "", head, "|---" * 9 + "|", *rows, ""]
        if rows
        else [f"## {title}", "", "None: no training was played whole.", ""]
    )


def _points(value: Estimate) -> str:
    return _range(value, ".1f", 100)


def _range(value: Estimate | None, form: str, scale: float) -> str:
    if value is None:
        return "-"
    ends = (
        "" if value.low is None or value.high is None else f" [{scale * value.low:{form}}, {scale * value.high:{form}}]"
    )
    return f"{scale * value.value:{form}}{ends}"


def _sizes(size: Size) -> list[str]:
    return [
        f"{size.traces:,} traces a runtime on `{size.trained_on}`, {size.tasks} held-out tasks of each set, at most"
        f" {size.turns} turns of {size.max_tokens:,} tokens, context {size.context:,}, keepstate {__version__}.",
        "What is asked, and what was expected: `docs/study.md`.",
        "",
    ]


def _learnt(arms: Mapping[tuple[str, Arm], Seeds], size: Size) -> list[str]:
    """Chance-corrected scores of matched adapters: whether the comparisons say anything."""
    lines = [
        "## Was anything learnt",
        "",
        "| tasks | cell | training | corrected for chance [95 %] | solved | missing variable |",
    ]
    lines.append("|---" * 6 + "|")
    for (tasks, arm), cells in arms.items():
        for seed, cell in cells.items() if arm in LEARNT and tasks == size.trained_on else ():
            figures = cell_figures(cell)
            lines.append(
                f"| {tasks} | {arm[0]} → {arm[1]} | {seed} | {_range(figures.corrected, '.2f', 1)}"
                f" | {sum(episode.solved for episode in cell.episodes)}/{len(cell.episodes)}"
                f" | {sum(episode.missed_variable for episode in cell.episodes)}/{len(cell.episodes)} |"
            )
    said = "Both specialists lie above the floor" if _plays(arms, size) else "Not both specialists lie above the floor"
    return [*lines, "", f"{said} in every training, so the comparisons {CLAIM[_plays(arms, size)]}.", ""]


def _hashes(folder: Path, cells: Sequence[CellResult]) -> dict[str, Any]:
    cards = sorted(folder.glob("adapters/*/keepstate-adapter.json"))
    return {
        "adapters": {card.parent.name: parse_json(card.read_bytes()) for card in cards},
        "data": {path.parent.name: file_hash(path) for path in sorted(folder.glob("datasets/*/train.jsonl"))},
        "cells": {
            cell.name: {
                "digest": cell.digest,
                "adapter": cell.adapter,
                "runtime": str(cell.runtime),
                "tasks": cell.difficulty,
                "weights": cell.config.get("weights"),
                "graded": len(cell.episodes),
                "not graded": sum(cell.not_graded.values()),
                "missing": cell.missing,
                "remarks": cell.remarks,
            }
            for cell in cells
        },
    }


def _replayed(path: Path) -> Any:
    """What `bench replay --json` said; None where it was not run."""
    return parse_json(path.read_bytes()) if path.is_file() and path.stat().st_size else None


def _replay_lines(replays: Mapping[str, Any], cells: Sequence[CellResult], cap: int) -> list[str]:
    """How many episodes were as recorded, and which share of those under a wider cap asks for more than `cap` calls."""
    lines = ["## Replay", ""]
    if replays["replay"] is None:
        return [*lines, "Not run.", ""]
    counts = {words: sum(folder[key] for folder in replays["replay"]) for key, words in REPLAYED.items()}
    lines += [
        "All episodes executed again without a model: " + ", ".join(f"{n:,} {words}" for words, n in counts.items())
    ]
    by_name = {cell.name: cell for cell in cells}
    exposed: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for folder in replays.get("exposure") or ():
        cell, effects = by_name.get(Path(folder["folder"]).name), folder["effects"]
        if cell and effects["episodes"]:
            of = as_word(cell.trained_for.runtimes) if cell.trained_for and cell.trained_for.runtimes else cell.adapter
            sums = exposed[f"{cell.difficulty} | {of} → {cell.runtime}"]
            sums[:] = [sums[0] + effects["exposed"], sums[1] + effects["episodes"]]
    rows = [f"| {of} | {some}/{every} |" for of, (some, every) in sorted(exposed.items())]
    head = f"| tasks | played under a wider cap | E_{cap}: episodes with an action of more than {cap} calls |"
    return [*lines, "", *([head, "|---|---|---|", *rows, ""] if rows else [])]


def _times(folder: Path, cells: Sequence[CellResult]) -> list[str]:
    """Seconds of every stage, summed over sittings; what playing alone came to."""
    notes = [parse_json(line) for line in (folder / NOTES).read_bytes().splitlines()]
    seconds: dict[str, float] = defaultdict(float)
    for note in notes:
        if note["name"] == ALL_OF_IT:
            seconds[note["stage"]] += note["seconds"]
    playing = sum(note["seconds"] for note in notes if note["name"] == PLAYED)
    episodes = [episode for cell in cells for episode in cell.episodes]
    written = [episode.completion_tokens for episode in episodes]
    tokens = None if None in written else sum(filter(None, written))
    rate = f", {60 * len(episodes) / playing:,.0f} a minute" if playing else ""
    speed = f", {tokens / playing:,.0f} a second" if playing and tokens is not None else ""
    return [
        "## What it took",
        "",
        "| stage | seconds |",
        "|---|---|",
        *(f"| {stage} | {total:,.0f} |" for stage, total in seconds.items()),
        "",
        f"{len(episodes):,} episodes graded{rate}; {'unknown' if tokens is None else format(tokens, ',')} tokens"
        f" written{speed} (while playing: without the server's start).",
        "",
    ]


LAYOUT = [
    "## Files",
    "",
    "| file | holds |",
    "|---|---|",
    "| `report.md`, `report.json`, `index.html`, `*.svg` | the report of all cells |",
    "| `episodes.csv` | a row an episode |",
    "| `configs/` | the Axolotl config of each adapter |",
    "| `commands.jsonl` | every command in its order, with its seconds and exit code |",
    "| `hashes.json` | adapters' cards, data, weights and digests of all cells |",
    "| `replay.json` | the replay under the recorded contract, and under the lowest cap |",
]
