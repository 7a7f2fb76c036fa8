"""`keepstate serve` whose server answers what `replay.py pack` recorded: KEEPSTATE_REPLAY names the file.

KEEPSTATE_REPLAY=FILE.npz python benchmarks/gpu/replay_serve.py --base-model FOLDER --lora NAME=FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from keepstate.cli.serve import command
from keepstate.serve import ServingPlan, launch

PLUGIN = "keepstate_replay"
FOLDER = Path(__file__).resolve().parent / "replay_plugin"
FILE = "KEEPSTATE_REPLAY"

plain = launch.environment


def environment(planned: ServingPlan) -> dict[str, str]:
    """The server's, with the plugin."""
    own = plain(planned)
    more = {"PYTHONPATH": os.pathsep.join((own["PYTHONPATH"], str(FOLDER)))}
    if "VLLM_PLUGINS" in own:
        more["VLLM_PLUGINS"] = f"{own['VLLM_PLUGINS']},{PLUGIN}"
    return own | more


if __name__ == "__main__":
    if FILE not in os.environ:
        sys.exit(f"{FILE} names no file")
    launch.environment = environment
    command()
