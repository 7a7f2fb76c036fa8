"""What the trainer tells and when it saves: progress as JSON lines, checkpoints by time and on request, tracking.

    KEEPSTATE_PROGRESS=progress.jsonl KEEPSTATE_STOP=stop-requested KEEPSTATE_TRACK=run-name     # what is unset is off

For evaluations beside it see `standstill`.

Runs inside the training environment and imports nothing of keepstate. Does not touch data, loss or optimiser.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from . import order
from .standstill import Standstill, as_the_first, clock

LOSS_SECONDS = 600.0
"""What a crash may cost at most."""
PACKAGES = ("axolotl", "torch", "transformers", "peft", "bitsandbytes", "liger-kernel", "triton")
PROJECT = "keepstate"
TRACKERS = ("integration_utils", "wandb", "mlflow", "comet", "trackio")
"""What the module or class of a tracker's callback is called: the first is that of all of transformers'."""

if folder := os.environ.get("KEEPSTATE_PACKAGES"):
    sys.path.append(folder)  # last, so that nothing of the environment is replaced


def from_environment() -> list[TrainerCallback]:
    """The callbacks that the launcher asked for. Of several processes the first alone tells."""
    first, path = not int(os.environ.get("RANK", "0")), os.environ.get("KEEPSTATE_PROGRESS")
    writer, stop = ProgressWriter(Path(path)) if first and path else None, os.environ.get("KEEPSTATE_STOP")
    callbacks: list[TrainerCallback] = [Checkpoints(stop)]
    if (every := os.environ.get("KEEPSTATE_EVAL_STEPS")) and stop:
        pause = Path(os.environ["KEEPSTATE_PAUSE"])
        callbacks.insert(0, Standstill(int(every), pause, Path(stop), writer and writer.tell))
    if not first:
        return callbacks
    if writer:
        callbacks.append(writer)
        # A number of threads that somebody set stays; without a GPU several processes were given theirs.
        if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
            from . import threads  # of no use on a GPU

            callbacks.append(threads.Threads(writer.warn))
    if run := os.environ.get("KEEPSTATE_TRACK"):
        callbacks.append(Sheltered(LocalTracking(run)))
    return callbacks


def shelter(callbacks: list[Any]) -> None:
    """Put every tracker's callback among `callbacks`, Axolotl's and transformers', into a `Sheltered`."""
    for number, callback in enumerate(callbacks):
        about = f"{type(callback).__module__}.{type(callback).__name__}".lower()
        if any(name in about for name in TRACKERS):
            callbacks[number] = Sheltered(callback)


def mend_epochs(trainer: Any) -> None:
    """Let a training that goes on take the order of its epoch, and no step where it was cut after its last.

    transformers 5.16 takes one where the last epoch is not whole; accelerate 1.13 does not tell the sampler below one
    process's share of the batches which epoch it is, once some of them are skipped.
    """
    run_epoch = trainer._run_epoch

    def run_what_is_left(**what: Any) -> None:
        if trainer.state.global_step < trainer.state.max_steps:
            order.innermost(what["train_dataloader"]).sampler.set_epoch(what["epoch"])
            run_epoch(**what)

    trainer._run_epoch = run_what_is_left


class Sheltered:
    """A tracker's callback whose faults end no training: the first is told, then none of its callbacks is called."""

    works = True
    """Of all: a tracker may have several."""

    def __init__(self, callback: Any) -> None:
        self._callback = callback

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__dict__["_callback"], name)
        return partial(self._call, found) if name.startswith("on_") else found

    def _call(self, event: Callable[..., Any], args: Any, state: Any, control: Any, **rest: Any) -> Any:
        if not Sheltered.works:
            return None
        try:
            return event(args, state, control, **rest)
        except Exception as error:  # whatever a tracker raises
            Sheltered.works = False
            name = type(self._callback).__name__
            words = f"{name} failed ({type(error).__name__}: {error}): the training goes on without its curves"
            print(f"keepstate: {words}", flush=True)
            if path := os.environ.get("KEEPSTATE_PROGRESS"):
                ProgressWriter(Path(path)).warn(state, words)
            return None


