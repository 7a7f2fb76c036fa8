"""Several servers alike: where each is, that all are checked, and what becomes of the rest where one ends."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from serving_helpers import MakeAdapter

from keepstate import machine
from keepstate.errors import UserError
from keepstate.machine import Gpu
from keepstate.models.endpoint import served_models
from keepstate.serve import ServingPlan, plan_serving
from keepstate.serve.command import own_environment
from keepstate.serve.launch import Server, serve_all
from keepstate.serve.loaded import loaded_by, servers_at
from keepstate.serve.ports import is_free
from keepstate.serve.replicas import plan_replicas, wait_for_all


@pytest.fixture
def planned(make_adapter: MakeAdapter, stub_home: Path) -> ServingPlan:
    return plan_serving(adapters=[make_adapter(), make_adapter("react")], port=0)


def kill(server: Server) -> None:
    """As the kernel does where memory ends."""
    os.killpg(server.process.pid, signal.SIGKILL)
    while server.process.poll() is None:
        time.sleep(0.01)


def test_each_answers_under_every_name_and_the_first_stands_for_all_that_run(planned: ServingPlan) -> None:
    plans = plan_replicas(planned, 2, any_port=True)
    with serve_all(plans) as servers:
        assert [server.base_url for server in servers] == [plan.base_url for plan in plans]
        assert len({server.log for server in servers}) == len({server.process.pid for server in servers}) == 2
        for server in servers:
            assert list(served_models(server.base_url)) == ["base", "persistent", "react"]
            assert (loaded := loaded_by(server.base_url)) is not None
            assert loaded.adapters.keys() == {"persistent", "react"}
        first, second = (server.base_url for server in servers)
        assert servers_at(first) == servers_at(first.replace("127.0.0.1", "localhost")) == (first, second)
        assert servers_at(second) == (second,), "one can still be asked alone"
        assert servers_at(f"{second}, http://elsewhere/v1") == (second, "http://elsewhere/v1")

        said: list[str] = []
        kill(servers[0])
        assert servers_at(first) == (second,)

        def say(words: str) -> None:
            said.append(words)
            if "go on" in words:
                kill(servers[1])

        with pytest.raises(UserError, match="vLLM ended with code") as caught:
            wait_for_all(servers, say)
        assert str(servers[1].log) in caught.value.message
        assert said[0].startswith(f"{first} ended with code ")
        assert "Application startup complete" in said[0]
        assert said[1] == f"1 of 2 go on: {second}"
    assert servers_at(first) == (first,)


def test_one_that_cannot_start_ends_all_and_is_named(planned: ServingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = plan_replicas(planned, 2, any_port=True)
    monkeypatch.setenv("STUB", f"react=base@{plans[1].port}")
    with pytest.raises(UserError, match="'react' answers as the base model does") as caught, serve_all(plans):
        pass
    assert str(plans[1].log) in caught.value.hint
    for plan in plans:
        assert not loaded_by(plan.base_url)
        assert is_free(plan.port)


@pytest.fixture
def on_gpus(planned: ServingPlan, monkeypatch: pytest.MonkeyPatch) -> ServingPlan:
    """The plan on a machine with two GPUs."""
    monkeypatch.setattr(machine, "visible_gpus", lambda: (Gpu("H200", 140, "1", 0, "GPU-a"), Gpu("H200", 140, "1", 5)))
    monkeypatch.setenv("KEEPSTATE_DEVICE", "cuda")
    return plan_serving(adapters=[adapter.folder for adapter in planned.adapters], port=8000)


def test_each_has_a_port_a_log_and_a_gpu(on_gpus: ServingPlan) -> None:
    plans = plan_replicas(on_gpus, 2)
    assert [plan.port for plan in plans] == [8000, 8001]
    assert [plan.log.name for plan in plans] == ["vllm-8000.log", "vllm-8001.log"]
    assert [own_environment(plan)["CUDA_VISIBLE_DEVICES"] for plan in plans] == ["GPU-a", "5"]
    assert {plan.replicas for plan in plans} == {("http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1")}
    assert plan_replicas(on_gpus, 1) == [on_gpus], "one alone takes what CUDA gives it"


@pytest.mark.parametrize(
    ("count", "arguments", "port", "words"),
    [
        (3, (), 8000, "--replicas 3: each takes a GPU, and 2 can be used here"),
        (
            2,
            ("tensor-parallel-size=2",),
            8000,
            "--replicas 2 and --vllm-arg tensor-parallel-size: a replica has one GPU",
        ),
        (2, (), 65_535, "--replicas 2 from port 65535 on end beyond 65535"),
    ],
)
def test_what_cannot_be_is_refused(
    count: int, arguments: Sequence[str], port: int, words: str, on_gpus: ServingPlan
) -> None:
    planned = plan_serving(base_model=on_gpus.base_model, template="chatml", port=port, vllm_args=arguments)
    with pytest.raises(UserError) as caught:
        plan_replicas(planned, count)
    assert caught.value.message == words


def test_on_the_cpu_they_share_its_cores(planned: ServingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = {own_environment(plan)["OMP_NUM_THREADS"] for plan in plan_replicas(planned, 2, any_port=True)}
    assert threads == {"2"}
