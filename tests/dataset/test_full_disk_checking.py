"""A proof where the disk of temporary files is really full: that is said, not that Axolotl or its environment fails."""

import shlex
import sys
from pathlib import Path

import pytest
from made_traces import build_one, make_trace, write_traces
from serve.serving_helpers import write_environment
from small_disk import on_a_small_disk

from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.setup import environments
from keepstate.vocabulary import RuntimeName

TOKENISES = """
import json, sys
print("loading", flush=True)
with open(json.load(open(sys.argv[-1]))[0]["out"], "w") as ids:
    ids.write("1" * 2**20)
"""
SCRIPT = """
    mkdir small && mount -t tmpfs -o size=64k none small || exit 77
    export TMPDIR="$PWD/small"
    "$0" -m keepstate dataset check d; echo "exit $?"
    ls -A small
"""


@pytest.mark.timeout(400)
def test_a_full_disk_is_told(tmp_path: Path, small_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cpu")
    python = shlex.join([sys.executable, "-c", TOKENISES])
    write_environment(environments.spec("train"), f'#!/bin/sh\nexec {python} "$@"\n')
    root = write_traces(tmp_path / "t", [make_trace(number) for number in range(4)])
    build_one(root, RuntimeName.PERSISTENT, tmp_path / "d", template="chatml", tokenizer=small_tokenizer.path)
    before = (tmp_path / "d" / "manifest.json").read_bytes()
    full = on_a_small_disk(SCRIPT, tmp_path)
    assert full.stdout == "exit 2\n", "and nothing is left there"
    assert f"error: no disk space left for {tmp_path}/small/keepstate-check." in full.stderr
    assert "hint:  free some space, then repeat the command" in full.stderr
    assert "Axolotl could not" not in full.stderr
    assert "Traceback" not in full.stderr
    assert (tmp_path / "d" / "manifest.json").read_bytes() == before
