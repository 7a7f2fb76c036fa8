"""Speed and memory of the project's training configs on this machine's GPU, beside plain QLoRA and other programs.

    .venv-train/bin/python benchmarks/gpu/train_speed.py                 # all variants, some 8 minutes
    .venv-train/bin/python benchmarks/gpu/train_speed.py speed/16k plain/unpacked --kernels
    .venv-train/bin/python benchmarks/gpu/train_speed.py --peers PYTHON  # beside Unsloth, installed for that PYTHON
    .venv-train/bin/python benchmarks/gpu/train_speed.py memory/8k --cap 11     # in so many GiB, from model files
    .venv-train/bin/python benchmarks/gpu/train_speed.py speed/16k speed/16k/2 --accumulation 16      # on two GPUs
    .venv-train/bin/python benchmarks/gpu/train_speed.py speed/16k norms/16k fp8-backward/16k fp8/16k   # candidates/
    .venv-train/bin/python benchmarks/gpu/train_speed.py --tiny          # a rehearsal on a CPU, figures mean nothing

Needs one GPU of 80 GB and the training environment, no model and no network: real Axolotl trains Qwen3-8B's exact shape
from random weights, one row of 16,384 tokens a step, with clipping and AdamW in every step; --accumulation 16 steps as
the configs do. Each variant is a process of its own. Prints a table of medians; writes one JSON file a variant into
--out as it ends. A peer trains the rows of the project's variant that ran before it; what it lacks, or a first loss
more than .01 apart, is said in its row. Says nothing about what a model learns.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "keepstate" / "train" / "plugin")]

from shapes import ROWS, SCALE, flops_per_token, write_documents, write_model  # noqa: E402

CONFIG = ROOT / "train" / "configs" / "axolotl_qwen3_8b_persistent_a100.yaml"
WARM = 4
"""Steps before the measured ones: kernels are chosen, and `speed` has found how many layers it keeps."""
STEPS = 5
PR_SET_PDEATHSIG = 1
ENVIRONMENT = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "warning",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
NO_KERNELS = {"lora_mlp_kernel": False, "lora_qkv_kernel": False, "lora_o_kernel": False}
STOCK = {"keepstate_profile": None, "lora_dropout": 0.05}
PLAIN = (
    NO_KERNELS
    | STOCK
    | {
        "fused_attn_kernel": None,
        "liger_rms_norm": None,
        "liger_glu_activation": None,
        "liger_fused_linear_cross_entropy": None,
    }
)
CANDIDATES = {
    "cudnn": "Cudnn",
    "norms": "Norms",
    "norms-loss": "NormsLoss",
    "fp8-backward": "Fp8Backward",
    "fp8": "Fp8",
}
"""Trials in the place of what `speed` does: their plugins of candidates/."""
KINDS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "exact": PLAIN | {"lora_dropout": 0.0, "sdpa_varlen": False},
    "masked": STOCK | {"fused_attn_kernel": None, "sdpa_varlen": False, "liger_rope": True},
    "stock": {"keepstate_profile": None},
    "speed": {"keepstate_profile": "speed"},
    "memory": {"keepstate_profile": "memory"},
    **{name: {"keepstate_profile": "speed"} for name in CANDIDATES},
}
"""What each kind changes in the project's config: QLoRA without any kernel and with dropout .05; the same without
dropout and with a 4D mask (gradients.py compares with it); Axolotl's usual kernels and a 4D mask for packed rows; the
config without its plugin's profile; the two profiles; the candidates."""
PEERS = {
    "unsloth": [],
    "unsloth-sdpa": ["--sdpa"],
    "unsloth-memory": ["--checkpointing", "unsloth"],
    "unsloth-memory-sdpa": ["--checkpointing", "unsloth", "--sdpa"],
}
"""Unsloth without checkpointing and with its own, offloaded one; with xformers or flash-attn where they are installed
(its choice for packed rows), or without (faster for one long document, where PyTorch takes cuDNN's kernel)."""
DEFAULT = "plain/unpacked speed/16k memory/16k masked/1k speed/1k memory/1k stock/traces speed/traces"
BESIDE_PEERS = (
    "speed/16k unsloth/16k unsloth-sdpa/16k memory/16k unsloth-memory-sdpa/16k "
    "speed/traces unsloth/traces unsloth-sdpa/traces memory/traces unsloth-memory/traces"
)
APART = 0.01
"""First losses further apart are not of the same training."""
BASELINE = {"16k": "plain/unpacked", "1k": "masked/1k", "traces": "stock/traces"}


@dataclass
class Options:
    """The command line."""

    names: list[str]
    out: Path
    tiny: bool
    kernels: bool
    budget: float
    accumulation: int = 1
    peers: str = ""
    """The Python that has them."""
    cap: float | None = None
    """GiB of the GPU that a variant may take."""
    started: float = field(default_factory=time.monotonic)

    @property
    def warm(self) -> int:
        """Steps before the measured ones."""
        return WARM if self.accumulation == 1 else 1

    @property
    def steps(self) -> int:
        """Measured steps."""
        return STEPS if self.accumulation == 1 else 2

    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.monotonic() - self.started)


