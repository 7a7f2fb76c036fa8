"""Files that make a cluster run a command of keepstate: a batch script for SLURM, manifests for Kubernetes.

Text only: submits nothing and asks no cluster. Several machines are connected by Ray, which on Kubernetes its operator
KubeRay (`ray.io/v1`) starts.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from keepstate.setup.ray import locked

KEY = "KEEPSTATE_API_KEY"
"""The variable of `keepstate.models.endpoint`, which comes later than what is set up."""

RAY_PORT = 6379
SERVER_PORT = 8000
WORK = "/work"
"""Where the volume lies in every container, and commands are run."""
KEY_FOLDER = "/keys"
QUIET = {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}
SECRET = {"name": "keepstate-serve-key", "key": "key"}
"""With the server's key."""
KEY_OF_SERVER = [{"name": KEY, "valueFrom": {"secretKeyRef": SECRET | {"optional": True}}}]
"""For who asks the server."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and the machines that it gets."""

    words: tuple[str, ...]
    """Of the command, without `keepstate`."""
    nodes: int = 1
    cpus: int = 8
    """Of each machine, as are all that follow."""
    memory_gib: int = 32
    gpus: int = 0

    @property
    def name(self) -> str:
        """Of the job."""
        return f"keepstate-{self.words[0]}"

    def command(self) -> list[str]:
        """What is run; on several machines by Ray."""
        return ["keepstate", *self.words, *(["--engine", "ray", "--address", "auto"] if self.nodes > 1 else [])]


_HEADER = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={memory}G
{more}#SBATCH --output=%x-%j.log
set -euo pipefail
"""
_RAY = """\
# Ray: the first machine is the head, where the command runs too; the others join as soon as it answers.
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n') && export RAY_AUTH_TOKEN
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${{hosts[0]}}
address=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d ' ' -f 1):{port}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \\
    ray start --block --head --port={port} --num-cpus={cpus} --include-dashboard=false &
for _ in $(seq 60); do
    ray health-check --address "$address" >/dev/null 2>&1 && break
    sleep 2
done
srun --overlap --nodes={others} --ntasks={others} --exclude="$head" \\
    ray start --block --address="$address" --num-cpus={cpus} &
"""


def slurm_script(launch: Launch, *, time: str, partition: str | None = None, account: str | None = None) -> str:
    """A script for `sbatch`. Repeated, it goes on where it was cut, as every command does.

    Args:
        launch: What to run, and on what.
        time: The longest it may take, as SLURM writes it.
        partition: Of the cluster; its default where None.
        account: Who pays; SLURM's default where None.
    """
    asked = {"gpus-per-node": launch.gpus or None, "time": time, "partition": partition, "account": account}
    more = "".join(f"#SBATCH --{key}={value}\n" for key, value in asked.items() if value is not None)
    about = {"name": launch.name, "nodes": launch.nodes, "cpus": launch.cpus, "memory": launch.memory_gib}
    script = _HEADER.format(**about, more=more)
    if launch.nodes > 1:
        script += _RAY.format(port=RAY_PORT, cpus=launch.cpus, others=launch.nodes - 1)
    return f"{script}{shlex.join(launch.command())}\n"


def kubernetes_manifests(launch: Launch, *, image: str, claim: str) -> list[dict[str, Any]]:
    """Manifests for `kubectl apply`: a Job; a RayJob on several machines; a Deployment and a Service of `serve`.

    Args:
        launch: What to run, and on what.
        image: Of every container.
        claim: The volume claim with tasks, data, models and results.
    """
    about = {"name": launch.name, "labels": {"app": launch.name}}
    if launch.words[0] == "serve":
        return _server(launch, about, image, claim)
    if launch.nodes > 1:
        return [
            {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": about, "spec": _ray_job(launch, image, claim)}
        ]
    pod = _pod(launch, image, claim, launch.command(), KEY_OF_SERVER) | {"restartPolicy": "Never"}
    # What was cut goes on: a training from its last checkpoint, a benchmark with what is missing.
    spec = {"backoffLimit": 3, "template": {"metadata": {"labels": about["labels"]}, "spec": pod}}
    return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": about, "spec": spec}]


def _pod(
    launch: Launch, image: str, claim: str, command: Sequence[str] = (), variables: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    sizes = {"cpu": str(launch.cpus), "memory": f"{launch.memory_gib}Gi"}
    sizes |= {"nvidia.com/gpu": str(launch.gpus)} if launch.gpus else {}
    container: dict[str, Any] = {
        "name": "keepstate",
        "image": image,
        "workingDir": WORK,
        "env": [QUIET, *variables],
        "resources": {"requests": sizes, "limits": sizes},
        "volumeMounts": [{"name": "work", "mountPath": WORK}, {"name": "memory", "mountPath": "/dev/shm"}],
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    if command:
        container["command"] = list(command)
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},  # Ray's messages, and vLLM's between its processes
        ],
    }


def _ray_job(launch: Launch, image: str, claim: str) -> dict[str, Any]:
    """A cluster of its own that ends with the command. The head plays nothing: the command runs there, with the key."""
    head = _pod(replace(launch, gpus=0), image, claim, variables=KEY_OF_SERVER)
    node = _pod(launch, image, claim)
    workers = {"groupName": "nodes", "replicas": launch.nodes, "minReplicas": launch.nodes, "maxReplicas": launch.nodes}
    return {
        "entrypoint": f"cd {WORK} && {shlex.join(launch.command())}",
        "shutdownAfterJobFinishes": True,
        "backoffLimit": 3,
        "rayClusterSpec": {
            "rayVersion": locked(),
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": {"spec": head}},
            "workerGroupSpecs": [workers | {"rayStartParams": {}, "template": {"spec": node}}],
        },
    }


def _server(launch: Launch, about: dict[str, Any], image: str, claim: str) -> list[dict[str, Any]]:
    """A server that other pods reach, with the key of `SECRET`."""
    words = [*launch.command(), "--host", "0.0.0.0", "--port", str(SERVER_PORT), "--api-key-file", f"{KEY_FOLDER}/key"]
    pod = _pod(launch, image, claim, words)
    (container,) = pod["containers"]
    container["volumeMounts"].append({"name": "key", "mountPath": KEY_FOLDER, "readOnly": True})
    container["ports"] = [{"containerPort": SERVER_PORT}]
    container["readinessProbe"] = {"httpGet": {"path": "/health", "port": SERVER_PORT}, "periodSeconds": 10}
    pod["volumes"].append({"name": "key", "secret": {"secretName": SECRET["name"]}})
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},  # the new one would wait for the GPU of the old one
        "selector": {"matchLabels": about["labels"]},
        "template": {"metadata": {"labels": about["labels"]}, "spec": pod},
    }
    service = {"selector": about["labels"], "ports": [{"port": SERVER_PORT, "targetPort": SERVER_PORT}]}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": about, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": service},
    ]
