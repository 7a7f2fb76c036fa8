"""The second round of docs/study.md: an adapter plays the training tasks, and another learns from its good episodes.

Trained as long as the first round's, from the same base, on what the first round's adapter itself did well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from study_commands import NOTES, Commands, train_words
from study_packing import round_weights
from study_play import DRAWN, Match, serve_words
from study_sizes import SECOND, Size

from keepstate.bench.results import CellResult, read_results
from keepstate.errors import EXIT_PARTIAL, EXIT_USER_ERROR
from keepstate.files import parse_json, write_atomic
from keepstate.report.figures import MARGIN
from keepstate.report.significance import paired_difference
from keepstate.report.statistics import Estimate, bounded_mean
from keepstate.setup import basemodel
from keepstate.train.result import WEIGHTS, TrainedAdapter, read_done
from keepstate.vocabulary import RuntimeName

ARM = str(RuntimeName.PERSISTENT)
TEACHER, PUPIL = f"{ARM}-seed{DRAWN}", f"round2-seed{DRAWN}"
PLAYED_AT = 0.7
"""Temperature of the episodes to learn from: at .2 there is little to choose from."""
CHOOSING = "build-second-round"
"""The command that takes the good ones."""


def second_round(commands: Commands, size: Size, port: int) -> int:
    """Collect, choose, train, and play both adapters; what is finished is not run again.

    The first round's adapter is trained where it is not there. With too few good episodes nothing is trained on them.

    Returns:
        0, or `EXIT_PARTIAL` where episodes are left to play.

    Raises:
        UserError: A command failed.
    """
    folder = commands.folder
    first = _trained(commands, size, TEACHER)
    if read_done(folder / "adapters" / PUPIL) is None:
        _collect(commands, size, port)
        if (rows := _rows(folder)) < size.least_kept:
            commands.say(f"{TEACHER} played {rows} good episodes, fewer than {size.least_kept}: none is trained")
            return 0
    _trained(commands, size, PUPIL, below=f"{SECOND}/", steps=first.steps)
    both = [TEACHER, PUPIL]
    match = Match(SECOND, size.sets[0], size.caps[0], tuple(both), 0, (DRAWN,), run=SECOND)
    with commands.served({"serve-second-round": serve_words(size, both, folder, port)}):
        cells = [word for name in both for word in ("--cells", f"{name}:{ARM}")]
        words = [*match.words(size, port, size.concurrency), *cells]
        return commands.run({"play-second-round": words}, allowed=(0, EXIT_PARTIAL))


def _collect(commands: Commands, size: Size, port: int) -> None:
    """Episodes of the first round's adapter on the training tasks, and a data set of the good ones."""
    url = f"http://127.0.0.1:{port}/v1"
    asked = ["--teacher", "llm", "--base-url", url, "--model", TEACHER, "--temperature", PLAYED_AT]
    asked += ["--turns", size.turns, "--max-tokens", size.max_tokens, "--concurrency", size.concurrency]
    played = ["traces", "collect", "--tasks", "tasks/train", "--runtime", ARM, "--out", f"{SECOND}/traces", *asked]
    with commands.served({"serve-teacher": serve_words(size, [TEACHER], commands.folder, port)}):
        commands.run({"collect-second-round": played}, allowed=(0, EXIT_PARTIAL))
    made = ["dataset", "build", "--traces", f"{SECOND}/traces", "--runtime", ARM, "--out", f"{SECOND}/datasets"]
    made += [*(size.kept or ()), "--max-tokens", size.context, "--val-fraction", 0]
    made += ["--tokenizer", basemodel.ensure_base_model()]
    commands.run({CHOOSING: made}, allowed=(0, EXIT_PARTIAL, EXIT_USER_ERROR))  # none is good enough
    if _rows(commands.folder):
        commands.run({"check-second-round": ["dataset", "check", f"{SECOND}/datasets/{ARM}"]})


def _trained(
    commands: Commands, size: Size, name: str, *, below: str = "", steps: int | None = None
) -> TrainedAdapter | None:
    """An adapter; where it is not there it is trained, by the same config, on the data `below` the study's folder."""
    output = commands.folder / "adapters" / name
    if read_done(output) is None:
        config = yaml.safe_load(size.config(ARM)) | ({"max_steps": steps} if steps else {})
        path = f"{below}configs/{ARM}.yaml"
        write_atomic(commands.folder / path, yaml.safe_dump(config, sort_keys=False))
        commands.run({name: train_words(ARM, DRAWN, config=path, data=f"{below}datasets/{ARM}", output=output)})
    if size.rounded:
        round_weights(output / WEIGHTS)
    return read_done(output)


def second_round_lines(folder: Path) -> list[str]:
    """The figures of its page; nothing where it was not run."""
    data, run = _data_lines(folder), folder / "runs" / SECOND
    cells = {cell.adapter: cell for cell in read_results(run)} if run.is_dir() else {}
    if not {TEACHER, PUPIL} <= cells.keys():
        return data
    second, first = cells[PUPIL], cells[TEACHER]
    shared = sorted(set(first.by_task) & set(second.by_task))
    difference = paired_difference(_scores(second, shared), _scores(first, shared), margin=MARGIN)
    rows = [f"| {name} | {_figures(cells[name])} |" for name in (TEACHER, PUPIL)]
    lines = ["| adapter | n | optimality % [95 %] | solved |", "|---|---|---|---|", *rows, ""]
    if difference is not None:
        found = difference.difference
        p = "-" if difference.p_different is None else f"{difference.p_different:.2g}"
        said = f"{PUPIL} less {TEACHER}, {found.n} tasks: {100 * found.value:.1f} {_ends(found)} points, p {p}"
        lines += [f"{said}, {difference.verdict}. One training of each.", ""]
    return [*lines, *data]


def _rows(folder: Path) -> int:
    """Episodes in the data set."""
    path = folder / SECOND / "datasets" / ARM / "train.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def _scores(cell: CellResult, tasks: Sequence[str]) -> list[Any]:
    return [cell.by_task[task].score for task in tasks]


def _figures(cell: CellResult) -> str:
    score = bounded_mean([one.score for one in cell.by_task.values()])
    solved = sum(episode.solved for episode in cell.episodes)
    mean = "-" if score is None else f"{100 * score.value:.1f} {_ends(score)}"
    return f"{len(cell.by_task)} | {mean} | {solved}/{len(cell.episodes)}"


def _ends(value: Estimate) -> str:
    return "" if value.low is None or value.high is None else f"[{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _data_lines(folder: Path) -> list[str]:
    """How many episodes it learnt from, or that it was cut before they were chosen."""
    played = sum(1 for _ in (folder / SECOND / "traces").rglob("*.trace.json"))
    notes = folder / NOTES
    told = map(parse_json, notes.read_bytes().splitlines() if notes.is_file() else ())
    if any(note["name"] == CHOOSING for note in told):
        count = f"{_rows(folder):,} of {played:,}"
        said = f"{count} episodes that {TEACHER} played at temperature {PLAYED_AT} were good enough."
    else:
        said = f"Cut: {TEACHER} had played {played:,} episodes at temperature {PLAYED_AT}, nothing was trained on them."
    return [said, ""] if played else []
