"""Serving where the disk of the log is really full, at the start or later: it is said, and no wrong cause is."""

from pathlib import Path

import pytest
from serving_helpers import MakeAdapter, is_running
from small_disk import exits, on_a_small_disk

SCRIPT = """
    mkdir home/.stamps && mount -t tmpfs -o size=256k none home/.stamps || exit 77
    head -c 1M /dev/zero > home/.stamps/fill 2> /dev/null
    "$0" -m keepstate serve --lora persistent --port 0; echo "exit $?"
    rm home/.stamps/fill
    STUB=floods "$0" -m keepstate serve --lora persistent --port 0; echo "exit $?"
"""


@pytest.mark.timeout(400)
def test_a_full_disk_is_told_before_anything_starts_and_is_the_cause_of_what_the_log_lacks(
    make_adapter: MakeAdapter, stub_home: Path, tmp_path: Path
) -> None:
    make_adapter()
    full = on_a_small_disk(SCRIPT, tmp_path)
    assert exits(full) == ["exit 2", "exit 2"], full.stdout + full.stderr
    assert full.stderr.count(f"error: no disk space left for {stub_home}/.stamps/vllm-") == 2, full.stderr
    assert full.stderr.count("hint:  free some space, then repeat the command: what is finished is kept") == 2
    assert "Traceback" not in full.stderr
    assert "plugin" not in full.stderr, "the environment is not to be made again"
    assert not is_running(stub_home)
