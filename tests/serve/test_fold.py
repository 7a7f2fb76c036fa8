"""LoRA as part of its layers' own products, as a GPU's server has it: computed here by Triton's interpreter."""

import os
import subprocess
from pathlib import Path

import pytest

from keepstate.serve.command import PLUGIN_FOLDER
from keepstate.setup import installing

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(300)]


def test_folded_layers_compute_what_lora_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [installing.ensure("serve"), "-P", str(Path(__file__).with_name("folded_layers.py")), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(PLUGIN_FOLDER), "TRITON_INTERPRET": "1", "VLLM_PLUGINS": ""},
        cwd=Path("/"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("as they should be\n")
