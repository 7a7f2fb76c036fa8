"""A benchmark on a disk that is really full: a file system of its own, too small, which is given room later."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_disk import exits, on_a_small_disk
from stub_server import StubServer, serving

from keepstate.bench import read_results
from keepstate.files import TEMPORARY

TASKS = 12
SCRIPT = """
    mount -t tmpfs -o size=64k none runs || exit 77
    "$0" -m keepstate bench run react.yaml persistent.yaml --allow-unsafe; echo "exit $?"
    "$0" -m keepstate bench run react.yaml persistent.yaml --allow-unsafe; echo "exit $?"
    "$0" -m keepstate report runs/bench; echo "exit $?"
    mount -o remount,size=16m none runs || exit 77
    "$0" -m keepstate bench run react.yaml persistent.yaml --allow-unsafe; echo "exit $?"
    cp -r runs saved
"""


def figures(run: Path) -> dict[str, Any]:
    """What does not depend on time."""
    kept = ("score", "solved", "steps", "tokens", "finish_reason", "errors")
    return {
        f"{cell.name} {episode.task}": [getattr(episode, key) for key in kept]
        for cell in read_results(run)
        for episode in cell.episodes
    }


@pytest.mark.timeout(400)  # 5 s on an idle machine, 100 at a load of 35
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        for name in ("react", "persistent"):
            values = {"name": name, "adapter": "base", "runtime": name, "base_url": stub.url, "concurrency": 4}
            values["tasks"] = {"difficulty": "mini", "count": TASKS}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
        (tmp_path / "runs").mkdir()
        full = on_a_small_disk(SCRIPT, tmp_path)
        command = [sys.executable, "-m", "keepstate", "bench", "run", "react.yaml", "persistent.yaml", "--allow-unsafe"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert exits(full) == ["exit 2", "exit 2", "exit 2", "exit 0"], full.stdout + full.stderr
    assert full.stderr.count("error: no disk space left for runs/bench/") == 3
    assert full.stderr.count("free some space, then repeat the command: what is finished is kept") == 3
    assert "Traceback" not in full.stderr
    whole = figures(tmp_path / "runs" / "bench")
    assert len(whole) == 2 * TASKS
    assert figures(tmp_path / "saved" / "bench") == whole, "as on a disk with room"
    assert not [*(tmp_path / "saved").rglob(f"*{TEMPORARY}")]
