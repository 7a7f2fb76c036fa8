"""Following a training from the lines that the plugin writes, and showing it. Reads one file; knows no process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepstate.display import Bar, Display
from keepstate.drawing import LEFT, RIGHT, Picture, Scale, across, curve, scale_to, text, upright
from keepstate.live import LIVE_FILE, LiveRow, LiveView
from keepstate.train.scores import ScorePoint, read_scores, score_curve

PROGRESS = "progress.jsonl"
"""In the adapter's folder: what the plugin writes."""
MOST_POINTS = 400
"""Of a curve: more than a drawing has pixels."""


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far a training is."""

    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None
    """Of the last logged step, all tokens of the batch."""
    memory_gib: float | None
    """Most GPU memory allocated so far."""
    eta_seconds: float | None
    """By the mean of this run's steps, without the first, which warms up."""
    mean_tokens_per_second: float | None = None
    """Over the same steps."""
    timed_steps: int = 0
    """How many they are."""
    doing: str = ""
    """What goes on beside it, or in its place."""

    def words(self) -> str:
        """One line for people."""
        parts = [f"step {self.step}/{self.steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.memory_gib:
            parts.append(f"{self.memory_gib:.1f} GiB")
        if self.eta_seconds is not None and self.step < self.steps:
            parts.append(f"{self.eta_seconds / 60:.1f} min left")
        if self.doing:
            parts.append(self.doing)
        return ", ".join(parts)


@dataclass
class Follower:
    """Reads what was appended since the last look. A file may hold several runs: each goes on where one was cut."""

    path: Path
    finished: bool = False
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss) of every log line; steps that a crash lost and a resumed run repeated count once."""
    eval_loss: float | None = None
    """The last one."""
    stands_still: bool = False
    """Whether the training waits for an evaluation of its checkpoints."""
    stood: float = 0.0
    """Seconds that it did so in all runs, which are in no other figure here."""
    diverged: int | None = None
    """The first step whose loss was no number."""
    peak_bytes: int = 0
    tokens: int = 0
    """Tokens trained on, context and padding included."""
    warnings: list[str] = field(default_factory=list)
    """What the plugin said that a user should know; for the reader to take out."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that train."""
    revision: str | None = None
    """Commit of the base model, where it came from a hub."""
    _offset: int = 0
    _first_step: int = 0
    _earlier_seconds: float = 0.0
    _run_seconds: float = 0.0
    _first_log: tuple[int, float, int] | None = None
    """Step, seconds and tokens of this run's first logged step."""

    @property
    def seconds(self) -> float:
        """Of all runs, without their start-up."""
        return self._earlier_seconds + self._run_seconds

    def take_in_earlier(self) -> None:
        """Read what earlier runs left. They said their warnings; a loss that was no number still counts."""
        self.look()
        if self.diverged is None:
            self.warnings.clear()

    def look(self) -> TrainingProgress | None:
        """The newest state, or None where nothing was added."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return None
        whole, newline, _ = text.rpartition(b"\n")
        if not newline:
            return None
        self._offset += len(whole) + 1
        newest = None
        for line in whole.splitlines():
            newest = self._take(json.loads(line)) or newest
        return newest

    def _take(self, entry: dict[str, Any]) -> TrainingProgress | None:
        step, steps = int(entry["step"]), int(entry["steps"])
        if entry["event"] == "begin":
            return self._begin(entry, step, steps)
        if entry["event"] in ("warning", "stands still", "goes on"):
            if "words" in entry:
                self.warnings.append(entry["words"])
            self.stands_still = entry["event"] == "stands still"
            self.stood += entry.get("stood", 0.0)
            return None
        before, self._run_seconds = self._run_seconds, float(entry["seconds"])
        if entry["event"] == "end":
            self.finished = step >= steps
            self.peak_bytes = max(self.peak_bytes, int(entry.get("peak_bytes", 0)))
            return None
        if entry.get("eval_loss") is not None:
            self.eval_loss = float(entry["eval_loss"])
        if "loss" not in entry:
            return None
        total = int(entry.get("tokens/total", 0))
        loss = self._loss(step, entry["loss"])
        took = self._run_seconds - before
        speed = (total - self.tokens) / took if total > self.tokens and took > 0 else None
        self.tokens = max(self.tokens, total)
        memory = float(entry.get("memory/max_allocated (GiB)", 0)) or None
        first = self._first_log = self._first_log or (step, self._run_seconds, total)
        timed, seconds = step - first[0], self._run_seconds - first[1]
        if not timed:  # the first one alone
            timed_all = step - self._first_step
            eta = self._run_seconds / timed_all * (steps - step) if timed_all else None
            return TrainingProgress(step, steps, loss, speed, memory, eta)
        mean = (total - first[2]) / seconds if total > first[2] and seconds > 0 else None
        return TrainingProgress(step, steps, loss, speed, memory, seconds / timed * (steps - step), mean, timed)

    def _loss(self, step: int, loss: float | str | None) -> float | None:
        """Note the loss of a step, or that it is none, which is said once."""
        if loss is not None:
            self.losses.append((step, float(loss)))
            return float(loss)
        if self.diverged is None:
            self.diverged = step
            self.warnings.append(
                f"the loss of step {step} is no number: the adapter will be of no use; stop, and train with a lower"
                " --lr and --fresh"
            )
        return None

    def _begin(self, entry: dict[str, Any], step: int, steps: int) -> TrainingProgress:
        self._first_step, self.finished, self.stands_still = step, False, False
        self._earlier_seconds += self._run_seconds
        self._run_seconds = 0.0
        self._first_log = None
        self.losses = [(at, loss) for at, loss in self.losses if at <= step]
        self.versions = entry.get("versions") or {}
        self.revision = entry.get("revision")
        return TrainingProgress(step, steps, None, None, None, None)


def loss_curve(name: str, losses: Sequence[tuple[int, float]], highest: float | None = None) -> Picture:
    """The losses of a training by step.

    Args:
        name: Of the adapter.
        losses: Step and loss, one at least.
        highest: The top of the scale; the highest of them where None.
    """
    shown = losses[:: -(-len(losses) // MOST_POINTS)]
    left, top, bottom = 40, 60, 160
    sideways = Scale(shown[0][0], shown[-1][0], left, RIGHT)
    upwards = scale_to(highest or max(loss for _, loss in shown), bottom, top)
    marks = text(LEFT, 22, name, "title", RIGHT - LEFT) + text(RIGHT, 50, f"last {losses[-1][1]:.3f}", "soft end")
    marks += upright(upwards, left, RIGHT, "loss") + across(sideways, top, bottom, "step")
    marks += curve([(sideways(step), upwards(loss)) for step, loss in shown], "kind-0")
    return Picture(f"Loss of {name} by step", bottom + 46, marks)


class TrainingDisplay(Display[TrainingProgress]):
    """Shows a training.

    Args:
        name: Of the adapter.
        folder: That of the adapter, where a page shows the training; no page where None.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        super().__init__(page=folder and folder / LIVE_FILE)
        self._name, self._folder = name, folder
        self._follower = folder and Follower(folder / PROGRESS)
        self.begin = Bar(name, words="Axolotl starts")

    def bars(self, state: TrainingProgress) -> Sequence[Bar]:
        """One."""
        return [Bar(self._name, state.step, state.steps, state.words())]

    def line(self, state: TrainingProgress) -> str:
        """The same."""
        return f"{self._name}: {state.words()}"

    def view(self, state: TrainingProgress) -> LiveView:
        """The step and the losses so far, also those of runs that it goes on from."""
        curves: list[Picture] = []
        if self._follower:
            self._follower.look()
            if losses := self._follower.losses:
                curves += [loss_curve(self._name, losses), *self._scores((losses[0][0], losses[-1][0]))]
        return LiveView(
            self.line(state),
            ("adapter", "step"),
            [LiveRow(self._name, state.step, state.steps, (f"{state.step:,}/{state.steps:,}",))],
            pictures=curves,
        )

    def _scores(self, steps: tuple[int, int]) -> list[Picture]:
        """What evaluations of checkpoints told so far, a curve a runtime."""
        scores = read_scores(self._folder) if self._folder else None
        curves: dict[str, list[ScorePoint]] = {}
        for point in scores.points if scores else ():
            if point.is_over:
                score = None if point.known is None else 100 * point.known
                curves.setdefault(point.runtime, []).append(ScorePoint(point.step, score))
        return [score_curve(f"{self._name} in {runtime}", points, steps) for runtime, points in curves.items()]

    def stage(self, state: TrainingProgress) -> str | None:
        """Its first and its last step."""
        return str(state.step) if state.step in (0, state.steps) else None
