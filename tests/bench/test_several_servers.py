"""Several servers alike: an episode stays on its own, all take part by their room, and one that dies costs no score."""

import asyncio
import json
import os
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from stub_server import StubServer, look_then_finish, serving

from keepstate.bench import BenchmarkConfig, TaskSource
from keepstate.bench.run import bench
from keepstate.bench.served import Watch, ask_who_answers, pools_of
from keepstate.errors import UserError
from keepstate.models import server as server_module
from keepstate.models.base import Sampling, ServerGone
from keepstate.play import admission as admission_module
from keepstate.play.admission import Admission
from keepstate.play.collect import CollectPlan
from keepstate.play.served_teacher import ServedTeacher
from keepstate.play.tally import TallyDisplay
from keepstate.serve import loaded as loaded_module
from keepstate.serve.loaded import AdapterContent, noted
from keepstate.traces import read_trace
from keepstate.vocabulary import RuntimeName


async def test_each_episode_gets_the_emptiest_server_and_no_cache_is_overfilled() -> None:
    admission = Admission(64, {"large": 60_000, "small": 30_000}, 20_000)
    open_now: dict[str, list[int]] = defaultdict(list)
    most: Counter[str] = Counter()

    async def episode() -> None:
        async with admission.seat("a") as seat:
            tokens = open_now[seat.server]
            place = len(tokens)
            tokens.append(0)
            for size in (1_000, 2_000, 3_000):
                tokens[place] = 0  # while it waits the cache may drop it
                await admission.turn(seat)
                tokens[place] = size
                admission.grown(seat, size)
                most[seat.server] = max(most[seat.server], sum(tokens))
                await asyncio.sleep(0)
            tokens[place] = 0

    await asyncio.gather(*(episode() for _ in range(80)))
    assert 2 * len(open_now["small"]) < 1.3 * len(open_now["large"]) < 3.4 * len(open_now["small"])
    assert 20_000 < most["small"] <= 30_000
    assert 40_000 < most["large"] <= 60_000


async def test_concurrency_is_that_of_each_server() -> None:
    admission = Admission(2, {"one": None, "two": None})
    async with AsyncExitStack() as stack:
        seats = [await stack.enter_async_context(admission.seat("a")) for _ in range(4)]
        assert Counter(seat.server for seat in seats) == {"one": 2, "two": 2}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), admission.seat("a"):
                pass


async def test_one_that_left_gets_no_episode_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "LOOK_SECONDS", 0.0)
    admission, back = Admission(9, {"one": None, "two": None}), [False]

    async def is_back() -> bool:
        return back[0]

    gone = ServerGone("one is gone", "start it", is_back)
    assert admission.leave("one", gone)
    assert not admission.leave("one", gone), "it is said once"

    async def seats() -> set[str]:
        await admission.look_again()
        async with admission.seat("a") as a, admission.seat("a") as b:
            return {a.server, b.server}

    assert await seats() == {"two"}
    back[0] = True
    assert await seats() == {"one", "two"}
    admission.leave("one", gone)
    with pytest.raises(ServerGone):
        admission.leave("two", gone)


@pytest.fixture
def stubs() -> Iterator[list[StubServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serving(StubServer(pool=(1_000, 16)))) for _ in range(2)]


def cell(stubs: list[StubServer], **changes: Any) -> BenchmarkConfig:
    values = {"name": "cell", "adapter": "base", "runtime": "react", "concurrency": 2}
    values |= {"base_url": ",".join(stub.url for stub in stubs), "tasks": TaskSource(difficulty="mini", count=12)}
    return BenchmarkConfig.model_validate(values | changes)


def seeds(stub: StubServer) -> set[int]:
    """Of first turns."""
    return {request["seed"] for request in stub.seen if len(request["messages"]) == 2}


