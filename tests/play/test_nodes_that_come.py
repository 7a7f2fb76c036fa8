"""Which nodes of a cluster take part, and when: with real nodes' code and Ray's part played by this process."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keepstate.errors import UserError
from keepstate.models.scripted import ScriptedModel
from keepstate.play import cluster as cluster_module
from keepstate.play import node as node_module
from keepstate.play.cluster import Cluster
from keepstate.play.engine import NodeGone, ToPlay
from keepstate.play.node import Node, Opened, Setting
from keepstate.play.sharing import Token
from keepstate.tasks import make_tasks
from keepstate.traces.record import DEFAULT_LIMITS, Trace
from keepstate.traces.writer import Staged, place_trace, stage_trace
from keepstate.vocabulary import RuntimeName

REACT = RuntimeName.REACT
(TASK,) = make_tasks("knapsack", "mini", 1, 0)
TO_PLAY = ToPlay(TASK, REACT, DEFAULT_LIMITS.of(REACT), 0, "auto")
FINISH = 'Thought: on\nAction: [{"tool": "finish", "args": {}}]'


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)


class RayError(Exception):
    """Whatever Ray raises."""


class FakeRay:
    """Nodes that are told, with actors in this process."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.actors: dict[str, Any] = {}
        self.killed: list[Any] = []
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.open: dict[str, Callable[[Setting], Coroutine[Any, Any, Any]]] = {}

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "NodeID": name, "NodeManagerAddress": "here", "Resources": {"CPU": 1.0}}
            for name in self.names
        ]

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def actor(self, identity: str) -> Any:
        node = Node()
        methods = {"open": self.open.get(identity, node.open), "give": node.give, "take": node.take, "rest": node.rest}
        self.actors[identity] = SimpleNamespace(
            **{name: SimpleNamespace(remote=method) for name, method in methods.items()}
        )
        return self.actors[identity]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FakeRay, Cluster]]:
    monkeypatch.setattr(cluster_module, "LOOK_SECONDS", 0.01)

    def make(*names: str, **options: bool) -> tuple[FakeRay, Cluster]:
        ray = FakeRay(*names)
        engine = Cluster(ray, **options)
        monkeypatch.setattr(engine, "_actor", ray.actor)
        return ray, engine

    return make


async def test_one_that_comes_plays_though_another_does_not_answer(here: Any, capsys: Any) -> None:
    ray, engine = here("first")

    async def silent(_: Setting) -> Any:
        await asyncio.sleep(60)

    ray.open["silent"] = silent
    async with engine.ready((), allow_unsafe=False):
        ray.names += ["silent", "late"]
        await until(lambda: "late" in engine._workers)
        assert "silent" not in engine._workers


async def test_one_that_cannot_play_is_told_once_and_tried_again(
    here: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster_module, "REST_SECONDS", 0.02)
    ray, engine = here("first")
    tries: list[Setting] = []

    async def other(setting: Setting) -> Opened:
        tries.append(setting)
        return Opened("keepstate 0" if len(tries) < 3 else cluster_module.program())

    ray.open["late"] = other
    async with engine.ready((), allow_unsafe=False):
        ray.names.append("late")
        await until(lambda: "late" in engine._workers)
    assert len(tries) == 3
    assert capsys.readouterr().err.count("runs keepstate 0") == 1


async def test_at_the_start_all_must_be_able_and_there_must_be_one(here: Any) -> None:
    ray, engine = here("first", "second")

    async def dead(_: Setting) -> Any:
        raise RayError("No module named 'keepstate'")

    ray.open["second"] = dead
    with pytest.raises(UserError, match=r"second.* cannot play: No module named 'keepstate'"):
        async with engine.ready((), allow_unsafe=False):
            pass
    _, empty = here()
    with pytest.raises(UserError, match="no node with a CPU"):
        async with empty.ready((), allow_unsafe=False):
            pass


