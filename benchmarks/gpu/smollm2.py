"""The three SmolLM2 adapters on a GPU, and whether the fast path learns what the plain one learns.

    .venv-train/bin/python benchmarks/gpu/smollm2.py --data data/datasets     # some 12 minutes on an H100
    .venv-train/bin/python benchmarks/gpu/smollm2.py --data data/datasets forget-speed forget-plain
    .venv-train/bin/python benchmarks/gpu/smollm2.py --data data/datasets --steps 3 --tiny    # on a CPU

Takes the laptop's configs (same LoRA, learning rate, one epoch, same chat template) and changes what a GPU wants:
packed rows of 4,096 tokens, the kernels of the GPU configs, the profile `speed`. Trains every arm of --data, which
`keepstate dataset build` made, with the loss of held-out traces; `forget` also the plain way (no kernels, a 4D mask)
and with Axolotl's kernels, which round in another order: how far equal trainings part. Writes curves.json after each
training and keeps what another call put there, so that the trainings can be spread over several.
Does not benchmark the adapters' agents; that is `keepstate bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLUGIN = ROOT / "keepstate" / "train" / "plugin"
SEQUENCE = 4096
KERNELS = {
    "lora_mlp_kernel": True,
    "lora_qkv_kernel": True,
    "lora_o_kernel": True,
    "liger_rms_norm": True,
    "liger_glu_activation": True,
    "liger_fused_linear_cross_entropy": True,
}
PATHS: dict[str, dict[str, Any]] = {
    "speed": KERNELS | {"keepstate_profile": "speed"},
    "stock": KERNELS,
    "plain": {"sdpa_varlen": False},
}
"""The project's way on a GPU, Axolotl's kernels alone, and PyTorch's modules with a 4D mask."""
ARMS = ("persistent", "forget", "react")
COMPARED = "forget"
"""The arm that is trained all three ways."""
RUNS = [f"{COMPARED}-{way}" for way in ("speed", "plain", "stock")] + [
    f"{arm}-speed" for arm in ARMS if arm != COMPARED
]


@dataclass(frozen=True)
class Options:
    """The command line, but for which trainings."""

    data: Path
    out: Path
    steps: int | None
    tiny: bool
    nf4: bool


def config_of(arm: str, way: str, options: Options) -> dict[str, Any]:
    """The laptop's config of `arm`, for this machine."""
    data, out, steps = options.data, options.out, options.steps
    config: dict[str, Any] = yaml.safe_load(
        (ROOT / "train" / "configs" / f"axolotl_smollm2_135m_{arm}_laptop.yaml").read_text()
    )
    entry = config["datasets"][0]
    config |= {
        "base_model": str(ROOT / config["base_model"]),
        "chat_template_jinja": str(ROOT / config["chat_template_jinja"]),
        "datasets": [entry | {"path": str(data / arm / "train.jsonl")}],
        "test_datasets": [entry | {"path": str(data / arm / "val.jsonl"), "split": "train"}],
        "dataset_prepared_path": str(out / "prepared" / arm),
        "output_dir": str(out / f"{arm}-{way}"),
        "eval_sample_packing": False,
        "evals_per_epoch": 2,
        "save_strategy": "no",
    }
    config.pop("save_steps")
    if options.tiny:
        return config | {"max_steps": steps or 2}
    config |= {
        "plugins": ["axolotl.integrations.liger.LigerPlugin", *config["plugins"]],
        "sequence_len": SEQUENCE,
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "tf32": True,
        "gradient_checkpointing": way == "speed",
        "dataloader_num_workers": 2,
        "dataset_num_proc": 8,
        **({"max_steps": steps} if steps else {}),
        **({"adapter": "qlora", "load_in_4bit": True} if options.nf4 else {}),
    }
    return config | PATHS[way]


def train(arm: str, way: str, options: Options) -> dict[str, Any]:
    """Train one adapter with Axolotl in a process of its own; what its log lines said."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    path, progress = out / f"{arm}-{way}.yaml", out / f"{arm}-{way}.jsonl"
    path.write_text(yaml.safe_dump(config_of(arm, way, options), sort_keys=False))
    environment = os.environ | {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(PLUGIN), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "KEEPSTATE_PROGRESS": str(progress),
    }
    progress.unlink(missing_ok=True)
    start = time.monotonic()
    with (out / f"{arm}-{way}.log").open("wb") as log:
        command = [sys.executable, "-m", "axolotl.cli.train", str(path)]
        code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
    lines = [json.loads(line) for line in progress.read_text().splitlines()] if progress.is_file() else []
    logs = [line for line in lines if "loss" in line]
    evaluated = [line["eval_loss"] for line in lines if "eval_loss" in line]
    seconds = logs[-1]["seconds"] - logs[4]["seconds"] if len(logs) > 5 else None
    return {
        "code": code,
        "steps": len(logs),
        "losses": [round(float(line["loss"]), 4) for line in logs],
        "held_out": [round(float(loss), 4) for loss in evaluated],
        "tokens_per_second": round((len(logs) - 5) * SEQUENCE / seconds) if seconds and not options.tiny else None,
        "wall_seconds": round(time.monotonic() - start, 1),
    }


def apart(one: list[float], other: list[float]) -> dict[str, float]:
    """How far two loss curves on the same rows lie from each other."""
    gaps = [b - a for a, b in zip(one, other, strict=True)]
    return {
        "steps": len(gaps),
        "mean": round(statistics.fmean(gaps), 5),
        "standard_error": round(statistics.stdev(gaps) / len(gaps) ** 0.5, 5),
        "mean_absolute": round(statistics.fmean(abs(gap) for gap in gaps), 5),
        "most": round(max(abs(gap) for gap in gaps), 4),
    }


def main() -> int:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ARM-WAY", help=f"by default {' '.join(RUNS)}")
    parser.add_argument("--data", type=Path, required=True, help="folder with an arm's data set in each subfolder")
    parser.add_argument("--out", type=Path, default=Path("out/smollm2-gpu"), help="folder for results and logs")
    parser.add_argument("--steps", type=int, help="stop each training after so many")
    parser.add_argument("--tiny", action="store_true", help="as on the laptop: rehearse without a GPU")
    parser.add_argument("--nf4", action="store_true", help="on an NF4 base, as the GPU configs train")
    given = parser.parse_args()
    for name in given.names:
        if name not in RUNS:
            parser.error(f"{name}: one of {', '.join(RUNS)}")
    options = Options(given.data.resolve(), given.out.resolve(), given.steps, given.tiny, given.nf4)
    curves = options.out / "curves.json"
    report: dict[str, Any] = json.loads(curves.read_text()) if curves.is_file() else {}
    for name in given.names or RUNS[: 1 if given.tiny else None]:
        arm, way = name.split("-")
        found = train(arm, way, options)
        brief = {key: value for key, value in found.items() if key != "losses"}
        print(f"{name}: {brief} loss {found['losses'][:2]} ... {found['losses'][-2:]}", flush=True)
        for other in PATHS:
            earlier = report.get(f"{arm}-{other}")
            if other != way and earlier and earlier["steps"] == found["steps"] > 1:
                report[f"{way} less {other}"] = apart(earlier["losses"], found["losses"])
                print(f"{way} less {other}: {report[f'{way} less {other}']}", flush=True)
        report[name] = found
        curves.write_text(json.dumps(report, indent=1))
    return int(any(entry.get("code") for entry in report.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
