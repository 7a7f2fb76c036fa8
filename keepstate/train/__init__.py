"""Training: one LoRA adapter from one data set, with Axolotl in an environment of its own.

Run `keepstate train RUNTIME`. `train/README.md` tells what it costs.
"""

from keepstate.train.launch import train
from keepstate.train.planning import Plan, plan
from keepstate.train.progress import Progress
from keepstate.train.result import TrainedAdapter, read_done

__all__ = ["Plan", "Progress", "TrainedAdapter", "plan", "read_done", "train"]