async def test_one_that_does_not_share_the_folders_is_left_out_if_others_do(
    here: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ray, engine = here("first", "second", nodes_write=True)

    async def apart(setting: Setting) -> Any:
        (token,) = setting.shared
        return await Node().open(replace(setting, shared=(Token(Path("/elsewhere"), token.word),)))

    async def beside(setting: Setting) -> Any:
        opened = await Node().open(setting)
        assert isinstance(opened, Opened)
        return Opened(opened.program, "0" * 16)  # its answer is not where this machine looks

    ray.open["second"] = apart
    folder = tmp_path / "cell"
    async with engine.ready((), allow_unsafe=False, folders=[folder]) as play:
        assert [*engine._workers] == ["first"]
        staged = await play(replace(TO_PLAY, folder=folder), ScriptedModel([FINISH]))
        assert isinstance(staged, Staged)
        place_trace(folder, staged)
    said = capsys.readouterr().err
    assert said.count("is not that of the machine where the command was typed; it takes no part") == 1
    assert {path.name for path in folder.iterdir()} == {f"{TASK.name}.json", f"{TASK.name}.trace.json"}
    ray, engine = here("first", nodes_write=True)
    ray.open["first"] = beside
    with pytest.raises(UserError, match=r"first.* does not come to the machine"):
        async with engine.ready((), allow_unsafe=False, folders=[folder]):
            pass


async def test_one_that_dies_while_a_run_starts_is_left_out(here: Any) -> None:
    ray, engine = here("first", "second")

    async def dead(_: Setting) -> Any:
        ray.names.remove("second")
        raise RayError("its node has died")

    ray.open["second"] = dead
    async with engine.ready((), allow_unsafe=False) as play:
        assert [*engine._workers] == ["first"]
        assert (await play(TO_PLAY, ScriptedModel([FINISH]))).verdict is not None


async def test_without_any_node_a_run_waits_and_then_ends(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "WAIT_SECONDS", 0.05)
    ray, engine = here("only")
    async with engine.ready((), allow_unsafe=False) as play:
        trace = await play(TO_PLAY, ScriptedModel([FINISH]))
        assert trace.verdict is not None

        class Dying(ScriptedModel):
            async def reply(self, *_: Any, **__: Any) -> Any:
                ray.names.clear()
                ray.actors["only"].take.remote = ray.actors["only"].give.remote = gone
                await asyncio.sleep(60)

        async def gone(*_: Any) -> None:
            raise RayError("it died")

        worker = engine._workers["only"]
        playing = asyncio.ensure_future(play(TO_PLAY, Dying([FINISH])))
        other = asyncio.ensure_future(play(TO_PLAY, Dying([FINISH])))
        await until(lambda: len(worker.open) == 2 and not ray.names)
        await until(lambda: bool(worker.orders.put(cluster_module.Drop(-1)) or worker.gone))  # met by what is sent
        told = []
        for each in (playing, other):
            with pytest.raises(NodeGone) as lost:
                await each
            told.append(lost.value.message)
        assert told[0].endswith("is gone: it died")
        assert told[1] == "", "it is told once"
        with pytest.raises(UserError, match="no node of the Ray cluster is left"):
            await play(TO_PLAY, ScriptedModel([FINISH]))


async def test_what_a_node_is_just_writing_when_a_run_ends_does_not_stay(
    here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, over = threading.Event(), threading.Event(), threading.Event()

    def slow(folder: Path, trace: Trace, mark: str) -> None:
        begun.set()
        assert go.wait(60)
        stage_trace(folder, trace, mark)
        over.set()

    monkeypatch.setattr(node_module, "stage_trace", slow)
    _, engine = here("first", nodes_write=True)
    async with engine.ready((), allow_unsafe=False, folders=[tmp_path]) as player:
        model = ScriptedModel([FINISH])
        playing = asyncio.ensure_future(player(replace(TO_PLAY, folder=tmp_path), model))
        await until(begun.is_set)
        playing.cancel()  # as Ctrl-C does
        asyncio.get_running_loop().call_later(0.1, go.set)
    await until(over.is_set)
    assert not os.listdir(tmp_path)
