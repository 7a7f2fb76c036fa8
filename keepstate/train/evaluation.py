"""Playing a held-out cell on checkpoints while their training goes on: when, for how long, and what came of it.

The training stands still meanwhile where both would share processors or a GPU, for at most a share of the time that it
has taken so far; what finds no room is played after it. Who plays is a process of its own: it can be stopped at any
moment, loses no finished episode by it, and no failure of it reaches the training.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepstate.errors import UserError
from keepstate.files import write_json
from keepstate.processes import GuardedProcess, log_end, log_text
from keepstate.resume import Record
from keepstate.setup import installing
from keepstate.train.progress import Follower
from keepstate.train.result import WEIGHTS, TrainedAdapter
from keepstate.train.scores import FOLDER, Scores, StepScore, kept_steps, read_scores, step_folder, told

SCHEMA = "keepstate.evaluation.v1"
RECORD, SETTINGS, LOG = "evaluation.json", "settings.json", "evaluation.log"
PAUSE = "pause-requested"
"""In the adapter's folder: while it is there, the training stands still after a step."""
CONFIG = "adapter_config.json"
FIRST_SECONDS = 60.0
"""Assumed of the first evaluation of one checkpoint, before one has been measured."""
STOP_SECONDS = 10.0
"""Kept of the time that is allowed: a server takes so long to end."""
MARGIN = 1.1
"""Times what the last evaluation took: no two take the same."""
POLL_SECONDS = 0.5
CONSIDER_SECONDS = 5.0
"""Between two looks for room: on a GPU each asks nvidia-smi."""
AGAIN = "repeat the command: what is finished is kept"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an evaluation runs."""

    pauses: bool = False
    """Whether the training stands still meanwhile."""
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    """For its server."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is played of a training's checkpoints, and how much of its time that may take."""

    cell: str
    """What they play, in words."""
    command: tuple[str, ...]
    """The program that plays. It is given the adapter's folder, the steps with commas between, words for its server."""
    decisive: Mapping[str, Any]
    """All that decides the scores, beside the weights."""
    settings: Mapping[str, Any]
    """What the program reads."""
    episodes: int
    """Of one checkpoint."""
    share: float
    """Of the training's time that it may stand still, at most."""
    steps: int | None
    """A checkpoint every so many; None: five."""
    beside: Callable[[], Place | None]
    """Where it runs while the training does; None: nowhere."""
    after: Place = Place()
    """Where it runs when the training is over."""
    remarks: tuple[str, ...] = ()


