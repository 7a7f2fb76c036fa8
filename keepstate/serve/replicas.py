"""Several servers alike, each with a port, a log and a GPU of its own: `keepstate serve --replicas N`.

    plans = plan_replicas(plan_serving(adapters=[...]), 2)
    with serve_all(plans) as servers:
        ...

Independent engines, since for a model that fits one GPU nothing has to pass between them: each is checked by itself,
and where one ends the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from keepstate import machine
from keepstate.errors import UserError
from keepstate.processes import log_text
from keepstate.serve.diagnosis import last_words
from keepstate.serve.launch import Server
from keepstate.serve.ports import free_port, own_url
from keepstate.serve.serving_plan import ServingPlan

POLL_SECONDS = 0.5
OVER_GPUS = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
"""vLLM's options that spread one server over several GPUs."""
MOST_PORTS = 65_536


def plan_replicas(planned: ServingPlan, count: int, *, any_port: bool = False) -> list[ServingPlan]:
    """The server `count` times, on ports from its own on.

    Args:
        planned: The server, as its host and key are.
        count: How many, 1 or more.
        any_port: On ports that are free, instead of those that follow its own.

    Raises:
        UserError: There are too few GPUs, or no such ports.
    """
    if count == 1:
        return [planned]
    if spread := next((option for option in OVER_GPUS if planned.argument(option)), None):
        raise UserError(f"--replicas {count} and --vllm-arg {spread}: a replica has one GPU", "leave one of both out")
    gpus = _gpus(count) if planned.device == "cuda" else [None] * count
    ports = [planned.port]
    while len(ports) < count:
        port = free_port() if any_port else ports[-1] + 1
        ports += [port] * (port not in ports)
    if ports[-1] >= MOST_PORTS:
        raise UserError(f"--replicas {count} from port {planned.port} on end beyond 65535", "choose a lower --port")
    urls = tuple(own_url(planned.host, port) for port in ports)
    return [
        replace(
            planned,
            port=port,
            gpu=gpu,
            log=planned.log if port == planned.port else planned.log.with_name(f"vllm-{port}.log"),
            replicas=urls,
        )
        for port, gpu in zip(ports, gpus, strict=True)
    ]


def _gpus(count: int) -> list[machine.Gpu]:
    """The first that CUDA sees.

    Raises:
        UserError: There are fewer.
    """
    found = machine.visible_gpus()
    if len(found) < count:
        raise UserError(
            f"--replicas {count}: each takes a GPU, and {len(found)} can be used here",
            f"choose --replicas {len(found)} or fewer" if found else "see what is wrong with them: keepstate doctor",
        )
    return list(found[:count])


def wait_for_all(servers: Sequence[Server], say: Callable[[str], None]) -> None:
    """Wait for as long as one of them runs; says of each that ends what its log says.

    Raises:
        UserError: The last one ended.
    """
    running = list(servers)
    while True:
        for server in [server for server in running if server.process.poll() is not None]:
            running.remove(server)
            if not running:
                server.wait()
            words = last_words(log_text(server.log))
            say(f"{server.base_url} ended with code {server.process.wait()}; from the end of {server.log}:\n{words}")
            say(f"{len(running)} of {len(servers)} go on: {', '.join(other.base_url for other in running)}")
        time.sleep(POLL_SECONDS)