def gpus_of(name: str) -> int:
    """How many a variant trains on, which share the rows of a step."""
    return int((*name.split("/"), "1")[2])


def sequence(rows: str, options: Options) -> int:
    """Tokens of a row."""
    return ROWS[rows].sequence // (SCALE if options.tiny else 1)


def config_of(name: str, options: Options) -> dict[str, Any]:
    """The Axolotl configuration of one variant: the project's own, with made data and what the kind changes."""
    import yaml

    kind, rows = name.split("/")[:2]
    work = options.out / "work"
    candidate = [f"candidates.plugin.{CANDIDATES[kind]}"] if kind in CANDIDATES else []
    config = yaml.safe_load(CONFIG.read_text()) | KINDS[kind]
    for key in ("test_datasets", "evals_per_epoch", "chat_template", "chat_template_jinja", "save_steps"):
        config.pop(key, None)
    config |= {
        "base_model": str(work / "model"),
        "plugins": [*config["plugins"], *candidate, "timing_plugin.TimingPlugin"],
        "datasets": [{"path": str(work / f"{rows}.parquet"), "ds_type": "parquet"}],
        "dataset_prepared_path": str(work / f"prepared-{rows}"),
        "output_dir": str(work / name.replace("/", "-")),
        "sequence_len": sequence(rows, options),
        "sample_packing": ROWS[rows].packed,
        "gradient_accumulation_steps": options.accumulation // gpus_of(name),
        "max_steps": options.warm + options.steps + options.kernels,
        "save_strategy": "no",
        "special_tokens": {"pad_token": "<|endoftext|>"},
    }
    if options.tiny:
        config |= NO_KERNELS | {"fused_attn_kernel": None, "liger_rms_norm": None, "liger_glu_activation": None}
        config |= {"liger_fused_linear_cross_entropy": None, "liger_rope": None, "tf32": False}
        config["dataloader_pin_memory"] = False
    return {key: value for key, value in config.items() if value is not None}


def train_one(name: str, options: Options) -> None:
    """In the child: import everything, wait for the word, train. Does not return from a finished training."""
    import yaml
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.cli.train import do_train

    path = options.out / "work" / f"{name.replace('/', '-')}.yaml"
    if os.environ.get("RANK", "0") == "0":
        path.unlink(missing_ok=True)
        if sys.stdin.readline().strip() != "go":
            return
        path.with_suffix(".new").write_text(yaml.safe_dump(config_of(name, options)))
        path.with_suffix(".new").rename(path)
    if gpus_of(name) > 1:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # their starter gives each a group of its own
        while not path.exists():
            time.sleep(0.1)
    do_train(load_cfg(str(path)), TrainerCliArgs())


def start(name: str, options: Options) -> subprocess.Popen[bytes]:
    """Start a variant's process; it imports, then waits, so that imports overlap the variant before."""
    label = name.replace("/", "-")
    environment = os.environ | ENVIRONMENT | {"TIMING_RESULT": str(options.out / f"{label}.json")}
    environment |= {"TIMING_KERNELS": "1"} if options.kernels else {}
    environment |= {"TIMING_CAP": str(options.cap)} if options.cap else {}
    environment |= {"TIMING_ROWS": str(rows_file(name, options))} if options.peers else {}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], *filter(None, [os.environ.get("PYTHONPATH")])])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus_of(name))))
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[: gpus_of(name)])
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus_of(name)}"]
    command = [
        sys.executable,
        *(several if gpus_of(name) > 1 else []),
        __file__,
        name,
        "--out",
        str(options.out),
        "--child",
    ]
    command += ["--tiny"] * options.tiny + ["--kernels"] * options.kernels
    command += ["--accumulation", str(options.accumulation)]
    if (peer := name.split("/", maxsplit=1)[0]) in PEERS:
        files = [options.out / "work" / "model", rows_file(name, options), options.out / f"{label}.json"]
        command = [options.peers, str(HERE / "unsloth_speed.py"), *map(str, files), *PEERS[peer]]
    with (options.out / f"{label}.log").open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def rows_file(name: str, options: Options) -> Path:
    """Where the rows of a variant are noted, for its peers."""
    return options.out / "work" / f"{name.split('/')[1]}.rows.pt"