class ProgressWriter(TrainerCallback):  # type: ignore[misc]
    """Appends one JSON line per log entry: step, steps, loss, lr, seconds since the first step of this run.

    What is no number is written as null.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = clock()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start the clock; a resumed run begins above step 0."""
        self._start = clock()
        revision = getattr(getattr(model, "config", None), "_commit_hash", None)
        about = {"versions": installed(), "revision": revision}
        self.tell("begin", state, **about)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Pass on what the trainer logs."""
        self.tell("log", state, **(logs or {}))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that all steps are done, and what they took at most."""
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        self.tell("end", state, peak_bytes=peak)

    def warn(self, state: Any, words: str) -> None:
        """Pass on what a user should know."""
        self.tell("warning", state, words=words)

    def tell(self, event: str, state: Any, **more: Any) -> None:
        """Append a line."""
        entry = {"event": event, "step": state.global_step, "steps": state.max_steps, **more}
        entry["seconds"] = round(clock() - self._start, 3)
        numbers = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(numbers, default=float, allow_nan=False) + "\n")


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Saves before a crash could cost more than ten minutes, and at once where the stop file appears.

    `save_steps` counts steps, whose time depends on the GPU; this counts time. Saving draws no random number. The
    first of several processes decides.
    """

    def __init__(self, stop_file: str | None) -> None:
        self._stop = Path(stop_file) if stop_file else None
        self._saved = self._step_began = clock()
        self._longest_step = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Nothing is at stake yet."""
        self._saved = clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the step's clock."""
        self._step_began = clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save now if the next step would end too late; stop if asked to."""
        now = clock()
        self._longest_step = max(self._longest_step, now - self._step_began)
        late = now - self._saved + self._longest_step > LOSS_SECONDS
        late, stop = as_the_first(late, self._stop is not None and self._stop.exists())
        if late or stop:
            control.should_save = True
        if stop:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock of what is at stake anew."""
        self._saved = clock()


class LocalTracking(TrainerCallback):  # type: ignore[misc]
    """Curves in trackio's database on this machine (`TRACKIO_DIR`); nothing is uploaded, nobody is asked.

    Axolotl's own `use_trackio` fails: transformers 5.16 passes `bucket_id`, which trackio 0.19, pinned by Axolotl, has
    not. A training that starts at step 0 replaces the curve of the same name, a resumed one continues it.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._trackio: Any = None
        self._writer: Any = None
        self._faults: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the run."""
        import trackio  # 3 s: it brings a web framework
        from trackio.run import Run
        from trackio.sqlite_storage import SQLiteStorage

        Run._get_username = lambda _: None  # it would ask the model hub who is logged in
        Run._warn_once = self._noted(getattr(Run, "_warn_once", None))
        if state.global_step == 0:
            SQLiteStorage.delete_run(PROJECT, self._run)
        opened = trackio.init(
            project=PROJECT, name=self._run, resume="allow", embed=False, config=plain(args.to_dict())
        )
        self._trackio, self._writer = trackio, getattr(opened, "_local_sender_thread", None)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Add a point to every curve."""
        self._raise_faults()
        if self._writer is not None and not self._writer.is_alive():
            raise RuntimeError("its writing thread ended, most often because another program holds the database")
        if self._trackio is not None and logs:
            self._trackio.log(plain(logs), step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what is left."""
        if self._trackio is not None:
            self._trackio.finish()
            self._raise_faults()

    def _noted(self, warn: Callable[[Any, str, str], None] | None) -> Callable[[Any, str, str], None]:
        """trackio 0.40 raises nothing and goes on without what it could not write; in 0.19 its thread ends."""

        def note(run: Any, about: str, words: str) -> None:
            if "monitor" not in about:  # of curves of the machine, not of the training
                self._faults.append(words)
            if warn:
                warn(run, about, words)

        return note

    def _raise_faults(self) -> None:
        if self._faults:
            raise RuntimeError(self._faults[0])


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, texts and switches only; tensors as numbers."""
    items = {key: value.item() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
    return {key: value for key, value in items.items() if isinstance(value, int | float | str)}


def installed() -> dict[str, str]:
    """Versions of what trains."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
