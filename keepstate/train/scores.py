"""The scores of a training's checkpoints, as `--eval-cell` leaves them in the adapter's folder: read, told, drawn.

`evals/` there is the folder of a benchmark's run, with a cell a step and runtime; `scores.json` in it sums them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from keepstate.closed import Closed
from keepstate.drawing import LEFT, RIGHT, Picture, Scale, across, curve, mark, path, text, upright
from keepstate.vocabulary import RuntimeName

FOLDER = "evals"
"""In the adapter's folder."""
SCORES = "scores.json"
STEP = "step-"
"""Begins the names of the folders with the weights of steps, and of the adapters on the server: `step-20`."""


class StepScore(Closed):
    """One checkpoint in one runtime."""

    step: int
    """Optimiser steps that it was trained for."""
    runtime: RuntimeName
    """Where it played."""
    tasks: int
    """To be played."""
    graded: int
    """Played and graded."""
    solved: int
    """Of these."""
    not_graded: int
    """Ended by a failure of ours: in no score."""
    score: float | None
    """Mean of the graded ones; null where there is none: unknown, not 0."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be played."""
        return self.graded + self.not_graded == self.tasks

    @property
    def known(self) -> float | None:
        """The score where every task has been played."""
        return self.score if self.is_over else None

    def words(self) -> str:
        """For people."""
        if self.score is None:
            return f"unknown ({self.not_graded} of {self.tasks} not graded)" if self.not_graded else "not played"
        words = f"{100 * self.score:.1f} ({self.solved} of {self.graded} solved"
        missing = self.tasks - self.graded - self.not_graded
        words += f", {self.not_graded} not graded" if self.not_graded else ""
        return words + (f", {missing} not played)" if missing else ")")


class Scores(Closed):
    """What is known of all checkpoints."""

    cell: str
    """What they play, in words."""
    points: tuple[StepScore, ...] = ()
    """By step, then runtime."""
    start_seconds: float | None = None
    """Of the last evaluation: until its server answered; null where it never did."""
    episode_seconds: float | None = None
    """Of the last evaluation, for one episode, several of which are played at once; null where none was."""


def read_scores(adapter: Path) -> Scores | None:
    """The scores in an adapter's folder; None where there are none that can be read."""
    try:
        return Scores.model_validate_json((adapter / FOLDER / SCORES).read_bytes())
    except (OSError, ValidationError):
        return None


def kept_steps(adapter: Path) -> list[int]:
    """The steps whose weights lie in an adapter's folder, in order."""
    numbers = [path.name.removeprefix(STEP) for path in adapter.glob(f"{STEP}*") if path.is_dir()]
    return sorted(int(number) for number in numbers if number.isdecimal())


def step_folder(adapter: Path, step: int) -> Path:
    """Where the weights of a step lie."""
    return adapter / f"{STEP}{step}"


def told(scores: Scores | None, steps: Iterable[int]) -> list[str]:
    """A line a step and runtime; a step that has not been played is unknown."""
    points = scores.points if scores else ()
    played = {point.step for point in points}
    lines = [(point.step, f"step {point.step} in {point.runtime}: {point.words()}") for point in points]
    lines += [(step, f"step {step}: unknown, it was not played") for step in steps if step not in played]
    return [line for _, line in sorted(lines, key=lambda line: line[0])]


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """A score on a curve, in percent."""

    step: int
    score: float | None
    """None where it is not known."""
    low: float | None = None
    """Of its interval, where there is one."""
    high: float | None = None


def score_curve(name: str, points: Sequence[ScorePoint], steps: tuple[int, int]) -> Picture:
    """Scores by step. Those that are not known stand as ? on the axis.

    Args:
        name: Whose, and where.
        points: In the order of steps, one at least.
        steps: The ends of the axis: those of the loss curve beside it.
    """
    left, top, bottom = 40, 60, 160
    sideways, upwards = Scale(*steps, left, RIGHT), Scale(0, 100, bottom, top)
    known = [(sideways(each.step), upwards(each.score)) for each in points if each.score is not None]
    last = next((each.score for each in reversed(points) if each.score is not None), None)
    marks = text(LEFT, 22, name, "title", RIGHT - LEFT)
    marks += text(RIGHT, 50, "none known" if last is None else f"last {last:.1f}", "soft end")
    marks += upright(upwards, left, RIGHT, "score %") + across(sideways, top, bottom, "step")
    for each in points:
        x = sideways(each.step)
        if each.score is None:
            marks += text(x, bottom - 4, "?", "middle")
        elif each.low is not None and each.high is not None:
            marks += path(f"M{x:g} {upwards(each.low):g}V{upwards(each.high):g}", "curve kind-1")
    if len(known) > 1:
        marks += curve(known, "kind-1")
    marks += "".join(mark(x, y, 1) for x, y in known)
    return Picture(f"Scores of {name} by step", bottom + 46, marks)
