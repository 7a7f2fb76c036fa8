"""Following a training from the lines that the plugin writes. Reads one file; knows no process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is."""

    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None
    """Of the last logged step, all tokens of the batch."""
    memory_gib: float | None
    """Most GPU memory allocated so far."""
    eta_seconds: float | None

    def words(self) -> str:
        """One line for people."""
        parts = [f"step {self.step}/{self.steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if self.tokens_per_second:
            parts.append(f"{self.tokens_per_second:,.0f} tokens/s")
        if self.memory_gib:
            parts.append(f"{self.memory_gib:.1f} GiB")
        if self.eta_seconds is not None:
            parts.append(f"{self.eta_seconds / 60:.1f} min left")
        return ", ".join(parts)


@dataclass
class Follower:
    """Reads what was appended since the last look."""

    path: Path
    finished: bool = False
    losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss) of every log line of this run."""
    seconds: float = 0.0
    peak_bytes: int = 0
    tokens: int = 0
    """Tokens trained on in this run, context included."""
    _offset: int = 0
    _first_step: int = 0

    def look(self) -> Progress | None:
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

    def _take(self, entry: dict[str, float | str]) -> Progress | None:
        step, steps = int(entry["step"]), int(entry["steps"])
        before, self.seconds = self.seconds, float(entry["seconds"])
        if entry["event"] == "begin":
            self._first_step = step
            return Progress(step, steps, None, None, None, None)
        if entry["event"] == "end":
            self.finished = step >= steps
            self.peak_bytes = int(entry.get("peak_bytes", 0))
            return None
        if "loss" not in entry:
            return None
        loss, done = float(entry["loss"]), step - self._first_step
        self.losses.append((step, loss))
        total = int(entry.get("tokens/total", 0))
        took = self.seconds - before
        speed = (total - self.tokens) / took if total > self.tokens and took > 0 else None
        self.tokens = max(self.tokens, total)
        eta = self.seconds / done * (steps - step) if done else None
        memory = float(entry.get("memory/max_allocated (GiB)", 0)) or None
        return Progress(step, steps, loss, speed, memory, eta)
