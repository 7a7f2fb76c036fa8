"""Both sides of the seam without Ray: what a node makes of orders, and what a lost machine costs a run."""

import asyncio
import resource
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keepstate.agents.prompts import system_prompt
from keepstate.cli import cli, run
from keepstate.errors import UserError
from keepstate.models.base import ContextOverflow, Model, Reply
from keepstate.models.scripted import ScriptedModel
from keepstate.play import jobs
from keepstate.play.admission import Admission
from keepstate.play.engine import Here, NodeGone, Player, ToPlay
from keepstate.play.jobs import Job, play
from keepstate.play.node import (
    Answered,
    Begin,
    Drop,
    Node,
    Opened,
    Order,
    Setting,
    Stopped,
    Unshared,
    packed,
    program,
    unpacked,
)
from keepstate.play.sharing import Token, look_for, offered
from keepstate.play.tally import Tally
from keepstate.staging import clear_staged
from keepstate.tasks import environment_for, families, make_tasks, use_family
from keepstate.traces.reader import load_trace
from keepstate.traces.record import DEFAULT_LIMITS, Failure, Trace
from keepstate.traces.writer import Staged, place_trace, trace_path, write_trace
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

REACT = RuntimeName.REACT
(TASK,) = make_tasks("knapsack", "mini", 1, 0)
TO_PLAY = ToPlay(TASK, REACT, DEFAULT_LIMITS.of(REACT), 0, "auto")
LOOK = 'Thought: on\nAction: [{"tool": "list_items", "args": {}}]'
FINISH = 'Thought: on\nAction: [{"tool": "finish", "args": {}}]'


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    assert await node.open(Setting((), False)) == Opened(program())
    yield node
    await node.close()


def begin(key: int = 1) -> Begin:
    return Begin(key, TO_PLAY, "model", None, None)


async def give(node: Node, orders: Sequence[Order]) -> None:
    await node.give(packed(orders))


async def take(node: Node) -> Any:
    return unpacked(await node.take())


async def event(node: Node) -> Any:
    (only,) = await take(node)
    return only


async def test_an_episode_is_played_by_asking_and_only_what_is_new_is_sent(node: Node) -> None:
    await give(node, [begin()])
    first = await event(node)
    prompt = system_prompt(REACT, environment_for(TASK).tools, tool_calls=TO_PLAY.limits.tool_calls)
    assert [message["content"] for message in first.messages] == [prompt, environment_for(TASK).goal]
    await give(node, [Answered(1, Reply(LOOK))])
    second = await event(node)
    assert [message["role"] for message in second.messages] == ["assistant", "user"]
    assert (first.turn, second.turn, first.seed != second.seed) == (0, 1, True)
    await give(node, [Answered(1, Reply(FINISH))])
    played = await event(node)
    assert played.trace.model == "model"
    assert played.trace.finish_reason is FinishReason.FINISHED


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (ContextOverflow("too long"), FinishReason.CONTEXT_LIMIT),
        (Failure(origin=Origin.MODEL, message="silent"), FinishReason.FAILED),
    ],
)
async def test_what_a_model_could_not_answer_ends_the_episode_as_at_home(
    node: Node, told: Any, reason: FinishReason
) -> None:
    await give(node, [begin()])
    await event(node)
    await give(node, [Answered(1, told)])
    trace = (await event(node)).trace
    assert trace.finish_reason is reason
    assert not trace.failure or (trace.failure.origin, trace.failure.message) == (Origin.MODEL, "silent")


async def test_a_dropped_episode_is_silent_and_opening_anew_forgets_all(node: Node) -> None:
    await give(node, [begin(1), begin(2), begin(3)])
    assert {each.key for each in await take(node)} == {1, 2, 3}
    await give(node, [Drop(1), Answered(2, Reply(FINISH))])
    assert [each.key for each in await take(node)] == [2]
    waiting = asyncio.ensure_future(take(node))
    await asyncio.sleep(0)
    await node.open(Setting((), False))
    assert await waiting == [], "who asked before gets nothing of what comes"
    await give(node, [Answered(3, Reply(FINISH)), begin(4)])
    assert [each.key for each in await take(node)] == [4]


