"""The base as training on NF4 saw it: what it is, where it lies, whom it is meant for."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from serving_helpers import MakeAdapter

from keepstate.errors import UserError
from keepstate.serve import nf4, plan_serving
from keepstate.serve.nf4 import as_published, ensure_nf4, nf4_folder, on_nf4
from keepstate.setup import installing
from keepstate.train.result import base_identity


@pytest.mark.train_env
def test_the_folder_is_what_training_sees(tmp_path: Path) -> None:
    python = installing.ensure("train")
    script = Path(__file__).with_name("nf4_agrees.py")
    done = subprocess.run([python, "-I", script, nf4.SCRIPT, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.fixture
def made_by(stub_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script in the place of ours, run by this Python; it copies the config, or fails where FAIL is."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, shutil, pathlib\n"
        "base, made = map(pathlib.Path, sys.argv[1:])\n"
        "made.mkdir()\n"
        "shutil.copy(base / 'config.json', made)\n"
        "if (base / 'FAIL').exists(): sys.exit('no linear layer')\n"
        "(base / 'count').open('a').write('x')\n"
    )
    monkeypatch.setattr(nf4, "SCRIPT", script)
    monkeypatch.setattr(installing, "ensure", lambda _: Path(sys.executable))
    return script


def test_it_is_made_once_and_told_from_the_base(model: Path, made_by: Path, stub_home: Path) -> None:
    folder = ensure_nf4(str(model))
    assert folder.parent == stub_home / "models"
    assert ensure_nf4(str(model)) == folder == nf4_folder(str(model))
    assert (model / "count").read_text() == "x"
    assert base_identity(str(folder))["made"] == "nf4-dequantised"
    assert "made" not in base_identity(str(model))
    before = nf4_folder(str(model))
    (model / "config.json").write_text("{}")
    assert nf4_folder(str(model)) != before, "of another base"


def test_where_it_cannot_be_made_nothing_is_left(model: Path, made_by: Path, stub_home: Path) -> None:
    (model / "FAIL").touch()
    with pytest.raises(UserError, match=r"could not be taken to NF4 and back.*\n.*no linear layer"):
        ensure_nf4(str(model))
    assert not list((stub_home / "models").glob("model-*"))


@pytest.mark.parametrize(("four_bits", "on_either"), [(True, (0, 1)), (False, (1, 0)), (None, (0, 0))])
def test_an_adapter_that_saw_the_other_weights_is_said(
    four_bits: bool | None, on_either: tuple[int, int], make_adapter: MakeAdapter, stub_home: Path
) -> None:
    adapter = make_adapter()
    if four_bits is not None:
        (adapter / "axolotl.yaml").write_text(yaml.safe_dump({"adapter": "qlora", "load_in_4bit": four_bits}))
    planned = plan_serving(adapters=[adapter], port=0)
    on, published = on_nf4(planned, make=False), as_published(planned)
    assert on.base_model == str(nf4_folder(planned.base_model))
    assert on.is_local
    assert published.base_model == planned.base_model
    assert not Path(on.base_model).exists()
    for plan, remarks in zip((on, published), on_either, strict=True):
        assert ["persistent" in remark for remark in plan.remarks[len(planned.remarks) :]] == [True] * remarks
