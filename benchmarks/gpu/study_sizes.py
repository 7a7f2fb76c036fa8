"""How large the study of docs/study.md is: full, on a laptop, and so small that it only shows that every stage runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import yaml

from keepstate.train.axolotl_config import config_path
from keepstate.vocabulary import MIXED, RuntimeName

ARMS = (*map(str, RuntimeName), MIXED)
KNAPSACK = "knapsack"
FAMILIES = (KNAPSACK, "navigation", "rule_diagnosis")
TRAIN_SEED, EVAL_SEED = 0, 123_456_789
RUN, SECOND = "study", "second-round"
"""Of the cells, below the study's `runs`; the second one also names what the second round makes."""
ON_GPU: dict[str, Any] = {
    "plugins": ["axolotl.integrations.liger.LigerPlugin", "keepstate_axolotl.KeepstatePlugin"],
    "sample_packing": True,
    "pad_to_sequence_len": True,
    "tf32": True,
    "dataloader_num_workers": 2,
    "dataset_num_proc": 4,
    "lora_mlp_kernel": True,
    "lora_qkv_kernel": True,
    "lora_o_kernel": True,
    "liger_rms_norm": True,
    "liger_glu_activation": True,
    "liger_fused_linear_cross_entropy": True,
    "save_steps": 100,
}
"""What a GPU changes of the laptop's config: packed rows, Axolotl's kernels. `speed` is slower at this size."""


@dataclass(frozen=True, slots=True)
class Size:
    """Everything that decides how much is trained and played."""

    traces: int
    """Training tasks, a trace of each in each runtime."""
    trained_on: str
    """Their difficulty."""
    sets: tuple[str, ...]
    """Difficulties of the held-out tasks."""
    tasks: int
    """Held-out tasks of each."""
    caps: tuple[int, ...]
    """Tool calls of an action; primary comparisons are at the first."""
    seeds: tuple[int, ...]
    """Of trainings."""
    draws: tuple[int, ...]
    """Seeds of sampled episodes, on the first set under the first cap; empty: none."""
    turns: int
    max_tokens: int
    context: int
    """Of training rows and of the server."""
    on_gpu: bool = False
    """Packed rows and kernels."""
    rounded: bool = False
    """Adapters' factors to bf16, as a server on a GPU computes."""
    steps: int | None = None
    """Of a training, at most."""
    seconds: float | None = None
    """Of an episode; None: the benchmark's own."""
    concurrency: int = 64
    server_each: bool = False
    """A server for each training, all at once; else one for all."""
    gpu_servers: int = 1
    """Servers that share the GPU, those of other studies that are played at the same time included."""
    at_once: int = 1
    """Trainings."""
    kept: tuple[str, ...] | None = None
    """Episodes of its own that an adapter learns from in the second round; None: there is none."""
    least_kept: int = 1
    """Fewer of them are not trained on."""

    def config(self, arm: str) -> str:
        """The Axolotl YAML of one adapter."""
        config: dict[str, Any] = yaml.safe_load(config_path(arm, laptop=True).read_text())
        config |= {"sequence_len": self.context} | (ON_GPU if self.on_gpu else {})
        if self.steps:
            config["max_steps"] = self.steps
        return yaml.safe_dump(config, sort_keys=False)

    def fixed(self) -> dict[str, Any]:
        """What may not change between two runs of one study; trainings may be added. Limits are kept by each cell."""
        free = ("seeds", "seconds", "concurrency", "at_once", "server_each", "gpu_servers", "kept", "least_kept")
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items() if key not in free}


SIZES = {
    "full": Size(
        traces=1000,
        trained_on="easy",
        sets=("easy", "medium"),
        tasks=100,
        caps=(25, 80),
        seeds=(0, 1, 2),
        draws=(0, 1, 2),
        turns=20,
        max_tokens=2048,
        context=8192,
        on_gpu=True,
        rounded=True,
        concurrency=512,
        server_each=True,
        at_once=8,
        kept=("--min-score", "0.95"),
        least_kept=100,
    ),
    "laptop": Size(
        traces=48,
        trained_on="easy",
        sets=("easy",),
        tasks=12,
        caps=(25,),
        seeds=(0,),
        draws=(),
        turns=6,
        max_tokens=1024,
        context=4096,
        seconds=7200,  # 64 at once wrote one token a second each on the slowest machine seen, beyond react's 600 s
        concurrency=16,
    ),
    "tiny": Size(
        traces=6,
        trained_on="mini",
        sets=("mini",),
        tasks=1,
        caps=(25, 80),
        seeds=(0, 1),
        draws=(0,),
        turns=2,
        max_tokens=32,
        context=4096,
        rounded=True,
        steps=2,
        server_each=True,
        at_once=2,
        kept=("--min-score", "0", "--unfinished"),
    ),
}


def size_of(name: str, family: str) -> Size:
    """A size, for a family: beside knapsack one training, the first set and cap, twice the turns, one round."""
    size = SIZES[name]
    if family == KNAPSACK:
        return size
    return replace(
        size, sets=size.sets[:1], caps=size.caps[:1], seeds=size.seeds[:1], draws=(), turns=2 * size.turns, kept=None
    )
