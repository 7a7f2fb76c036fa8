"""Training: one LoRA adapter from one data set, with Axolotl in an environment of its own.

Run `keepstate train RUNTIME`. `train/README.md` tells what it costs.
"""

from keepstate.train.launch import train
from keepstate.train.progress import TrainingDisplay, TrainingProgress
from keepstate.train.result import TrainedAdapter, read_done
from keepstate.train.training_plan import TrainingPlan, TrainingRequest, plan_training

__all__ = [
    "TrainedAdapter",
    "TrainingDisplay",
    "TrainingPlan",
    "TrainingProgress",
    "TrainingRequest",
    "plan_training",
    "read_done",
    "train",
]
