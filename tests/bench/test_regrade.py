"""Grading anew after a family changed: kept, regraded or owed, by digest; old verdicts stay."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstate import eventloop
from keepstate.bench import BenchmarkConfig, TaskSource
from keepstate.bench import regrade as module
from keepstate.bench.cells import Cell, make_cell
from keepstate.bench.regrade import REGRADED_FILE, FolderRegrade, regrade
from keepstate.bench.replay import Contract, replay
from keepstate.bench.results import read_results
from keepstate.bench.run import play_cells
from keepstate.cli import cli
from keepstate.errors import UserError
from keepstate.models.scripted import ScriptedModel
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.collect import CollectPlan, collect
from keepstate.resume import OtherWork
from keepstate.tasks import families, make_tasks, use_family
from keepstate.tasks.base import Task
from keepstate.traces import read_trace
from keepstate.traces.check import check_folders
from keepstate.vocabulary import RuntimeName

SOURCE = '''
from keepstate.tasks import Environment, Family, Instance, Verdict, tool

class Play(Environment):
    def __init__(self, task):
        super().__init__(task)
        self.goal = "Say the word."
        self.said = []

    @tool
    def say(self, word: str) -> str:
        """Say a word."""
        self.said.append(word)
        return word.upper()

    @tool
    def finish(self) -> None:
        """End."""
        self.finished = True

    def verdict(self):
        right = "a" in self.said
        return Verdict(is_solved=right, score=1.0 if right else 0.0)

class Words(Family):
    difficulties = {"short": {}}
    environment = Play
    policies = {"blind": "says nothing", "oracle": "says it"}

    def sample(self, dice, parameters, rules):
        return Instance(public={}, private={"number": dice.randint(0, 10**9)})

    def reference_scores(self, task):
        return {"blind": 0.0, "oracle": 1.0}
'''
HALF = ("score=1.0 if", "score=0.5 if")
COMMENT = ("class Play", "# A comment.\nclass Play")
LOUDER = ("word.upper()", "word.upper() + '!'")
OTHER_GOAL = ("Say the word.", "Say a word.")


pytestmark = pytest.mark.usefixtures("no_family_named")


@pytest.fixture
def version(tmp_path: Path) -> Callable[..., Path]:
    """Make the family with some texts replaced the one that is at hand."""

    def use(*changes: tuple[str, str]) -> Path:
        text = SOURCE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"family{len(list(tmp_path.glob('family*')))}" / "words.py"
        path.parent.mkdir()
        path.write_text(text)
        families._NAMED.clear()
        use_family(str(path))
        return path

    return use


def player(_: Cell, task: Task) -> ScriptedModel:
    """Every third episode says the wrong word."""
    word = "b" if task.name.endswith(("0", "3")) else "a"
    calls = [{"tool": "say", "args": {"word": word}}, {"tool": "finish"}]
    return ScriptedModel([f"Thought: say it\nAction: {json.dumps(calls)}"], "base")


def cell_in(run: Path) -> Cell:
    tasks = TaskSource(difficulty="short", family="words", count=4)
    told = {"name": "cell", "adapter": "base", "runtime": "react", "tasks": tasks}
    return make_cell(BenchmarkConfig.model_validate(told), run)


async def played(run: Path) -> Path:
    cell = cell_in(run)
    [tally] = await play_cells([cell], player=player)
    assert tally.played == 4
    return cell.folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def counts(found: FolderRegrade) -> tuple[int, int, int, int]:
    return len(found.same_digest), len(found.same_verdict), len(found.regraded), len(found.owed)


async def test_episodes_are_kept_or_regraded_by_digest_and_old_verdicts_stay(
    tmp_path: Path, version: Callable[..., Path]
) -> None:
    version()
    folder = await played(tmp_path / "run")
    before = files(folder)
    assert [counts(found) for found in await regrade(tmp_path / "run")] == [(4, 0, 0, 0)]
    assert files(folder) == before
    version(HALF)
    [found] = await regrade(tmp_path / "run")
    assert counts(found) == (0, 2, 2, 0)
    after = files(folder)
    scores = {episode.task: episode.score for episode in read_results(folder)[0].episodes}
    assert sorted(scores.values()) == [0, 0, 0.5, 0.5]
    assert check_folders([folder]).good, "verdict files are those of the traces"
    kept = json.loads(after[REGRADED_FILE])["episodes"]
    assert [(each["before"]["score"], each["after"]["score"]) for each in kept] == [(1, 0.5)] * 2
    assert {each["family_before"] for each in kept} != {each["family_after"] for each in kept}
    same = [name for name in before if name.removesuffix(".json").removesuffix(".trace") in found.same_verdict]
    assert len(same) == 4
    assert {name: after[name] for name in same} == {name: before[name] for name in same}, "written where it changed"
    [again] = await regrade(tmp_path / "run")
    assert counts(again) == (2, 2, 0, 0)
    assert files(folder) == after


async def test_a_regraded_cell_goes_on_and_is_summed_up_anew(tmp_path: Path, version: Callable[..., Path]) -> None:
    version()
    folder = await played(tmp_path)
    version(HALF, ('"oracle": 1.0', '"oracle": 0.5'))
    assert cell_in(tmp_path).changes(), "another grading, so another cell"
    await regrade(tmp_path)
    [tally] = await play_cells([cell_in(tmp_path)], player=player)
    assert (tally.kept, tally.played) == (4, 0)
    cell = read_results(folder)[0]
    assert {scores["oracle"] for scores in cell.references.values()} == {0.5}
    assert any("replaced ones are in regraded.json" in remark for remark in cell.remarks)
    summary = json.loads((folder / "summary_react-words.json").read_text())
    assert summary["average_score"] == 0.25


async def test_a_change_that_changes_no_verdict_renews_the_cell_alone(
    tmp_path: Path, version: Callable[..., Path]
) -> None:
    version()
    folder = await played(tmp_path)
    before = files(folder)
    version(COMMENT)
    assert [counts(found) for found in await regrade(tmp_path)] == [(0, 4, 0, 0)]
    assert not cell_in(tmp_path).changes()
    changed = {name for name, content in files(folder).items() if before.get(name) != content}
    assert changed == {"cell.json"}


@pytest.mark.parametrize(
    ("change", "why"), [(LOUDER, "turn 0: say does not give back what it gave"), (OTHER_GOAL, "told in other words")]
)
async def test_where_more_than_the_grading_changed_an_episode_is_owed_and_nothing_is_written(
    tmp_path: Path, version: Callable[..., Path], change: tuple[str, str], why: str
) -> None:
    version()
    folder = await played(tmp_path / "run")
    before = files(folder)
    version(HALF, change)
    [found] = await regrade(tmp_path / "run")
    assert counts(found) == (0, 0, 0, 4)
    assert why in next(iter(found.owed.values()))
    assert files(folder) == before
    [again] = await replay([tmp_path / "run"], Contract())
    assert (again.other_family, again.different) == (4, 4)


async def test_one_that_is_owed_keeps_a_whole_folder_at_its_grading(
    tmp_path: Path, version: Callable[..., Path]
) -> None:
    version()
    folder = await played(tmp_path)
    before = files(folder)
    version(HALF, ("return word.upper()", "return word.upper() if word == 'a' else word"))
    [found] = await regrade(tmp_path)
    assert counts(found) == (0, 0, 2, 2)
    assert not found.written
    assert files(folder) == before
    assert any("nothing is written" in line for line in found.lines())


async def test_what_is_owed_is_put_aside_whole_and_played_alone(tmp_path: Path, version: Callable[..., Path]) -> None:
    version()
    run, owed = tmp_path / "run", tmp_path / "owed"
    folder = await played(run)
    before = files(folder)
    version(HALF, ("return word.upper()", "return word.upper() if word == 'a' else word"))
    with pytest.raises(UserError, match="where it would count as results"):
        await regrade(run, owed_to=run / "owed")
    assert files(folder) == before
    [found] = await regrade(run, owed_to=owed)
    assert counts(found) == (0, 0, 2, 2)
    put = files(owed / "cell")
    assert len(put) == 4
    assert put == {name: before[name] for name in put}
    assert not put.keys() & files(folder).keys()
    assert any("plays them alone" in line for line in found.lines())
    [tally] = await play_cells([cell_in(run)], player=player)
    assert (tally.kept, tally.played) == (2, 2)
    assert {episode.task for episode in read_results(folder)[0].episodes} == {
        path.stem for path in folder.glob("words-*[0-9].json")
    }
    assert [counts(each) for each in await regrade(run)] == [(4, 0, 0, 0)]


async def test_what_lies_where_the_owed_go_is_not_replaced(tmp_path: Path, version: Callable[..., Path]) -> None:
    version()
    folder = await played(tmp_path / "run")
    before = files(folder)
    version(LOUDER)
    taken = tmp_path / "owed" / "cell" / next(name for name in before if name.endswith(".trace.json"))
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    with pytest.raises(UserError, match="is there already, of another episode"):
        await regrade(tmp_path / "run", owed_to=tmp_path / "owed")
    assert taken.read_text() == "mine"
    assert taken.name in files(folder)


async def test_a_family_that_is_not_at_hand_is_named(tmp_path: Path, version: Callable[..., Path]) -> None:
    version()
    folder = await played(tmp_path)
    before = files(folder)
    families._NAMED.clear()
    [found] = await regrade(tmp_path)
    assert len(found.unknown) == 4
    assert "--family my_tasks.py" in next(iter(found.unknown.values()))
    assert files(folder) == before


async def test_a_kill_between_two_writes_loses_nothing(
    tmp_path: Path, version: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    version()
    folder = await played(tmp_path)
    version(HALF)
    real, written = module.write_trace, []

    def killed(*arguments: object) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(real(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_trace", killed)
    with pytest.raises(KeyboardInterrupt):
        await regrade(tmp_path)
    monkeypatch.setattr(module, "write_trace", real)
    [found] = await regrade(tmp_path)
    assert counts(found) == (1, 2, 1, 0)
    kept = json.loads((folder / REGRADED_FILE).read_text())["episodes"]
    assert sorted(each["before"]["score"] for each in kept) == [1, 1], "each old verdict once"
    assert not cell_in(tmp_path).changes()


async def test_a_collection_of_keepstates_own_family_is_graded_again_and_kept(tmp_path: Path) -> None:
    tasks = list(make_tasks("knapsack", "mini", 3, 0)) + list(make_tasks("navigation", "mini", 2, 0))
    runtimes = tuple(RuntimeName)
    await collect(CollectPlan(tasks, runtimes, ScriptedTeacher, tmp_path), allow_unsafe=True)
    before = {folder: files(tmp_path / folder) for folder in runtimes}
    assert [counts(found) for found in await regrade(tmp_path)] == [(0, 5, 0, 0)] * 3
    assert {folder: files(tmp_path / folder) for folder in runtimes} == before


async def test_a_collection_that_is_graded_anew_is_gone_on_with(tmp_path: Path, version: Callable[..., Path]) -> None:
    version()
    calls = json.dumps([{"tool": "say", "args": {"word": "b"}}, {"tool": "finish"}])

    def plan() -> CollectPlan:
        tasks = list(make_tasks("words", "short", 2, 0))
        model = ScriptedModel([f"Thought: x\nAction: {calls}"] * 2)
        return CollectPlan(tasks, (RuntimeName.REACT,), lambda _task, _runtime: model, tmp_path)

    [first] = await collect(plan(), allow_unsafe=True)
    version(HALF)
    with pytest.raises(OtherWork, match="family file words"):
        await collect(plan(), allow_unsafe=True)
    [found] = await regrade(tmp_path)
    assert found.written
    [again] = await collect(plan(), allow_unsafe=True)
    assert (first.done, again.done) == (2, 2)


def test_the_command_says_which_and_ends_with_1_where_one_is_owed(tmp_path: Path, version: Callable[..., Path]) -> None:
    version()
    folder = eventloop.run(played(tmp_path / "run"))
    path = version(HALF)
    families._NAMED.clear()
    result = CliRunner().invoke(cli, ["bench", "regrade", str(tmp_path / "run"), "--family", str(path)])
    assert result.exit_code == 0, result.output
    assert "kept 2 (0 of the same digest, 2 of the same verdict), regraded 2, owed 0, unknown 0" in result.output
    assert "score 1 -> 0.5" in result.output
    assert read_trace(next(iter(folder.glob("*1.trace.json")))).verdict is not None
    path = version(LOUDER)
    families._NAMED.clear()
    result = CliRunner().invoke(cli, ["bench", "regrade", str(tmp_path / "run"), "--family", str(path)])
    assert result.exit_code == 1
    assert "owed words-short" in result.output