def finish(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Let a waiting process train; its exit code, -9 where it was ended for taking too long."""
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(b"go\n", timeout=timeout)
    finally:
        end(process)
    return process.returncode


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process with its data loaders."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def measure(options: Options) -> None:
    """Run all variants, one after the other, within the budget."""
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    write_model(work / "model", tiny=options.tiny)
    lengths = {}
    for rows in dict.fromkeys(name.split("/")[1] for name in options.names):
        count = (options.warm + options.steps + 1) * options.accumulation + 5
        lengths[rows] = write_documents(work / f"{rows}.parquet", ROWS[rows], count=count, tiny=options.tiny)
    subprocess.run([sys.executable, HERE / "machine.py", options.out / "machine.json"], check=True)
    if (options.peers or options.cap) and not (work / "model" / "model.safetensors.index.json").exists():
        subprocess.run([sys.executable, HERE / "weights.py", work / "model"], check=True)
    waiting = start(options.names[0], options)
    try:
        for number, name in enumerate(options.names):
            running, following = waiting, options.names[number + 1 : number + 2]
            waiting = start(following[0], options) if following else running
            if options.left() < 40:
                end(running)
                print(f"{name}: skipped, {options.left():.0f} s of the budget left", flush=True)
                continue
            code = finish(running, options.left())
            print(line(name, lengths[name.split("/")[1]], options, code), flush=True)
    finally:
        end(waiting)


HEAD = (
    f"{'variant':24} {'ms/step':>8} {'min':>6} {'max':>6} {'tokens/s':>9} "
    f"{'x base':>7} {'GiB':>6} {'resv':>6} {'MFU %':>6} kept"
)


def line(name: str, lengths: list[int], options: Options, code: int = 0) -> str:
    """One line of the table, or why there is none."""
    rows = name.split("/")[1]
    seconds, data = read_seconds(options, name)
    if not seconds:
        log = (options.out / f"{name.replace('/', '-')}.log").read_text(errors="replace")
        return f"{name:24} no result (code {code}): {log.strip()[-400:]}"
    tokens = sequence(rows, options) * options.accumulation
    median = statistics.median(seconds)
    base, _ = read_seconds(options, BASELINE.get(rows, ""))
    ratio = f"{statistics.median(base) / median:7.2f}" if base else f"{'':7}"
    peak = json.loads((options.out / "machine.json").read_text())["matmul_tflops"]
    flops = flops_per_token(lengths, trained=ROWS[rows].trained, tiny=options.tiny) * tokens / median / 1e12
    use = f"{100 * flops / peak:6.1f}" if peak else f"{'':6}"
    most = [f"{max(data[key], default=0):6.1f}" for key in ("allocated", "reserved")]
    times = f"{median * 1e3:8.0f} {min(seconds) * 1e3:6.0f} {max(seconds) * 1e3:6.0f} {tokens / median:9,.0f}"
    return f"{name:24} {times} {ratio} {most[0]} {most[1]} {use} {data['kept'][-1]}{matched(name, data, options)}"


def matched(name: str, data: dict[str, Any], options: Options) -> str:
    """How far a peer's first loss is from that of the project's variants on the same rows; nothing for those."""
    kind, rows = name.split("/")[:2]
    if kind not in PEERS:
        return ""
    ours = (read_seconds(options, f"{other}/{rows}")[1] for other in ("speed", "memory"))
    losses = [found["losses"][0] for found in ours if found]
    if not losses:
        return " no variant of ours to compare with"
    apart = abs(data["losses"][0] - losses[0])
    words = "NOT MATCHED: " if apart > APART else ""
    return f" {words}first loss {apart:.4f} apart; {data['attention']}"


def read_seconds(options: Options, name: str) -> tuple[list[float], dict[str, Any]]:
    """The measured steps of a variant (none where it did not get there), and all that was noted."""
    try:
        data = json.loads((options.out / f"{name.replace('/', '-')}.json").read_text())
    except (OSError, ValueError):
        return [], {}
    return data["seconds"][options.warm :], data


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", help=f"KIND/ROWS or KIND/ROWS/GPUS; by default: {DEFAULT}; with --peers: {BESIDE_PEERS}"
    )
    parser.add_argument("--out", type=Path, default=Path("out/train-speed"), help="folder for results and logs")
    parser.add_argument("--tiny", action="store_true", help="a small model: rehearse without a GPU")
    parser.add_argument("--kernels", action="store_true", help="one more step that lists the GPU's kernels")
    parser.add_argument("--budget", type=float, default=3600.0, help="seconds for everything")
    parser.add_argument("--accumulation", type=int, default=1, help="rows a step; above 1, two steps are measured")
    parser.add_argument("--peers", nargs="?", const=sys.executable, default="", metavar="PYTHON", help="with Unsloth")
    parser.add_argument("--cap", type=float, metavar="GIB", help="let a variant take no more of the GPU")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.names or (BESIDE_PEERS if given.peers else DEFAULT).split()
    kinds = [*KINDS, *(PEERS if given.peers else [])]
    for name in names:
        kind, _, rest = name.partition("/")
        rows, _, gpus = rest.partition("/")
        if kind not in kinds or rows not in ROWS or (gpus and (kind in PEERS or not gpus.isdecimal())):
            parser.error(f"{name}: KIND/ROWS[/GPUS] with KIND of {', '.join(kinds)} and ROWS of {', '.join(ROWS)}")
    options = Options(names, given.out.resolve(), given.tiny, given.kernels, given.budget, given.accumulation)
    options.peers, options.cap = given.peers, given.cap
    if given.child:
        train_one(names[0], options)
        return 0
    if importlib.util.find_spec("axolotl") is None:
        parser.error("needs the training environment: make setup-train, then .venv-train/bin/python " + __file__)
    import torch

    if not torch.cuda.is_available() and (options.cap or not options.tiny):
        parser.error("needs a CUDA GPU; --tiny rehearses without one, and without --cap")
    print(HEAD)
    measure(options)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
