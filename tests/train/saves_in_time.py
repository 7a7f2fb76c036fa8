"""When the plugin asks for a checkpoint and how many threads it takes, over trainings with clocks of their own.

python tests/train/saves_in_time.py STOP_FILE       # in .venv-train; prints JSON behind RESULT
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from keepstate_axolotl import callbacks, threads


def saved_at(stop_file: str, seconds_a_step: float, steps: int) -> list[int]:
    """The steps after which a checkpoint is asked for; a trainer saves at once and stops where it is told to."""
    now = 0.0
    time.monotonic = lambda: now
    callback = callbacks.Checkpoints(stop_file)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    callback.on_train_begin(None, None, control)
    saved = []
    for step in range(1, steps + 1):
        callback.on_step_begin(None, None, control)
        now += seconds_a_step
        callback.on_step_end(None, None, control)
        if control.should_save:
            saved.append(step)
            control.should_save = False
            callback.on_save(None, None, control)
        if control.should_training_stop:
            break
    return saved


def threads_beside(others: list[float], *, told: bool = True) -> tuple[list[int], list[str]]:
    """Threads after steps of 3 s on two processors, of which other programs take `others`; and what was said.

    Args:
        others: Of each step.
        told: Whether the kernel counts idle time.
    """
    torch.set_num_threads(2)
    said: list[str] = []
    seen = [0.0, 0.0, 100.0 * told]
    threads.Threads._look = staticmethod(lambda: tuple(seen))  # type: ignore[method-assign, assignment, arg-type]
    callback = threads.Threads(lambda _, words: said.append(words))
    taken = []
    for other in others:
        ours = min(2 - other, torch.get_num_threads())
        seen[:] = seen[0] + 3, seen[1] + 3 * ours, seen[2] + 3 * (2 - other - ours) * told
        callback.on_step_end(None, None, None)
        taken.append(torch.get_num_threads())
    return taken, said


if __name__ == "__main__":
    stop = Path(sys.argv[1])
    found: dict[str, object] = {"100 s": saved_at(str(stop), 100, 13), "10 s": saved_at(str(stop), 10, 59)}
    found["threads"] = threads_beside([0, 0.3, 1, 1, 0.2, 2, 0])
    found["not told"] = threads_beside([0, 1, 0], told=False)
    stop.touch()
    print("RESULT" + json.dumps(found | {"told to stop": saved_at(str(stop), 10, 59)}))
