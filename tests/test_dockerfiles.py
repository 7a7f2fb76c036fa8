"""The Dockerfiles: what they copy is there and what they call can be typed. Images are not built here."""

import re
from pathlib import Path

import pytest
from typed import wrong_commands

from keepstate.setup.environments import DEFAULT, NAMES, RELEASES, Device

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("Dockerfile*"))


def test_there_is_one_for_gpus_and_one_for_the_laptop_loop() -> None:
    devices = {path.name: re.findall(r"KEEPSTATE_DEVICE=(\w+)", path.read_text()) for path in FILES}
    assert devices == {"Dockerfile": ["cuda"], "Dockerfile.laptop": ["cpu"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_steps_name_what_is_there(path: Path) -> None:
    text = path.read_text()
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
    python = re.findall(r"^FROM python:([\d.]+)-", text, re.MULTILINE)[0]
    device: Device = "cpu" if "KEEPSTATE_DEVICE=cpu" in text else "cuda"
    assert all(python in RELEASES[name, device, DEFAULT].pythons for name in NAMES)
    commands = re.findall(r"(keepstate setup .*)$", text, re.MULTILINE)
    commands += [f"keepstate {word}" for word in re.findall(r'^CMD \["(\w+)"\]', text, re.MULTILINE)]
    assert len(commands) == 2
    assert [wrong for command in commands for wrong in wrong_commands(command)] == []


def test_no_image_takes_what_git_ignores() -> None:
    """But for folders that a pattern of git's names by its place."""
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    left_out = (ROOT / ".dockerignore").read_text()
    folders = {name for name in ignored if re.fullmatch(r"\.?\w+", name)} - {"__pycache__"}
    lacking = {name for name in folders if not re.search(rf"^\.?{re.escape(name)}$", left_out, re.MULTILINE)}
    assert lacking <= {".pytest_cache", ".mypy_cache", ".ruff_cache", ".mlflow"}