async def test_what_a_user_can_mend_is_told_and_a_defect_keeps_its_traceback(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: Exception) -> Any:
        async def play(_to_play: ToPlay, _model: Model) -> Trace:
            raise error

        return play

    monkeypatch.setattr(node, "_player", raising(UserError("broken", "mend it")))
    await give(node, [begin()])
    error = (await event(node)).error()
    assert isinstance(error, UserError)
    assert (error.message, error.hint) == ("broken", "mend it")
    monkeypatch.setattr(node, "_player", raising(ZeroDivisionError("by us")))
    await give(node, [begin()])
    error = (await event(node)).error()
    assert isinstance(error, RuntimeError)
    assert "ZeroDivisionError: by us" in str(error)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def played_into(folder: Path, node: Node) -> Any:
    await give(node, [replace(begin(), episode=replace(TO_PLAY, folder=folder))])
    await event(node)
    await give(node, [Answered(1, Reply(FINISH))])
    return await event(node)


async def test_a_node_that_writes_sends_what_is_counted_and_nothing_is_in_its_place_before_it_is_put_there(
    node: Node, tmp_path: Path
) -> None:
    played = await played_into(tmp_path, node)
    assert isinstance(played.trace, Staged)
    assert [name.startswith(".") for name in contents(tmp_path)] == [True, True]
    place_trace(tmp_path, played.trace)
    written = contents(tmp_path)
    trace = load_trace(trace_path(tmp_path, TASK.name))
    assert (trace.summary, trace.verdict) == (played.trace.summary, played.trace.verdict)
    write_trace(tmp_path, trace)
    assert contents(tmp_path) == written
    with pytest.raises(UserError, match="is gone, which a node wrote"):
        place_trace(tmp_path, played.trace)
    assert load_trace(trace_path(tmp_path, TASK.name)) == trace, "what was there is no less there"


async def test_of_staged_episodes_that_are_placed_together_one_that_is_gone_takes_no_other_with_it(
    node: Node, tmp_path: Path
) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    batch = list[tuple[Any, Staged]]()
    for folder in (kept, gone):
        folder.mkdir()
        played = await played_into(folder, node)
        batch.append((SimpleNamespace(tally=SimpleNamespace(folder=folder), record=None), played.trace))
    for path in gone.iterdir():
        path.unlink()
    first, second = jobs._written(batch)
    assert first is None
    assert "is gone, which a node wrote" in str(second)
    assert load_trace(trace_path(kept, TASK.name)).verdict == batch[0][1].verdict


