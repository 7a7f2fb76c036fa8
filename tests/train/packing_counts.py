"""How many steps Axolotl plans for the same packed rows, with its generator in several states, and which rows they are,
with steps of four rows divided in several ways. Runs in `.venv-train`.

PYTHONPATH=keepstate/train/plugin .venv-train/bin/python tests/train/packing_counts.py
"""

import gc
import json
import random
import sys
from itertools import chain

import numpy as np
import torch
from axolotl.core.trainers import base
from axolotl.utils import trainer
from axolotl.utils.dict import DictDefault
from datasets import Dataset
from keepstate_axolotl import KeepstatePlugin
from torch.utils.data import RandomSampler

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

gc.freeze()  # Axolotl collects garbage at every packing: half of the time went into looking at what is imported

rng = random.Random(0)
lengths = [rng.randrange(200, 700) for _ in range(300)]
rows = [{"input_ids": [1] * n, "labels": [1] * n, "position_ids": list(range(n)), "length": n} for n in lengths]
data = Dataset.from_list(rows)


def count(state: int, rows: int = 1, of: int = 1) -> int:
    """Steps of `of` rows, so many at once, with the generator in that state."""
    torch.manual_seed(state)
    divided = CONFIG | {"micro_batch_size": rows, "batch_size": of}
    return int(trainer.calculate_total_num_steps(DictDefault(divided), data, update=False))


def steps(together: int, *, joined: bool) -> list[list[int]]:
    """The traces of each step of four rows, `together` at once: end to end, or as rows of a batch."""
    sampler = base.MultipackBatchSampler(
        RandomSampler(data),
        lengths=np.array(lengths),
        batch_size=1 if joined else together,
        batch_max_len=1024 * (together if joined else 1),
        bin_size=200,
        drop_last=True,
        num_processes=1,
    )
    len(sampler)
    sampler.sampler.set_epoch(1)
    batches = [sorted(trace for row in batch for trace in row) for batch in sampler]
    assert len(batches) == len(sampler)
    at_once = 4 // together
    return [sorted(chain(*batches[start : start + at_once])) for start in range(0, len(batches), at_once)]


usual = [count(state) for state in range(6)]
divisions = [(1, False), (2, True), (4, True), (2, False), (4, False)]
KeepstatePlugin().register(DictDefault(CONFIG))
found = {
    "usual": usual,
    "ours": [count(state) for state in range(6)],
    "divided": [count(0, rows, 4) for rows in (1, 2, 4)],
    "steps": [steps(together, joined=joined) for together, joined in divisions],
}
sys.stdout.write("RESULT" + json.dumps(found))
