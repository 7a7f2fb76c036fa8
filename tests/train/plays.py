"""Stands in as what plays checkpoints: python plays.py WAY ADAPTER 20,40 [WORDS...]

WAY: plays (at once), fails, or hangs (plays one episode and waits).
"""

import sys
import time
from pathlib import Path

from keepstate.files import write_json
from keepstate.train.scores import FOLDER, SCORES, Scores, StepScore, read_scores
from keepstate.vocabulary import RuntimeName

way, adapter, steps = sys.argv[1], Path(sys.argv[2]), [int(step) for step in sys.argv[3].split(",")]
if way == "fails":
    sys.exit("no memory left")
before = read_scores(adapter) or Scores(cell="two tasks")
points = {point.step: point for point in before.points}
for step in steps:
    graded = 1 if way == "hangs" else 2
    points[step] = StepScore(
        step=step, runtime=RuntimeName.FORGET, tasks=2, graded=graded, solved=1, not_graded=0, score=0.5
    )
new = {"points": tuple(points[step] for step in sorted(points)), "start_seconds": 20.0, "episode_seconds": 5.0}
write_json(adapter / FOLDER / SCORES, before.model_copy(update=new).model_dump(mode="json"))
if way == "hangs":
    time.sleep(60)
