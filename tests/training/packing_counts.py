"""How many steps Axolotl plans for the same packed rows, with its generator in several states. Runs in `.venv-train`.

PYTHONPATH=keepstate/training/plugin .venv-train/bin/python tests/training/packing_counts.py
"""

import json
import random
import sys

import torch
from axolotl.utils import trainer
from axolotl.utils.dict import DictDefault
from datasets import Dataset
from keepstate_axolotl import KeepstatePlugin

CONFIG = {
    "seed": 42,
    "sample_packing": True,
    "attn_supports_packing": True,
    "micro_batch_size": 1,
    "batch_size": 1,
    "num_epochs": 1,
    "sequence_len": 1024,
    "sample_packing_group_size": 100_000,
    "sample_packing_bin_size": 200,
    "dataset_num_proc": 1,
}

rng = random.Random(0)
lengths = [rng.randrange(200, 700) for _ in range(300)]
rows = [{"input_ids": [1] * n, "labels": [1] * n, "position_ids": list(range(n)), "length": n} for n in lengths]
data = Dataset.from_list(rows)


def counts() -> list[int]:
    """One count for each state of the generator."""
    found = []
    for state in range(6):
        torch.manual_seed(state)
        found.append(trainer.calculate_total_num_steps(DictDefault(CONFIG), data, update=False))
    return found


usual = counts()
KeepstatePlugin().register(DictDefault(CONFIG))
sys.stdout.write("RESULT" + json.dumps({"usual": usual, "ours": counts()}))