async def test_an_episode_stays_on_its_server(stubs: list[StubServer], tmp_path: Path) -> None:
    for stub in stubs:
        stub.rule = lambda request, url=stub.url: look_then_finish(request).replace("Thought: on", f"Thought: {url}")  # type: ignore[misc]
    (tally,) = await bench([cell(stubs)], tmp_path)
    assert (tally.played, tally.failures.total()) == (12, 0)
    for stub in stubs:
        second = [request["messages"][2]["content"] for request in stub.seen if len(request["messages"]) > 2]
        assert len(second) >= 4
        assert all(stub.url in said for said in second)
    (tally,) = await bench([cell(stubs[:1])], tmp_path)
    assert tally.kept == 12, "where it was played decides nothing"


async def test_one_that_dies_is_said_and_costs_no_score(
    stubs: list[StubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(server_module, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(admission_module, "LOOK_SECONDS", 0.0)
    dying, other = stubs

    def rule(request: dict[str, Any]) -> str:
        if len(dying.seen) == 3:
            dying.gone = True
        return look_then_finish(request)

    left = threading.Event()

    def wait(request: dict[str, Any]) -> str:
        if len(other.seen) > 4:
            left.wait(20)
        return look_then_finish(request)

    def leave(admission: Admission, server: str, gone: ServerGone) -> bool:
        dying.gone = False  # from now on it would answer again
        left.set()
        return leaves(admission, server, gone)

    leaves = Admission.leave
    monkeypatch.setattr(Admission, "leave", leave)
    dying.rule, other.rule = rule, wait
    with TallyDisplay(Console(file=StringIO())) as shown:
        (tally,) = await bench([cell(stubs)], tmp_path, on_progress=shown)
    assert (tally.played, tally.failures.total()) == (12, 0)
    assert capsys.readouterr().err.count(f"the server at {dying.url} no longer answers") == 1
    assert len(dying.seen) > 3, "it takes part again"
    for path in (tmp_path / "cell").glob("*.trace.json"):
        assert read_trace(path).failure is None


async def test_the_last_one_ends_the_run(
    stubs: list[StubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(server_module, "LONGEST_PAUSE", 0.001)

    def rule(_: dict[str, Any]) -> str:
        for stub in stubs:
            stub.gone = True
        return "no"

    stubs[0].rule = stubs[1].rule = rule
    with pytest.raises(UserError, match=r"no longer answers|gives no answers"):
        await bench([cell(stubs)], tmp_path)


async def test_servers_that_are_not_alike_are_refused(stubs: list[StubServer], tmp_path: Path) -> None:
    stubs[1].models = ("base", "persistent")
    with pytest.raises(UserError, match="does not serve 'react'"):
        await bench([cell(stubs, adapter="react")], tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").write_bytes(b"one")
    monkeyed = stubs[1].card
    stubs[1].card = lambda name: monkeyed(name) | {"root": str(tmp_path / "adapter")}  # type: ignore[method-assign]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/adapter_model.safetensors").write_bytes(b"two")
    stubs[0].card = lambda name: monkeyed(name) | {"root": str(tmp_path / "other")}  # type: ignore[method-assign]
    with pytest.raises(UserError, match="do not answer alike as 'persistent': the adapter's weights, ") as caught:
        await bench([cell(stubs, adapter="persistent")], tmp_path)
    assert stubs[0].url in caught.value.message


def note(stub: StubServer, weights: str, *arguments: str) -> AbstractContextManager[None]:
    """As `keepstate serve` notes it."""
    content = AdapterContent(folder=Path("/nowhere"), weights=weights, config={"r": 8})
    port = int(stub.url.split(":")[2].split("/")[0])
    planned: Any = SimpleNamespace(vllm_arguments=arguments, kernels=None, replicas=())
    return noted(port, os.getpid(), {"name": "b"}, {"react": content}, "t", planned)


@pytest.mark.parametrize(("later", "told"), [("other", "the adapter's weights differ"), (None, "was ended")])
async def test_answers_of_a_server_that_loads_something_else_meanwhile_are_not_believed(
    stubs: list[StubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: str | None, told: str
) -> None:
    monkeypatch.setattr(loaded_module, "NOTES", tmp_path)
    stub = stubs[0]

    def rule(request: dict[str, Any]) -> str:
        if len(stub.seen) == 8:
            now.close()
            if later:
                now.enter_context(note(stub, later))
        return look_then_finish(request)

    stub.rule = rule
    with ExitStack() as now:
        now.enter_context(note(stub, "first"))
        with pytest.raises(UserError, match=told):
            await bench([cell([stub], adapter="react", concurrency=1)], tmp_path / "run")
    assert len(list((tmp_path / "run/cell").glob("*.trace.json"))) == 3


async def test_another_cache_makes_another_cell(
    stubs: list[StubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_module, "NOTES", tmp_path)
    narrow = ("--kv-cache-dtype", "fp8")
    with note(stubs[0], "w", "--max-num-seqs", "8"):
        await bench([cell([stubs[0]], adapter="react")], tmp_path / "run")
        watch = Watch({"kv_cache": "as-model"}, stubs[0].url, "react")
    told = json.loads((tmp_path / "run/cell/cell.json").read_text())
    assert told["config"]["kv_cache"] == "as-model"
    assert told["server"]["vllm_arguments"] == ["--max-num-seqs", "8"]
    with note(stubs[0], "w", *narrow):
        with pytest.raises(UserError, match="kv_cache: as-model -> fp8"):
            await bench([cell([stubs[0]], adapter="react")], tmp_path / "run")
        with pytest.raises(UserError, match="the key-value cache differ"):
            watch()


async def test_a_teacher_may_stand_on_several_servers(stubs: list[StubServer], tmp_path: Path) -> None:
    tasks = TaskSource(difficulty="mini", count=8).load()

    def nobody(*_: object) -> Any:
        raise AssertionError

    plan = CollectPlan(tasks, (RuntimeName.REACT,), nobody, tmp_path, concurrency=1)
    teacher = ServedTeacher([stub.url for stub in stubs], "base", Sampling(), cache=tmp_path / "answers.sqlite")
    await teacher.collect(plan)
    assert sum(len(stub.seen) for stub in stubs) == 16
    assert min(len(seeds(stub)) for stub in stubs) >= 1
    asked = sum(len(stub.seen) for stub in stubs)
    again = ServedTeacher([stubs[0].url, stubs[1].url], "base", Sampling(), cache=tmp_path / "answers.sqlite")
    await again.collect(CollectPlan(tasks, (RuntimeName.REACT,), nobody, tmp_path / "again", concurrency=1))
    assert sum(len(stub.seen) for stub in stubs) == asked, "an answer of either is kept for both"


@pytest.mark.parametrize(("pool", "bounded"), [(None, False), ((75, 16), True)])
async def test_a_teachers_episodes_are_let_in_as_its_cache_has_room(
    stubs: list[StubServer], tmp_path: Path, pool: tuple[int, int] | None, bounded: bool
) -> None:
    stub, lock, now, most = stubs[0], threading.Lock(), 0, 0
    stub.pool = pool

    def rule(request: dict[str, Any]) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1
        return look_then_finish(request)

    stub.rule = rule
    teacher = ServedTeacher([stub.url], "base", Sampling())
    teacher.pools = pools_of(await ask_who_answers([stub.url]), "base")
    tasks = TaskSource(difficulty="mini", count=8).load()
    await teacher.collect(CollectPlan(tasks, (RuntimeName.REACT,), lambda *_: None, tmp_path, concurrency=8))  # type: ignore[arg-type,return-value]
    assert (most <= 4) is bounded


async def test_a_teachers_answers_of_something_else_are_not_kept(
    stubs: list[StubServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_module, "NOTES", tmp_path)
    tasks, cache = TaskSource(difficulty="mini", count=2).load(), tmp_path / "answers.sqlite"
    plan = CollectPlan(tasks, (RuntimeName.REACT,), lambda *_: None, tmp_path / "out", concurrency=1)  # type: ignore[arg-type,return-value]
    with note(stubs[0], "first"):
        teacher = ServedTeacher([stubs[0].url], "react", Sampling(), cache=cache)
        teacher.watch = partial(Watch, {"weights": "first"}, name="react")
        with note(stubs[0], "other"), pytest.raises(UserError, match="the adapter's weights differ"):
            await teacher.collect(plan)
    assert sqlite3.connect(cache).execute("SELECT count(*) FROM answers").fetchone() == (0,)
