"""What a cluster is handed: a script that does what it says, and manifests as Kubernetes and KubeRay know them."""

import os
import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keepstate.cli import cli, run
from keepstate.models.endpoint import KEY
from keepstate.setup import manifests

FAKE = """#!/bin/bash
echo "{name} $* token=${{#RAY_AUTH_TOKEN}} stats=$RAY_USAGE_STATS_ENABLED" >> calls
{body}
"""
BODIES = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": "printf 'one\\ntwo\\n'",
    "hostname": 'echo "10.0.0.1 fe80::1"',
    "ray": '[[ "$1" == health-check ]] && { [ -e up ]; exit; }; [[ "$3" == --head ]] && touch up; exec sleep 60',
    "keepstate": "until grep -q '^ray start --block --address' calls; do sleep .05; done; exit 7",
}


def launched(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(cli, ["launch", *words]) == 0
    return capsys.readouterr().out


def test_the_script_starts_the_head_waits_for_it_and_ends_with_the_commands_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, body in BODIES.items():
        (tmp_path / name).write_text(FAKE.format(name=name, body=body))
        (tmp_path / name).chmod(0o755)
    words = ["--nodes", "3", "--cpus", "4", "--", "bench", "run", "a cell.yaml"]
    script = launched(capsys, "slurm", *words).replace("sleep 2", "sleep 0.1")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash"],
        input=script,
        cwd=tmp_path,
        env={"PATH": path, "SLURM_JOB_NODELIST": "n[1-3]"},
        text=True,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    ray = [call for call in calls if call.startswith("ray ")]
    assert "start --block --head --port=6379 --num-cpus=4" in ray[0] or "health-check" in ray[0]
    assert [call for call in ray if "start --block --address=10.0.0.1:6379 --num-cpus=4" in call]
    assert any("--nodes=2 --ntasks=2 --exclude=one" in call for call in calls if call.startswith("srun"))
    assert all(call.endswith("token=64 stats=0") for call in ray)
    assert any(call.startswith("keepstate bench run a cell.yaml --engine ray --address auto") for call in calls)


def test_one_machine_needs_no_ray_and_what_is_asked_of_slurm_is_in_the_head(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = launched(
        capsys, "slurm", "--gpus", "1", "--partition", "gpu", "--time", "2-0:00:00", "train", "persistent"
    )
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {"#SBATCH --nodes=1", "#SBATCH --gpus-per-node=1", "#SBATCH --partition=gpu"} < set(lines)
    assert "#SBATCH --time=2-0:00:00" in lines
    assert lines[-1] == "keepstate train persistent"
    assert "ray" not in script


def loaded(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    text = launched(capsys, "k8s", "--image", "here/keepstate:1", *words)
    assert "&id" not in text, "every reader of YAML, not only those that know aliases"
    return list(yaml.safe_load_all(text))


def containers(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return value.get("containers", []) + [each for inner in value.values() for each in containers(inner)]
    return [each for inner in value for each in containers(inner)] if isinstance(value, list) else []


def test_a_training_is_a_job_that_goes_on_where_it_was_cut(capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = loaded(capsys, "--gpus", "2", "--", "train", "persistent", "--gpus", "2")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    (container,) = containers(job)
    assert container["command"] == ["keepstate", "train", "persistent", "--gpus", "2"]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert job["spec"]["backoffLimit"] > 0


class Known(BaseModel):
    """An object of KubeRay's API `ray.io/v1`: no other properties than its types have, and those that must be there.

    Of a RayJob with a token and a cluster of its own, without what autoscaling and deletion policies have. Pods are
    Kubernetes' own. Names and types are those of its repository in 2026, the rest is what its operator checks.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Known):
    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=47)]
    labels: dict[str, str] = {}


class PodTemplate(Known):
    metadata: dict[str, Any] = {}
    spec: dict[str, Any]


class Group(Known):
    rayStartParams: dict[str, str]
    template: PodTemplate


class HeadGroup(Group):
    serviceType: str = ""
    headService: dict[str, Any] = {}
    enableIngress: bool = False


class WorkerGroup(Group):
    groupName: str
    replicas: int = 0
    minReplicas: int
    maxReplicas: int
    numOfHosts: int = 1
    suspend: bool = False


class AuthOptions(Known):
    mode: Literal["disabled", "token"]


class RayCluster(Known):
    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    """Which an operator that makes a token asks for: 2.52.0 or later."""
    authOptions: AuthOptions
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]
    enableInTreeAutoscaling: bool = False
    suspend: bool = False


class RayJob(Known):
    entrypoint: str
    rayClusterSpec: RayCluster
    backoffLimit: Annotated[int, Field(ge=0)] = 0
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Annotated[int, Field(ge=0)] = 0
    activeDeadlineSeconds: Annotated[int, Field(gt=0)] = 1
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"
    runtimeEnvYAML: str = ""
    entrypointNumCpus: float = 0
    entrypointNumGpus: float = 0
    entrypointResources: str = ""
    jobId: str = ""
    suspend: bool = False
    metadata: dict[str, str] = {}


def test_several_machines_are_a_ray_job_as_kuberay_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = loaded(capsys, "--nodes", "5", "--gpus", "1", "--", "bench", "run", "a.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    Metadata.model_validate(job["metadata"])
    cluster = RayJob.model_validate(job["spec"]).rayClusterSpec
    assert tuple(map(int, cluster.rayVersion.split("."))) >= (2, 52, 0)
    for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
        assert group.template.spec["containers"]
    for wrong in ({"rayVersion": 2.6}, {"authOptions": {"mode": "Token"}}, {"headGroupSpec": {}}, {"workers": []}):
        with pytest.raises(ValidationError):
            RayCluster.model_validate(job["spec"]["rayClusterSpec"] | wrong)


def test_the_head_of_several_machines_plays_nothing_and_has_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = loaded(capsys, "--nodes", "5", "--gpus", "1", "--", "bench", "run", "a.yaml")
    spec = job["spec"]
    assert spec["entrypoint"] == "cd /work && keepstate bench run a.yaml --engine ray --address auto"
    assert spec["shutdownAfterJobFinishes"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (5, 5, 5)
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (head,), (node,) = containers(cluster["headGroupSpec"]), containers(group)
    assert [variable["name"] for variable in head["env"]] == ["RAY_USAGE_STATS_ENABLED", KEY]
    assert [variable["name"] for variable in node["env"]] == ["RAY_USAGE_STATS_ENABLED"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert node["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_a_server_asks_for_a_key_and_is_ready_when_it_answers(capsys: pytest.CaptureFixture[str]) -> None:
    deployment, service = loaded(capsys, "--gpus", "1", "--", "serve", "--lora", "out/a")
    (container,) = containers(deployment)
    assert container["command"][:4] == ["keepstate", "serve", "--lora", "out/a"]
    assert container["command"][-2:] == ["--api-key-file", "/keys/key"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert {"name": "key", "secret": {"secretName": "keepstate-serve-key"}} in deployment["spec"]["template"]["spec"][
        "volumes"
    ]


def test_the_key_has_the_name_that_is_sent() -> None:
    assert manifests.KEY == KEY


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--nodes", "2", "--", "train", "persistent"], "train runs on one machine, not on 2"),
        (["--", "report", "runs/bench"], "is nothing that a cluster runs"),
        (["--", "bench", "run", "a.yaml", "--nodess", "3"], "--nodess"),
        (["--", "bench", "run", "a.yaml", "--engine", "ray"], "--engine is written by keepstate launch"),
        (["--", "serve", "--host=0.0.0.0"], "--host is written by keepstate launch"),
        (["--time", "soon", "--", "train", "persistent"], "none of SLURM's"),
        (["--", "train", "persistent", "forget"], "more than it takes: forget"),
        (["--", "train"], "Missing argument"),
        (["--account", "a b", "--", "train", "persistent"], "is no name"),
    ],
)
def test_what_no_cluster_could_run_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["launch", "slurm", *words]) == 2
    assert told in capsys.readouterr().err