class Evaluations:
    """The evaluations of one training. `tend` it while that runs, `finish` it afterwards, and `stop` it in any case.

    Args:
        evaluation: What is played.
        output: The adapter's folder, which this process holds.
        say: Takes what a user should know.

    Raises:
        UserError: Checkpoints there played another cell.
    """

    def __init__(self, evaluation: Evaluation, output: Path, say: Callable[[str], None]) -> None:
        self._what, self._output, self._say = evaluation, output, say
        self._folder = output / FOLDER
        self._process: GuardedProcess | None = None
        self._place: Place | None = None
        self._from = 0
        self._steps: list[int] = []
        self._began = self._allowed = self._next = 0.0
        self._asked = False
        self._failed = False
        self._least = FIRST_SECONDS
        record = Record(self._folder / RECORD, SCHEMA, evaluation.decisive)
        if (changes := record.changes()) and read_scores(output) is not None:
            raise UserError(
                "\n  ".join([f"the checkpoints in {output} played another cell:", *changes]),
                f"name the same --eval-cell, or move {self._folder} away",
            )
        record.write()
        write_json(self._folder / SETTINGS, dict(evaluation.settings))
        (output / PAUSE).unlink(missing_ok=True)
        for remark in evaluation.remarks:
            say(remark)
        installing.ensure("serve")

    @property
    def environment(self) -> dict[str, str]:
        """For the trainer's plugin."""
        return {"KEEPSTATE_EVAL_STEPS": str(self._what.steps or 0), "KEEPSTATE_PAUSE": str(self._output / PAUSE)}

    def tend(self, follower: Follower) -> str:
        """Begin, watch and end evaluations; returns what is going on, in words. Called every moment."""
        if self._process is not None:
            self._look(self._process)
        elif self._asked:
            if follower.stands_still:
                self._asked = False
                self._start(self._place or Place())
        elif not self._failed and time.monotonic() >= self._next:
            self._next = time.monotonic() + CONSIDER_SECONDS
            self._consider(self._what.share * follower.seconds - follower.stood)
        return self._doing() if self._process else ""

    def _consider(self, allowed: float) -> None:
        """Begin an evaluation where something is to be played and there is room for it."""
        pending = self._pending()
        if not pending or (place := self._what.beside()) is None:
            return
        count = len(pending)
        if place.pauses:
            allowed -= STOP_SECONDS
            count = max((n for n in range(1, count + 1) if self._takes(n) <= allowed), default=0)
        if count:
            self._place, self._allowed = place, allowed
            self._steps = pending[-count:]
            self._asked = place.pauses
            if place.pauses:
                (self._output / PAUSE).touch()
            else:
                self._start(place)

    def _takes(self, checkpoints: int) -> float:
        """Seconds that an evaluation of so many is likely to take."""
        scores = read_scores(self._output)
        if scores is None or scores.start_seconds is None or scores.episode_seconds is None:
            return self._least * checkpoints
        seconds = scores.start_seconds + scores.episode_seconds * self._what.episodes * checkpoints
        return max(MARGIN * seconds, self._least if self._least > FIRST_SECONDS else 0.0)

    def _start(self, place: Place) -> None:
        steps = ",".join(map(str, self._steps))
        with (self._folder / LOG).open("ab") as log:
            self._from = log.tell()
            self._process = GuardedProcess(
                [*self._what.command, self._output, steps, *place.arguments],
                output=log,
                env=os.environ | place.environment,
            )
        self._began = time.monotonic()

    def _look(self, process: GuardedProcess) -> None:
        """End an evaluation that is through, or whose time is."""
        code, place = process.poll(), self._place
        if code is not None:
            self._over(code)
        elif place is not None and place.pauses and time.monotonic() - self._began > self._allowed:
            self._least = max(self._least, 2 * self._allowed)
            self.stop()
            self._say(f"the evaluation of {self._names()} took longer than it may: the rest of it is played later")

    def _over(self, code: int) -> None:
        """Say what came of an evaluation that ended by itself; the training goes on whatever it was."""
        self.stop()
        if code:
            self._failed = True
            words = log_end(log_text(self._folder / LOG, self._from))
            self._say(
                f"the evaluation of {self._names()} failed, its scores are unknown ({self._folder / LOG}):\n{words}"
            )
            return
        scores = read_scores(self._output)
        for line in told(scores and scores.model_copy(update={"points": self._points(scores)}), ()):
            self._say(line)

    def _points(self, scores: Scores) -> tuple[StepScore, ...]:
        return tuple(point for point in scores.points if point.step in self._steps)

    def _names(self) -> str:
        return f"step {', '.join(map(str, self._steps))}"

    def _doing(self) -> str:
        scores = read_scores(self._output)
        done = sum(point.graded + point.not_graded for point in self._points(scores)) if scores else 0
        return f"evaluating {self._names()}: {done}/{self._what.episodes * len(self._steps)} episodes"

    def _pending(self, *, again: bool = False) -> list[int]:
        """Steps that are to be played, oldest first; `again`: those too of which episodes are not graded."""
        scores = read_scores(self._output)
        points = scores.points if scores else ()
        done = {
            step
            for step in {point.step for point in points}
            if sum(each.tasks for each in points if each.step == step) == self._what.episodes
            and all(each.is_over and not (again and each.not_graded) for each in points if each.step == step)
        }
        return [step for step in kept_steps(self._output) if step not in done]

    def finish(self, adapter: TrainedAdapter, on_doing: Callable[[str], None]) -> None:
        """Play what is left, the finished adapter too, and say what is known of all checkpoints.

        Args:
            adapter: What was trained.
            on_doing: Called with what is going on.
        """
        self._keep_last(adapter.steps)
        self._steps, self._place = self._pending(again=True), self._what.after
        if self._steps:
            self._start(self._what.after)
            while self._process is not None:
                self._process.poll(POLL_SECONDS)
                on_doing(self._doing())
                self._look(self._process)
        scores = read_scores(self._output)
        self._say(f"held-out scores, {self._what.cell}:")
        for line in told(scores, kept_steps(self._output)):
            self._say(f"  {line}")
        stood, share = adapter.evaluation_seconds, self._what.share
        if stood and adapter.seconds:
            words = f"evaluation took {100 * stood / adapter.seconds:.0f} % of the training's time, {stood:.0f} s of"
            words += f" standing still beside {adapter.seconds:.0f} s ({100 * share:.0f} % were allowed)"
            self._say(words)
        if self._pending(again=True):
            self._say(f"what is unknown is no 0; {AGAIN}")

    def _keep_last(self, step: int) -> None:
        """The weights of the last step are the adapter's own."""
        place = step_folder(self._output, step)
        if not place.is_dir():
            place.mkdir()
            for name in (CONFIG, WEIGHTS):
                shutil.copy2(self._output / name, place / name)

    def stop(self) -> None:
        """End what runs, and let the training go on."""
        process, self._process = self._process, None
        self._asked = False
        try:
            if process is not None:
                process.stop()
        finally:
            (self._output / PAUSE).unlink(missing_ok=True)
