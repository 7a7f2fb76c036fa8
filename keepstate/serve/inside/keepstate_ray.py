"""Serves with Ray Serve LLM what its argument tells, in `.venv-serve`, until SIGTERM: see `keepstate.serve.over_nodes`.

    python keepstate_ray.py '{"vllm": ["--model", ...], "replicas": 2, ...}'

Each replica is vLLM's own web server over an engine of its own, and Ray Serve hands it requests: so all that one server
answers is answered here, adapters by their names, `/tokenize` and `/health`. Requests that name one session
(`X-Session-Id`, as keepstate's do for an episode) go to one replica, while it lives. A key is in `VLLM_API_KEY`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from dataclasses import fields
from typing import Any

import ray
from ray import serve
from ray.llm._internal.serve.engines.vllm import vllm_models
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from vllm.utils.argparse_utils import FlexibleArgumentParser

OURS = ("model", "served_model_name")
"""Which Ray Serve LLM has its own words for."""
STICKY = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
"""Its router by prefixes reads prompts, which vLLM's own web server does not show it."""


def llm_config(told: dict[str, Any]) -> LLMConfig:
    """What Ray Serve LLM is told: words of vLLM's command line as the values that vLLM itself reads in them."""
    models: Any = vllm_models
    kinds = [models.AsyncEngineArgs, models.FrontendArgs]  # vLLM's, from where its version has them
    parser = importlib.import_module(kinds[1].__module__).make_arg_parser(FlexibleArgumentParser())
    given, default = vars(parser.parse_args(told["vllm"])), vars(parser.parse_args([]))
    known = {field.name for kind in kinds for field in fields(kind)}
    chosen = {name: value for name, value in given.items() if name in known and value != default[name]}
    key = {"VLLM_API_KEY": os.environ["VLLM_API_KEY"]} if "VLLM_API_KEY" in os.environ else {}
    config = {
        "model_loading_config": {"model_id": given["served_model_name"][0], "model_source": given["model"]},
        "engine_kwargs": {name: value for name, value in chosen.items() if name not in OURS},
        "accelerator_config": {"kind": told["accelerator"]},
        "deployment_config": {
            "num_replicas": told["replicas"],
            "request_router_config": {"request_router_class": STICKY},
        },
        "runtime_env": {"env_vars": told["environment"] | key},
        "log_engine_metrics": False,  # else they are Ray's, and not on the server's own page
    }
    return LLMConfig.model_validate(config)


def main() -> None:
    """Serve."""
    told = json.loads(sys.argv[1])
    config = llm_config(told)
    cluster: Any = ray
    served: Any = serve
    cluster.init(told["address"] or "local", **({} if told["address"] else {"include_dashboard": False}))
    engine: Any = config.get_engine_config()
    needed, there = told["replicas"] * engine.num_devices, cluster.cluster_resources().get("GPU", 0)
    if told["accelerator"] == "gpu" and there < needed:
        sys.exit(f"the Ray cluster has {there:g} GPUs, and {told['replicas']} replicas need {needed}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        served.start(http_options={"host": told["host"], "port": told["port"]})
        served.run(build_llm_deployment(config, deployment_cls=served.ingress()(LLMServer)), name="keepstate")
        while True:
            signal.pause()
    finally:
        served.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
