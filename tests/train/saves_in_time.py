"""When the plugin's clock asks for a checkpoint, over a training with a clock of its own.

python tests/train/saves_in_time.py STOP_FILE       # in .venv-train; prints JSON behind RESULT
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from keepstate_axolotl import callbacks


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


if __name__ == "__main__":
    stop = Path(sys.argv[1])
    found = {"100 s": saved_at(str(stop), 100, 13), "10 s": saved_at(str(stop), 10, 59)}
    stop.touch()
    print("RESULT" + json.dumps(found | {"told to stop": saved_at(str(stop), 10, 59)}))
