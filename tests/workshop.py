"""A folder in which all that the pages' commands name is there, made in seconds, and good for nothing else.

    write_workshop(folder, server)

Environments whose Python is a stub, models without weights, four tasks a set, a GPU that only `nvidia-smi` knows.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from made_tokenizers import make_tokenizer
from serve.made_lora import write_adapter, write_model
from serve.serving_helpers import write_environment, write_stub_environment

from keepstate.cli import cli, run
from keepstate.files import file_hash, write_json
from keepstate.places import shipped
from keepstate.setup import basemodel
from keepstate.setup.environments import spec

ROOT = Path(__file__).parents[1]
ELSEWHERE = ROOT / "tests" / "traces" / "elsewhere"
GPU = """#!/bin/sh
case "$1" in
    *memory.free*) echo 81000; echo 81000 ;;
    *) echo "NVIDIA H100 80GB HBM3, 81559, 580.65.06, GPU-1"; echo "NVIDIA H100 80GB HBM3, 81559, 580.65.06, GPU-2" ;;
esac
"""
KEEPSTATE = """#!/bin/sh
case "$1 $2" in
    "bench run") set -- "$@" --base-url "$SERVER/v1" ;;
    "bench matrix") set -- "$@" --base-url "$SERVER/v1" --count 1 --adapter persistent ;;
    "serve check" | *--help*) ;;
    "serve "*) set -- "$@" --port 0 ;;
    "train "*)
        set -- "$@" --dry-run
        case "$*" in *--laptop*) set -- "$@" --dataset data/laptop/persistent ;; esac ;;
    "tasks generate") set -- "$@" --count 4 ;;
esac
exec {program} "$@"
"""
"""What is typed, on the test's own server, a free port, small, and without a training, which needs a GPU or minutes."""
PYTHON = """#!/bin/sh
case "$1" in
    benchmarks/*) set -- "$@" --help ;;
    train/*) set -- "$@" --dry-run ;;
esac
exec {program} "$@"
"""
"""The same for scripts."""
TASKS = ("train", "eval", "held-out")
"""Sets of tasks that pages name, below data/tasks."""
CELL = "name: persistent-easy\nadapter: persistent\nruntime: persistent\ntasks: {difficulty: mini, count: 2}\n"


def environment(folder: Path, server: str) -> dict[str, str]:
    """What the commands see: the stubs, the server at that address, nothing of this machine's user."""
    return {
        "PATH": f"{folder}/.venv/bin:{folder}/programs:/usr/bin:/bin",
        "HOME": str(folder / "user"),
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "KEEPSTATE_HOME": str(folder),
        "KEEPSTATE_DEVICE": "cuda",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "STUB_PID": str(folder / "stub.pid"),
        "SERVER": server,
    }


def write_workshop(folder: Path, server: str) -> None:
    """Fill `folder`, which is also the current one and keepstate's home; a server of models answers at `server`."""
    for name in ("Makefile", "benchmarks", "docs", "keepstate", "locks", "pyproject.toml", "results", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "train", folder / "train")
    for path in (folder / "train/assets/task_configs").iterdir():
        path.write_text(path.read_text().replace('"count": 100', '"count": 1'))
    _write_programs(folder)
    _write_models(folder)
    for name in TASKS:
        _keepstate(f"tasks generate --count 4 --seed-start {TASKS.index(name)} --out data/tasks/{name}")
    _keepstate("tasks generate --difficulty easy --count 4 --out data/tasks/knapsack-easy-train")
    _keepstate("traces collect --tasks data/tasks/knapsack-easy-train --runtime persistent --out teacher")
    _keepstate("tasks new my_tasks.py")
    _keepstate("traces collect --tasks data/tasks/train")
    _keepstate("dataset build --tokenizer qwen3")
    _keepstate("dataset build --tokenizer qwen3 --mix persistent,forget")
    _keepstate("dataset build --out data/laptop --runtime persistent")
    adapters = {f"qwen3-8b-{name}-a100": name for name in ("persistent", "forget", "react")}
    for name, runtime in (adapters | {"persistent-round2": "persistent"}).items():
        write_adapter(folder / "out" / name, folder / "models" / basemodel.NAME, runtime)
    _write_results(folder, server)
    (folder / "cell.yaml").write_text(CELL)
    (folder / "key").write_text("secret")
    shutil.copytree(folder / "data/traces", folder / "runs/demo/traces")
    for source, place in {"harbor-0.26.0-text.json": "jobs/trajectory.json", "smolagents-1.26-code.json": "memory.json",
                          "inspect-0.3.90.eval": "logs/one.eval"}.items():  # fmt: skip
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(ELSEWHERE / source, folder / place)


def _keepstate(words: str) -> None:
    assert run(cli, words.split()) == 0, words


def _write_programs(folder: Path) -> None:
    """The core environment as `make setup` leaves it, the server's with its stub, and the GPU."""
    (folder / ".venv/bin").mkdir(parents=True)
    installed = f"{sysconfig.get_path('scripts')}/keepstate"
    texts = {"bin/python": PYTHON.replace("{program}", sys.executable), "bin/activate": "", ".locked": ""}
    for name, text in (texts | {"bin/keepstate": KEEPSTATE.replace("{program}", installed), ".installed": ""}).items():
        (folder / ".venv" / name).write_text(text)
        (folder / ".venv" / name).chmod(0o755)
    (folder / "programs").mkdir()
    (folder / "programs/nvidia-smi").write_text(GPU)
    (folder / "programs/nvidia-smi").chmod(0o755)
    write_stub_environment()
    write_environment(spec("train"), PYTHON.replace("{program}", sys.executable))


def _write_models(folder: Path) -> None:
    laptop = write_model(make_tokenizer("chatml", folder / "models" / basemodel.NAME))
    sizes = {path.name: path.stat().st_size for path in laptop.iterdir()}
    write_json(laptop / basemodel.MARKER, {"source": file_hash(shipped("locks/base-model.txt")), "files": sizes})
    make_tokenizer("qwen3", folder / "models/qwen3-tokenizer")
    write_model(make_tokenizer("llama3", folder / "models/llama-3.2-1b"))


def _write_results(folder: Path, server: str) -> None:
    """Runs of the names that pages have: played with the server, copied, and two of a cell each to be compared."""
    configs = [f"train/assets/benchmark_configs/bench-easy-{name}.yaml" for name in ("lora", "base")]
    _keepstate(f"bench run {' '.join(configs)} --base-url {server}/v1")
    shutil.copytree(folder / "runs/bench", folder / "runs/demo/bench")
    for name in ("a", "b", "one", "two"):
        shutil.copytree(folder / "runs/bench/bench-easy-lora", folder / "runs" / name / "cell")