async def test_what_a_node_cannot_write_it_sends(node: Node, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        played = await played_into(tmp_path, node)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(played.trace, Trace)
    assert "File too large" in played.unwritten
    assert not contents(tmp_path), "no part of it stays"
    unmounted = await played_into(tmp_path / "unmounted", node)
    assert "No such file" in unmounted.unwritten
    assert not (tmp_path / "unmounted").exists()


async def test_a_failure_of_ours_is_sent_as_it_may_be_tried_again(node: Node, tmp_path: Path) -> None:
    await give(node, [replace(begin(), episode=replace(TO_PLAY, folder=tmp_path))])
    await event(node)
    await give(node, [Answered(1, Failure(origin=Origin.MODEL, message="silent"))])
    assert isinstance((await event(node)).trace, Trace)
    assert not contents(tmp_path)


async def test_a_node_shows_that_it_has_the_very_folder(tmp_path: Path) -> None:
    folder, left = tmp_path / "run" / "cell", tmp_path / "run" / "cell" / ".t.trace.json.0a.keepstate.tmp"
    folder.mkdir(parents=True)
    left.touch()
    with offered([folder]) as tokens:
        assert not left.exists(), "nobody knows of it any more"
        node = Node()
        opened = await node.open(Setting((), False, (), tokens))
        assert isinstance(opened, Opened)
        look_for(tokens, opened.mark)
        with pytest.raises(UserError, match="does not come to the machine"):
            look_for(tokens, opened.mark)  # as if it had written elsewhere
        await node.close()
        (token,) = tokens
        for other in (Token(tmp_path / "unmounted" / token.path.name, token.word), Token(token.path, "another")):
            unshared = await Node().open(Setting((), False, (), (other,)))
            assert isinstance(unshared, Unshared)
            assert str(other.path.parent) in unshared.message
            assert "--writer nodes" in unshared.hint
        left.touch()
    assert not contents(folder)


def test_a_token_is_no_orphan_while_it_is_held(tmp_path: Path) -> None:
    with offered([tmp_path]) as tokens:
        clear_staged(tmp_path)
        assert tokens[0].path.read_text() == tokens[0].word


FAMILY = """
from keepstate.tasks import Environment, Family, Instance, Verdict, tool

class Play(Environment):
    goal = "finish"

    @tool
    def finish(self) -> None:
        "End."
        self.finished = True

    def verdict(self) -> Verdict:
        return Verdict(is_solved=self.finished, score=float(self.finished))

class Mine(Family):
    difficulties = {"mini": {}}
    environment = Play

    def sample(self, dice, parameters, rules):
        return Instance(public={"n": dice.integer(0, 9)}, private={}, reference={})
"""


@pytest.mark.usefixtures("no_family_named")
async def test_a_users_family_must_be_on_the_node_as_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine_on_nodes.py"
    path.write_text(FAMILY)
    use_family(str(path))
    ((named, source),) = families.named_families()
    assert named == str(path)
    monkeypatch.setattr(families, "_NAMED", {})
    node = Node()
    assert isinstance(await node.open(Setting((), False, ((named, source),))), Opened)
    assert families.family("mine_on_nodes").source == source
    stopped = await Node().open(Setting((), False, ((named, source.replace("sha256:", "sha256:0")),)))
    assert isinstance(stopped, Stopped)
    assert "where the command was typed" in stopped.message
    gone = await Node().open(Setting((), False, ((str(tmp_path / "gone.py"), source),)))
    assert isinstance(gone, Stopped)
    assert "no family file" in gone.message


async def test_an_isolation_that_a_node_has_not_is_refused_there() -> None:
    stopped = await Node().open(Setting(("process",), False))
    assert isinstance(stopped, Stopped)
    assert "no sandbox" in stopped.message


class Losing:
    """An engine whose machines are lost with the first so many episodes."""

    def __init__(self, lost: int) -> None:
        self.left = lost

    @asynccontextmanager
    async def ready(
        self, rungs: Collection[str], *, allow_unsafe: bool, folders: Collection[Path] = ()
    ) -> AsyncIterator[Player]:
        async with Here().ready(rungs, allow_unsafe=allow_unsafe) as here:

            async def play(to_play: ToPlay, model: Model) -> Trace | Staged:
                self.left -= 1
                if self.left >= 0:
                    raise NodeGone("it burnt" if self.left == 2 else "")
                return await here(to_play, model)

            yield play


async def test_lost_episodes_are_played_again_however_often_and_told_once(tmp_path: Path) -> None:
    tally = Tally("react", tmp_path, 3)
    jobs = [
        Job(tally, task, REACT, lambda _: ScriptedModel([FINISH]), DEFAULT_LIMITS.of(REACT), 0, "auto")
        for task in make_tasks("knapsack", "mini", 3, 0)
    ]

    async def over(_: Job) -> None:
        return

    await play([(Admission(2), jobs)], engine=Losing(10), on_over=over)
    assert (tally.played, tally.failures.total(), tally.open, tally.lost) == (3, 0, 0, ["it burnt"])


def test_without_ray_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    words = ["bench", "matrix", "--difficulty", "mini", "--base-url", "http://127.0.0.1:9/v1", "--adapter", "base"]
    monkeypatch.setattr("keepstate.bench.served.served_adapters", lambda *_: no_adapters())
    assert run(cli, [*words, "--engine", "ray"]) == 2
    assert "keepstate setup ray" in capsys.readouterr().err
    assert run(cli, [*words, "--address", "auto"]) == 2
    assert "--address belongs to --engine ray" in capsys.readouterr().err
    assert run(cli, [*words, "--writer", "nodes"]) == 2
    assert "--writer nodes belongs to --engine ray" in capsys.readouterr().err


async def no_adapters() -> dict[str, None]:
    return {"base": None}
