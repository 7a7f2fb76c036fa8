"""When the plugin asks for a checkpoint, stands still, and how many threads it takes, over trainings with clocks of
their own.

python tests/train/saves_in_time.py STOP_FILE       # in .venv-train; prints JSON behind RESULT
"""

import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import keepstate_room
import torch
from keepstate_axolotl import callbacks, standstill, threads


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
    keepstate_room.ThreadRoom._now = staticmethod(lambda: tuple(seen))  # type: ignore[method-assign, assignment, arg-type]
    callback = threads.Threads(lambda _, words: said.append(words))
    taken = []
    for other in others:
        ours = min(2 - other, torch.get_num_threads())
        seen[:] = seen[0] + 3, seen[1] + 3 * ours, seen[2] + 3 * (2 - other - ours) * told
        callback.on_step_end(None, None, None)
        taken.append(torch.get_num_threads())
    return taken, said


def threads_after_a_standstill() -> list[int]:
    """Threads after a step in which others took both processors for 30 s, while the training stood still."""
    torch.set_num_threads(2)
    seen = [0.0, 0.0, 100.0]
    keepstate_room.ThreadRoom._now = staticmethod(lambda: tuple(seen))  # type: ignore[method-assign, assignment, arg-type]
    callback = threads.Threads(lambda *_: None)
    standstill.clock.stood += 30
    seen[0] += 30
    callback.on_step_end(None, None, None)
    seen[:] = seen[0] + 3, seen[1] + 6, seen[2]
    callback.on_step_end(None, None, None)
    return [torch.get_num_threads()]


def stood(folder: Path) -> dict[str, object]:
    """What is said and kept of twelve steps of 10 s, after the fourth of which the training is to stand still for a
    minute; after the seventh it is to end as well."""
    now, pause, stop, told = 0.0, folder / "pause", folder / "end", list[object]()
    standstill.clock.stood = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now > 100:
            pause.unlink()

    time.monotonic, time.sleep = lambda: now, sleep
    tell = lambda event, state, **more: told.append([event, state.global_step, more])  # noqa: E731
    callback = standstill.Standstill(0, pause, stop, tell)
    control = SimpleNamespace(should_save=False)
    args, state = SimpleNamespace(output_dir=str(folder)), SimpleNamespace(global_step=0, max_steps=14)
    callback.on_train_begin(args, state, control)
    for state.global_step in range(1, 15):
        now += 10
        if state.global_step in (4, 7):
            pause.touch()
        if state.global_step == 7:
            stop.touch()
        callback.on_step_end(args, state, control)
        if control.should_save or state.global_step in (5, 14):
            checkpoint = folder / f"checkpoint-{state.global_step}"
            checkpoint.mkdir()
            for name in (*standstill.FILES, "optimizer.pt"):
                (checkpoint / name).write_text(name)
            callback.on_save(args, state, control)
            shutil.rmtree(checkpoint)
            control.should_save = False
    kept = {path.name: sorted(file.name for file in path.iterdir()) for path in sorted(folder.glob("step-*"))}
    return {"told": told, "kept": kept, "clock": standstill.clock(), "now": now}


if __name__ == "__main__":
    stop = Path(sys.argv[1])
    found: dict[str, object] = {"100 s": saved_at(str(stop), 100, 13), "10 s": saved_at(str(stop), 10, 59)}
    found["threads"] = threads_beside([0, 0.3, 1, 1, 0.2, 2, 0])
    found["not told"] = threads_beside([0, 1, 0], told=False)
    found["threads after a standstill"] = threads_after_a_standstill()
    standstill.clock.stood = 0.0
    stop.touch()
    found["told to stop"] = saved_at(str(stop), 10, 59)
    (folder := stop.parent / "stood").mkdir()
    print("RESULT" + json.dumps(found | {"stood": stood(folder)}))
