"""Both sides of the seam without Ray: what a node makes of orders, and what a lost machine costs a run."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from keepstate.agents.prompts import system_prompt
from keepstate.cli import cli, run
from keepstate.errors import UserError
from keepstate.models.base import ContextOverflow, Model, Reply
from keepstate.models.scripted import ScriptedModel
from keepstate.play.admission import Admission
from keepstate.play.engine import Here, NodeGone, Player, ToPlay
from keepstate.play.jobs import Job, play
from keepstate.play.node import Answered, Begin, Drop, Node, Opened, Setting, Stopped, program
from keepstate.play.tally import Tally
from keepstate.tasks import environment_for, families, make_tasks, use_family
from keepstate.traces.record import DEFAULT_LIMITS, Failure, Trace
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


async def event(node: Node) -> Any:
    (only,) = await node.take()
    return only


async def test_an_episode_is_played_by_asking_and_only_what_is_new_is_sent(node: Node) -> None:
    await node.give([begin()])
    first = await event(node)
    prompt = system_prompt(REACT, environment_for(TASK).tools, tool_calls=TO_PLAY.limits.tool_calls)
    assert [message["content"] for message in first.messages] == [prompt, environment_for(TASK).goal]
    await node.give([Answered(1, Reply(LOOK))])
    second = await event(node)
    assert [message["role"] for message in second.messages] == ["assistant", "user"]
    assert (first.turn, second.turn, first.seed != second.seed) == (0, 1, True)
    await node.give([Answered(1, Reply(FINISH))])
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
    await node.give([begin()])
    await event(node)
    await node.give([Answered(1, told)])
    trace = (await event(node)).trace
    assert trace.finish_reason is reason
    assert not trace.failure or (trace.failure.origin, trace.failure.message) == (Origin.MODEL, "silent")


async def test_a_dropped_episode_is_silent_and_opening_anew_forgets_all(node: Node) -> None:
    await node.give([begin(1), begin(2), begin(3)])
    assert {each.key for each in await node.take()} == {1, 2, 3}
    await node.give([Drop(1), Answered(2, Reply(FINISH))])
    assert [each.key for each in await node.take()] == [2]
    waiting = asyncio.ensure_future(node.take())
    await asyncio.sleep(0)
    await node.open(Setting((), False))
    assert await waiting == [], "who asked before gets nothing of what comes"
    await node.give([Answered(3, Reply(FINISH)), begin(4)])
    assert [each.key for each in await node.take()] == [4]


async def test_what_a_user_can_mend_is_told_and_a_defect_keeps_its_traceback(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(error: Exception) -> Any:
        async def play(_to_play: ToPlay, _model: Model) -> Trace:
            raise error

        return play

    monkeypatch.setattr(node, "_player", raising(UserError("broken", "mend it")))
    await node.give([begin()])
    error = (await event(node)).error()
    assert isinstance(error, UserError)
    assert (error.message, error.hint) == ("broken", "mend it")
    monkeypatch.setattr(node, "_player", raising(ZeroDivisionError("by us")))
    await node.give([begin()])
    error = (await event(node)).error()
    assert isinstance(error, RuntimeError)
    assert "ZeroDivisionError: by us" in str(error)


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
    async def ready(self, rungs: Collection[str], *, allow_unsafe: bool) -> AsyncIterator[Player]:
        async with Here().ready(rungs, allow_unsafe=allow_unsafe) as here:

            async def play(to_play: ToPlay, model: Model) -> Trace:
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


async def no_adapters() -> dict[str, None]:
    return {"base": None}
