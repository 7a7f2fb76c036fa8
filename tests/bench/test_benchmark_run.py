"""Whole benchmarks against a real HTTP server: played, kept, resumed, refused, stopped."""

import asyncio
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from stub_server import StubServer, look_then_finish, serving

from keepstate import display
from keepstate.bench import (
    BenchmarkConfig,
    TaskSource,
    cells,
    matrix_configs,
    read_results,
)
from keepstate.bench import run as run_module
from keepstate.bench.cells import make_cell
from keepstate.bench.run import bench
from keepstate.cli import bench as commands
from keepstate.errors import UserError
from keepstate.files import file_hash, write_json
from keepstate.models import server as server_module
from keepstate.models.server import ServerModel
from keepstate.play.collect import CollectPlan, collect
from keepstate.play.jobs import RETRIES
from keepstate.play.tally import Tally, TallyDisplay
from keepstate.processes import alone_in
from keepstate.report import make_report
from keepstate.resume import OtherWork
from keepstate.serve import loaded
from keepstate.serve.loaded import AdapterContent, noted
from keepstate.tasks import write_tasks
from keepstate.traces import read_trace
from keepstate.traces.check import check_folders
from keepstate.traces.record import Limits
from keepstate.train import result
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

REACT = RuntimeName.REACT


def react_cell(stub: StubServer, *, count: int = 6, **changes: Any) -> BenchmarkConfig:
    values = {"name": "cell", "adapter": "base", "runtime": "react", "base_url": stub.url, "concurrency": 4}
    return BenchmarkConfig.model_validate(values | {"tasks": TaskSource(difficulty="mini", count=count)} | changes)


def figures(tallies: list[Tally]) -> list[tuple[int, int, int]]:
    """Kept, graded now, not graded."""
    return [(tally.kept, tally.played, tally.failures.total()) for tally in tallies]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_all_cells_are_played_at_once_and_kept(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        tasks = TaskSource(difficulty="mini", count=3)
        configs = list(matrix_configs(tasks, "mini", base_url=stub.url))
        tallies = await bench(configs, tmp_path, allow_unsafe=True, concurrency=1)
        assert figures(tallies) == [(0, 3, 0)] * 8
        assert stub.requests == {"base": 18, "persistent": 12, "forget": 12, "react": 6}
        opened = [request["model"] for request in stub.seen if len(request["messages"]) == 2]
        assert opened == [config.served_name for config in configs] * 3, "cells take turns"
        assert {request["chat_template_kwargs"]["enable_thinking"] for request in stub.seen} == {False}
        assert {request["temperature"] for request in stub.seen} == {0.2}
        before = files(tmp_path)
        again = await bench(configs, tmp_path, allow_unsafe=True)
        assert figures(again) == [(3, 0, 0)] * 8
        assert files(tmp_path) == before, "nothing is played or written twice"
    cells = read_results(tmp_path)
    assert len(cells) == 8
    for cell in cells:
        assert len(cell.episodes) == 3
        assert (cell.missing, cell.not_graded, cell.unreadable) == (0, {}, ())
        assert {episode.finish_reason for episode in cell.episodes} == {FinishReason.FINISHED}
    summary = json.loads((tmp_path / "base-forget-mini/summary_codeact-knapsack.json").read_text())
    assert summary["num_tasks_executed"] == 3


async def test_the_same_task_has_the_same_seed_in_every_cell(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        configs = [react_cell(stub, name=name, adapter=name) for name in ("base", "react")]
        await bench(configs, tmp_path)
        seeds = {name: sorted(r["seed"] for r in stub.seen if r["model"] == name) for name in ("base", "react")}
    assert seeds["base"] == seeds["react"]
    assert len(set(seeds["base"])) == len(seeds["base"])


async def test_only_what_is_missing_is_played(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        names = [name.removesuffix(".trace.json") for name in files(tmp_path / "cell") if name.endswith(".trace.json")]
        (tmp_path / "cell" / f"{names[0]}.json").unlink()
        (tmp_path / "cell" / f"{names[1]}.json").write_text("{")
        (tmp_path / "cell" / f"{names[2]}.trace.json").unlink()
        assert figures(await bench([react_cell(stub)], tmp_path)) == [(5, 1, 0)], "a verdict is copied from its trace"
        assert figures(await bench([react_cell(stub, concurrency=9, isolation="namespaces")], tmp_path)) == [(6, 0, 0)]


def spoil_three(cell: Path) -> list[str]:
    """Cut one trace of a finished cell, empty another, and let the verdict of a third contradict it."""
    cut, empty, third = sorted(cell.glob("*.trace.json"))[:3]
    cut.write_bytes(cut.read_bytes()[:500])
    empty.write_bytes(b"")
    verdict = cell / third.name.replace(".trace", "")
    verdict.write_text(verdict.read_text().replace('"is_solved": false', '"is_solved": true'))
    return [cut.name, empty.name, third.name]


async def test_a_broken_trace_beside_a_good_verdict_is_named_and_played_again(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        whole, cell = files(tmp_path), tmp_path / "cell"
        spoiled = spoil_three(cell)
        (cell / "elsewhere").mkdir()
        shutil.copy(cell / "cell.json", cell / "elsewhere/x.trace.json")
        before = read_results(tmp_path)[0]
        assert (len(before.episodes), before.missing) == (3, 3)
        assert [text.partition(":")[0] for text in before.unreadable] == ["elsewhere/x.trace.json", *spoiled]
        assert "beside it says otherwise" in before.unreadable[-1]
        shutil.rmtree(cell / "elsewhere")
        (tally,) = await bench([react_cell(stub)], tmp_path)
    assert figures([tally]) == [(3, 3, 0)], "as many are kept as the report counted"
    assert [file.path.name for file in tally.replaced] == spoiled
    after = read_results(tmp_path)[0]
    assert (len(after.episodes), after.missing, after.unreadable) == (6, 0, ())
    assert files(tmp_path).keys() == whole.keys()


def edited(path: Path, **changes: Any) -> None:
    """Change values of a JSON file, `a__b` the b in a."""
    value = json.loads(path.read_text())
    for key, item in changes.items():
        *outer, last = key.split("__")
        place = value
        for part in outer:
            place = place[part]
        place[last] = item
    path.write_text(json.dumps(value, indent=3, sort_keys=True))


FAILURE = {"origin": "model", "message": "x"}
SPOILED = {
    "verdict missing": (lambda trace, verdict, other: verdict.unlink(), None),
    "verdict empty": (lambda trace, verdict, other: verdict.write_text(""), None),
    "verdict null": (lambda trace, verdict, other: verdict.write_text("null"), None),
    "verdict written anew": (lambda trace, verdict, other: edited(verdict, result__score=0, note="mine"), None),
    "verdict of another": (lambda trace, verdict, other: edited(verdict, finished_at="2020"), "says otherwise"),
    "verdict failed": (lambda trace, verdict, other: edited(verdict, status="failed"), "says otherwise"),
    "another task's": (lambda trace, verdict, other: shutil.copy(other, trace), "another episode: task"),
    "another model's": (
        lambda trace, verdict, other: edited(trace, model="gpt"),
        "another episode: model: gpt -> base",
    ),
    "failed and graded": (lambda trace, verdict, other: edited(trace, failure=FAILURE), "graded all the same"),
    "neither": (lambda trace, verdict, other: edited(trace, verdict=None), "neither graded nor failed"),
    "another's, verdict gone": (
        lambda trace, verdict, other: (shutil.copy(other, trace), verdict.unlink()),
        "another episode: task",
    ),
}


async def collected(cell: BenchmarkConfig, stub: StubServer, out: Path, *, fresh: bool = False) -> Tally:
    """The episodes of `cell` collected into `out` with the same model as teacher."""
    async with ServerModel(stub.url, "base") as teacher:
        tasks = make_cell(cell, out).tasks
        (tally,) = await collect(CollectPlan(tasks, (REACT,), lambda _task, _runtime: teacher, out.parent, fresh=fresh))
    return tally


@pytest.mark.parametrize("state", SPOILED)
async def test_a_trace_and_its_verdict_are_the_same_to_bench_collect_report_and_check(
    state: str, tmp_path: Path
) -> None:
    spoil, reason = SPOILED[state]
    with serving(StubServer()) as stub:
        cell = react_cell(stub, count=2)
        await bench([cell], tmp_path)
        whole, folder = files(tmp_path), tmp_path / "cell"
        trace, other = sorted(folder.glob("*.trace.json"))
        verdict = folder / trace.name.replace(".trace", "")
        spoil(trace, verdict, other)
        out = tmp_path / "collected" / "react"
        shutil.copytree(folder, out, ignore=shutil.ignore_patterns("cell.json", "summary*"))
        (seen,) = read_results(tmp_path)
        assert len(seen.episodes) == (1 if reason else 2)
        assert [(reason or "") in text for text in seen.unreadable] == [True] * bool(reason)
        if state not in ("verdict written anew", "another model's"):
            assert list(check_folders([folder]).problems) == [trace]
        finished = state == "another model's"
        for play in (bench([cell], tmp_path), collected(cell, stub, out)) if finished else ():
            before = files(tmp_path)
            with pytest.raises(OtherWork, match=r"1 finished episodes? .*|1 finished traces") as caught:
                await play
            assert caught.value.message.endswith("of other options:\n  model: gpt -> base")
            assert files(tmp_path) == before
        (tally,) = await bench([cell], tmp_path, fresh=finished)
        assert figures([tally]) == [(1, 1, 0) if reason else (2, 0, 0)]
        assert [(file.path, (reason or "") in file.reason) for file in tally.replaced] == [(trace, True)] * bool(reason)
        tally = await collected(cell, stub, out, fresh=finished)
        assert (tally.kept, tally.played) == ((1, 1) if reason else (2, 0))
        assert len(tally.replaced) == (bool(reason) and not finished), "what fresh replaces is not named again"
    assert check_folders([folder]).good
    assert check_folders([out]).good
    if reason is None and state != "verdict written anew":
        assert files(folder) == {Path(name).name: raw for name, raw in whole.items()}


async def test_what_a_run_killed_near_its_end_missed_is_written_by_the_next(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        whole, cell = files(tmp_path), tmp_path / "cell"
        verdict, other = [path for path in sorted(cell.glob("knapsack-*.json")) if ".trace" not in path.name][:2]
        asked = len(stub.seen)
        for lost in ("verdict", "summary"):
            if lost == "verdict":
                verdict.unlink()
                other.write_text("{")
                assert len(read_results(tmp_path)[0].episodes) == 6, "the trace is the record"
            else:
                (cell / "summary_react-knapsack.json").unlink()
            assert figures(await bench([react_cell(stub)], tmp_path)) == [(6, 0, 0)], lost
            assert files(tmp_path) == whole, lost
        assert len(stub.seen) == asked, "nothing was played"


async def test_summaries_tell_of_every_episode_however_the_clock_was_set(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        summary = tmp_path / "cell" / "summary_react-knapsack.json"
        next((tmp_path / "cell").glob("*.trace.json")).unlink()
        summary.write_text("{}")
        os.utime(summary, ns=(2**62, 2**62))
        assert figures(await bench([react_cell(stub)], tmp_path)) == [(5, 1, 0)]
        assert json.loads(summary.read_text())["num_tasks_executed"] == 6


async def test_a_changed_config_is_refused_with_its_keys_and_fresh_replaces(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        (tmp_path / "cell" / "mine.txt").write_text("kept")
        changed = react_cell(stub, limits=Limits(turns=7), count=5)
        with pytest.raises(UserError) as caught:
            await bench([changed], tmp_path)
        assert "limits.turns: 40 -> 7" in caught.value.message
        assert "tasks: " in caught.value.message
        assert "temperature" not in caught.value.message
        assert "--fresh" in caught.value.hint
        assert figures(await bench([changed], tmp_path, fresh=True)) == [(0, 5, 0)]
        assert (tmp_path / "cell" / "mine.txt").exists()
        assert len(read_results(tmp_path)[0].episodes) == 5
        assert figures(await bench([changed], tmp_path, fresh=True)) == [(5, 0, 0)], "fresh keeps what still belongs"


async def test_every_cell_that_fresh_would_replace_is_named_with_its_own_keys(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub, count=1, name=name) for name in ("a", "b", "c")], tmp_path)
        changed = [react_cell(stub, count=1, name=name, seed=seed) for name, seed in (("a", 1), ("b", 0), ("c", 2))]
        with pytest.raises(OtherWork) as caught:
            await bench(changed, tmp_path)
        assert caught.value.message.splitlines() == [
            f"{tmp_path / 'a'} holds finished episodes of other options:",
            "  seed: 0 -> 1",
            f"{tmp_path / 'c'} holds finished episodes of other options:",
            "  seed: 0 -> 2",
        ]
        assert figures(await bench(changed, tmp_path, fresh=True)) == [(0, 1, 0), (1, 0, 0), (0, 1, 0)]


async def test_where_no_episode_was_finished_another_config_takes_the_cell(tmp_path: Path) -> None:
    with serving(StubServer(rule=lambda request: (422, "no"))) as stub:
        with pytest.raises(UserError, match="gives no answers"):
            await bench([react_cell(stub, count=2)], tmp_path)
        assert (tmp_path / "cell" / "cell.json").exists()
        stub.rule = look_then_finish
        assert figures(await bench([react_cell(stub, count=1, seed=1)], tmp_path)) == [(0, 1, 0)]
    (cell,) = read_results(tmp_path)
    assert (len(cell.episodes), cell.not_graded, cell.unreadable) == (1, {}, ())


async def test_a_cell_whose_file_cannot_be_read_is_refused_and_fresh_replaces_it(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        (tmp_path / "cell" / "cell.json").write_text("{")
        before = files(tmp_path)
        with pytest.raises(OtherWork, match=r"not a keepstate\.cell\.v1 file"):
            await bench([react_cell(stub)], tmp_path)
        assert files(tmp_path) == before
        assert figures(await bench([react_cell(stub)], tmp_path, fresh=True)) == [(0, 6, 0)]


async def test_folders_called_as_files_of_a_cell_are_nobodys_and_one_in_the_place_of_its_file_is_refused(
    tmp_path: Path,
) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub, count=2)], tmp_path)
        odd = [tmp_path / "cell" / name for name in ("mine.trace.json", "summary_mine.json")]
        for folder in odd:
            folder.mkdir()
        changed = react_cell(stub, count=2, seed=1)
        assert figures(await bench([changed], tmp_path, fresh=True)) == [(0, 2, 0)]
        assert all(folder.is_dir() for folder in odd)
        (tmp_path / "cell" / "cell.json").unlink()
        (tmp_path / "cell" / "cell.json").mkdir()
        before = files(tmp_path)
        with pytest.raises(UserError, match=r"cell\.json: .*Is a directory"):
            await bench([react_cell(stub, count=2)], tmp_path, fresh=True)
        assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"limits__turns": 7}, "limits.turns: 7 -> 40"),
        ({"limits__memory_mib": 64}, "limits.memory_mib: 64 -> 256"),
        ({"sampling__temperature": 1.0}, "sampling.temperature: 1.0 -> 0.2"),
        ({"seed": 3}, "seed: 3 -> 0"),
    ],
)
async def test_a_finished_trace_of_other_options_in_a_cell_is_no_episode_of_it_and_is_kept(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub, count=2), react_cell(stub, count=2, name="other")], tmp_path)
        trace = next((tmp_path / "cell").glob("*.trace.json"))
        edited(trace, **changes)
        before = files(tmp_path)
        with pytest.raises(OtherWork) as caught:
            await bench([react_cell(stub, count=2, name="other", seed=0), react_cell(stub, count=2)], tmp_path)
        assert caught.value.message.splitlines()[1:] == [f"  {named}"]
        assert trace.name in caught.value.message
        assert files(tmp_path) == before
        assert read_results(tmp_path)[0].unreadable == (f"{trace.name}: another episode: {named}",)
        assert figures(await bench([react_cell(stub, count=2)], tmp_path, fresh=True)) == [(1, 1, 0)]


async def test_a_replacement_that_cannot_be_played_replaces_nothing(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        before = files(tmp_path)
        stub.rule = lambda request: (422, "no")
        with pytest.raises(UserError, match="gives no answers"):
            await bench([react_cell(stub, seed=1)], tmp_path, fresh=True)
        assert files(tmp_path) == before
        assert figures(await bench([react_cell(stub)], tmp_path)) == [(6, 0, 0)]


async def test_a_run_killed_while_it_clears_results_leaves_none_that_pass_for_the_new_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        changed = react_cell(stub, limits=Limits(turns=7))
        unlink, left = Path.unlink, count()

        def killed(path: Path, **options: bool) -> None:
            if next(left) == 3:
                raise OSError(errno.EIO, "the disk went away")
            unlink(path, **options)

        monkeypatch.setattr(Path, "unlink", killed)
        with pytest.raises(UserError, match="the disk went away"):
            await bench([changed], tmp_path, fresh=True, concurrency=1)
        monkeypatch.undo()
        assert len(list((tmp_path / "cell").glob("*.trace.json"))) in (4, 5)
        with pytest.raises(UserError, match=r"limits\.turns: 40 -> 7"):
            await bench([changed], tmp_path)
        assert figures(await bench([changed], tmp_path, fresh=True)) == [(0, 6, 0)]


async def test_two_at_once_do_not_play_one_cell(tmp_path: Path) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub)], tmp_path)
        before = files(tmp_path)
        with alone_in(tmp_path / "cell"):
            for fresh in (False, True):
                with pytest.raises(UserError, match=r"another keepstate plays into .*cell now"):
                    await bench([react_cell(stub, seed=1)], tmp_path, fresh=fresh)
            assert figures(await bench([react_cell(stub, name="other")], tmp_path)) == [(0, 6, 0)]
            both = files(tmp_path)
            with pytest.raises(UserError, match=r"another keepstate plays into .*cell now"):
                await bench([react_cell(stub, name=name, seed=1) for name in ("other", "cell")], tmp_path, fresh=True)
            assert files(tmp_path) == both, "the cell that nobody plays is not cleared by a run that is refused"
        assert before.items() <= files(tmp_path).items()
        assert figures(await bench([react_cell(stub)], tmp_path)) == [(6, 0, 0)]


@pytest.mark.parametrize("score", [float("nan"), 1.1, True, "high"])
async def test_a_reference_that_is_no_score_is_said_before_anything_is_played(
    score: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "reference_scores", lambda task: {"blind": 0.5, "oracle": score})
    monkeypatch.setattr(cells, "_KNOWN", {})
    with serving(StubServer()) as stub:
        with pytest.raises(UserError, match="a reference policy of the family 'knapsack' has no score in"):
            await bench([react_cell(stub)], tmp_path)
        assert not stub.seen


@dataclass
class FromFolder(StubServer):
    """Its cards name folders that can be read: an adapter, and its base."""

    folder: Path = Path()

    def card(self, name: str) -> dict[str, Any]:
        return super().card(name) | {"root": str(self.folder / ("base" if name == "base" else "adapter"))}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with an adapter and a base."""
    for name, weights in (("adapter", "adapter_model.safetensors"), ("base", "model.safetensors")):
        (tmp_path / name).mkdir()
        (tmp_path / name / weights).write_bytes(b"one")
    write_json(tmp_path / "adapter" / "adapter_config.json", {"r": 16, "lora_alpha": 16})
    write_json(tmp_path / "base" / "config.json", {"vocab_size": 9})
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("adapter/adapter_model.safetensors", "two", r"weights: \w+\.\.\. -> \w+"),
        ("adapter/adapter_config.json", '{"r": 16, "lora_alpha": 999}', "adapter_config.lora_alpha: 16 -> 999"),
        ("adapter/adapter_config.json", '{"r": 16, "lora_alpha": 16, "use_rslora": true}', "use_rslora: None -> True"),
        ("base/model.safetensors", "two", r"base.weights: "),
        ("base/config.json", '{"vocab_size": 9, "rope_theta": 1}', "base.config: "),
    ],
)
async def test_another_model_under_the_same_name_is_another_config(
    file: str, content: str, named: str, model: Path
) -> None:
    with serving(FromFolder(folder=model)) as stub:
        await bench([react_cell(stub, adapter="react")], model / "run")
        (model / file).write_text(content)
        with pytest.raises(UserError, match=named):
            await bench([react_cell(stub, adapter="react")], model / "run")


async def test_a_model_that_can_no_longer_be_told_is_said_and_what_was_known_stays(model: Path) -> None:
    with serving(FromFolder(folder=model)) as stub:
        await bench([react_cell(stub, adapter="react", count=3)], model / "run")
        path = model / "run/cell/cell.json"
        before = json.loads(path.read_text())["config"]
        shutil.rmtree(model / "adapter")
        said = "the adapter's weights can no longer be told, so later episodes may be of another model"
        (tally,) = await bench([react_cell(stub, adapter="react", count=3)], model / "run")
        assert said in tally.remarks, "also where nothing is left to play"
        next((model / "run/cell").glob("*.trace.json")).unlink()
        (tally,) = await bench([react_cell(stub, adapter="react", count=3)], model / "run")
        assert said in tally.remarks
        after = json.loads(path.read_text())
        assert after["config"] == before
        assert said in after["remarks"]
        assert f"react → react: {said}." in make_report("r", read_results(model / "run")).groups[0].notes
        (model / "adapter").mkdir()
        (model / "adapter/adapter_model.safetensors").write_bytes(b"two")
        with pytest.raises(UserError, match="weights: "):
            await bench([react_cell(stub, adapter="react", count=3)], model / "run")


async def test_a_cell_of_an_older_version_goes_on_and_what_it_did_not_record_is_said(model: Path) -> None:
    with serving(FromFolder(folder=model)) as stub:
        await bench([react_cell(stub, adapter="react", count=3)], model / "run")
        path = model / "run/cell/cell.json"
        cell = json.loads(path.read_text())
        del cell["config"]["adapter_config"], cell["config"]["base"], cell["remarks"]
        path.write_text(json.dumps(cell))
        next((model / "run/cell").glob("*.trace.json")).unlink()
        (tally,) = await bench([react_cell(stub, adapter="react", count=3)], model / "run")
        assert tally.remarks == [
            "the adapter's configuration could not be told when earlier episodes were played",
            "the base model could not be told when earlier episodes were played",
        ]
        assert json.loads(path.read_text())["config"]["adapter_config"]["lora_alpha"] == 16
        assert (await bench([react_cell(stub, adapter="react", count=3)], model / "run"))[0].kept == 3


async def test_a_cell_whose_limits_of_an_action_lie_nested_goes_on_and_another_limit_is_named_as_now(
    tmp_path: Path,
) -> None:
    with serving(StubServer()) as stub:
        await bench([react_cell(stub, count=2)], tmp_path)
        path = tmp_path / "cell" / "cell.json"
        cell = json.loads(path.read_text())
        flat = cell["config"]["limits"]
        action = {"seconds": flat.pop("action_seconds")} | {
            key: flat.pop(key) for key in ("tool_calls", "memory_mib", "output_chars")
        }
        cell["config"]["limits"] = flat | {"runtime": action}
        path.write_text(json.dumps(cell | {"digest": "of that layout"}))
        assert len(read_results(tmp_path)[0].episodes) == 2
        with pytest.raises(OtherWork) as caught:
            await bench([react_cell(stub, count=2, limits=Limits(action_seconds=7))], tmp_path)
        assert caught.value.message.splitlines()[1:] == ["  limits.action_seconds: 30.0 -> 7.0"]
        next((tmp_path / "cell").glob("*.trace.json")).unlink()
        assert figures(await bench([react_cell(stub, count=2)], tmp_path)) == [(1, 1, 0)]


async def test_what_many_cells_share_is_hashed_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def noting(path: Path) -> str:
        hashed.append(path)
        return file_hash(path)

    for module in (loaded, result):
        monkeypatch.setattr(module, "file_hash", noting)
    with serving(FromFolder(folder=model)) as stub:
        await bench([react_cell(stub, adapter="react", name=f"cell-{n}", seed=n) for n in range(3)], model / "run")
    assert sorted(path.name for path in hashed) == ["adapter_model.safetensors", "config.json", "model.safetensors"]


async def test_what_the_server_loaded_counts_not_what_lies_in_the_folder_now(model: Path) -> None:
    adapter = AdapterContent.read(model / "adapter")
    with serving(FromFolder(folder=model)) as stub:
        port = int(stub.url.split(":")[2].split("/")[0])
        with noted(port, os.getpid(), {"name": "small"}, {"react": adapter}, "a" * 64):
            (model / "adapter/adapter_model.safetensors").write_bytes(b"two")
            (tally,) = await bench([react_cell(stub, adapter="react", count=2)], model / "run")
        cell = json.loads((model / "run/cell/cell.json").read_text())
        assert cell["config"]["weights"] == adapter.weights == hashlib.sha256(b"one").hexdigest()
        assert cell["config"]["base"] == {"name": "small"}
        with (
            noted(port, os.getpid(), {"name": "small"}, {"react": adapter}, "b" * 64),
            pytest.raises(UserError, match=r"of other options:\n  template: a+\.\.\. -> b+"),
        ):
            await bench([react_cell(stub, adapter="react", count=2)], model / "run")
        assert cell["config"]["template"] == "a" * 64
        assert cell["server"]["hashed"] == "when the server loaded it"
        assert tally.remarks == [
            f"{model / 'adapter'} changed after the server loaded it; what it loaded is what plays"
        ]
        with pytest.raises(UserError, match="weights: "):
            await bench([react_cell(stub, adapter="react", count=2)], model / "run")


async def test_our_failures_are_retried_then_recorded_without_score_and_tried_next_time(tmp_path: Path) -> None:
    broken: set[int] = set()

    def rule(request: dict[str, Any]) -> str | tuple[int, str]:
        return (422, "no") if request["seed"] in broken else look_then_finish(request)

    with serving(StubServer(rule=rule)) as stub:
        await bench([react_cell(stub, count=3)], tmp_path / "probe")
        broken.add(stub.seen[0]["seed"])
        stub.seen.clear()
        tallies = await bench([react_cell(stub, count=3)], tmp_path / "run")
        assert figures(tallies) == [(0, 2, 1)]
        assert tallies[0].failures == {Origin.MODEL: 1}
        assert "no" in tallies[0].first_failure
        asked = [request["max_tokens"] for request in stub.seen if request.get("seed") in broken]
        assert asked == [12_288, 1] * (1 + RETRIES), "a refusal may be the new tokens'"
        cell = read_results(tmp_path / "run")[0]
        assert (len(cell.episodes), cell.not_graded, cell.missing) == (2, {Origin.MODEL: 1}, 0)
        broken.clear()
        assert figures(await bench([react_cell(stub, count=3)], tmp_path / "run")) == [(2, 1, 0)]
        assert read_results(tmp_path / "run")[0].not_graded == {}


async def test_missing_servers_models_and_context_are_told_with_the_command(tmp_path: Path) -> None:
    with serving(StubServer(models=("base",), context=4096)) as stub:
        with pytest.raises(UserError) as caught:
            await bench([react_cell(stub, adapter="react"), react_cell(stub, name="b", adapter="forget")], tmp_path)
        assert "does not serve 'react'" in caught.value.message
        assert "it serves: base" in caught.value.message
        assert "keepstate serve --lora out/qwen3-8b-forget-a100 --lora out/qwen3-8b-react-a100" in caught.value.hint
        with pytest.raises(UserError, match=r"context of 4,096 tokens, cell asks for 40,960"):
            await bench([react_cell(stub)], tmp_path)
        stub.models = ("base", "react")
        with pytest.raises(UserError, match=r"'react' with a context of 4,096 tokens, cell asks for 40,960"):
            await bench([react_cell(stub, adapter="react")], tmp_path)
        with pytest.raises(UserError, match="answers with HTTP status 404"):
            await bench([react_cell(stub).model_copy(update={"base_url": stub.url + "/v1"})], tmp_path)
        cells = [react_cell(stub), react_cell(stub)]
        with pytest.raises(UserError, match="more than one config is named cell"):
            await bench(cells, tmp_path)
    with pytest.raises(UserError, match="no server answers") as caught:
        await bench(cells[:1], tmp_path)
    assert "keepstate serve" in caught.value.hint
    assert files(tmp_path) == {}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a server up at once."""
    monkeypatch.setattr(run_module, "ServerModel", partial(ServerModel, retries=0))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ()}, "does not serve a model named 'base'"),
        ({"gone": True}, "no longer answers"),
    ],
)
async def test_a_server_that_goes_away_stops_the_run_and_nothing_is_lost(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def rule(request: dict[str, Any]) -> str | tuple[int, str]:
        if len(stub.seen) > 20:
            for name, value in change.items():
                setattr(stub, name, value)
        return look_then_finish(request) if stub.models else (404, "unknown model")

    with serving(StubServer(rule=rule)) as stub, pytest.raises(UserError, match=message):
        await bench([react_cell(stub, count=40, concurrency=2)], tmp_path)
    graded = list((tmp_path / "cell").glob("*.trace.json"))
    assert 8 <= len(graded) <= 11
    assert all(read_trace(path).verdict for path in graded)


@pytest.mark.parametrize("fault", ["hangs", "always fails"])
async def test_a_fault_of_the_server_is_no_grade_and_a_repeat_goes_on(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(server_module, "PROBE_SECONDS", 0.3)
    monkeypatch.setattr(server_module, "FIRST_PAUSE", 0.05)
    over = threading.Event()

    def rule(request: dict[str, Any]) -> str | tuple[int, str]:
        if len(stub.seen) > 7 and not over.is_set():
            if fault != "always fails":
                over.wait(20)
            return 500, "out of order"
        return look_then_finish(request)

    with serving(StubServer(rule=rule)) as stub:
        config = react_cell(stub, count=6, concurrency=2, limits=Limits(seconds=1.5))
        with pytest.raises(UserError, match=r"no longer answers: (no whole answer|HTTP status 500: out of order)"):
            await bench([config], tmp_path)
        over.set()
        kept = [read_trace(path) for path in (tmp_path / "cell").glob("*.trace.json")]
        assert 2 <= len(kept) <= 3
        assert {trace.finish_reason for trace in kept} == {FinishReason.FINISHED}
        assert figures(await bench([config], tmp_path)) == [(len(kept), 6 - len(kept), 0)]


async def test_waiting_for_a_server_is_not_on_the_clock_but_its_slow_answers_are(tmp_path: Path) -> None:
    failed: set[int] = set()

    def busy(request: dict[str, Any]) -> str | tuple[int, str]:
        if request["seed"] not in failed:
            failed.add(request["seed"])
            return 503, "busy"
        return look_then_finish(request)

    def slow(request: dict[str, Any]) -> str:
        time.sleep(0.8)
        return look_then_finish(request)

    for rule, reason in ((busy, FinishReason.FINISHED), (slow, FinishReason.TIME_LIMIT)):
        with serving(StubServer(rule=rule)) as stub:
            config = react_cell(stub, count=2, name=rule.__name__, limits=Limits(seconds=1.2))
            assert figures(await bench([config], tmp_path)) == [(0, 2, 0)]
            traces = [read_trace(path) for path in (tmp_path / rule.__name__).glob("*.trace.json")]
            assert {trace.finish_reason for trace in traces} == {reason}


async def test_thinking_that_is_on_stops_the_run_before_anything_is_recorded(tmp_path: Path) -> None:
    def rule(request: dict[str, Any]) -> str:
        return f"<think>\nmaybe {look_then_finish(request)}\n</think>\n\nI look."

    with serving(StubServer(rule=rule)) as stub, pytest.raises(UserError, match="think"):
        await bench([react_cell(stub)], tmp_path)
    assert not any(name.endswith(".trace.json") for name in files(tmp_path))


async def test_a_key_goes_to_models_metrics_and_answers_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(StubServer(key="mine")) as stub:
        with pytest.raises(UserError, match="refuses access") as caught:
            await bench([react_cell(stub, count=1)], tmp_path)
        assert "KEEPSTATE_API_KEY" in caught.value.hint
        monkeypatch.setenv("KEEPSTATE_API_KEY", "mine")
        assert figures(await bench([react_cell(stub, count=1)], tmp_path)) == [(0, 1, 0)]
        assert stub.keys == {"/v1/models", "/metrics", "/v1/chat/completions"}


async def test_the_cache_of_the_server_bounds_open_episodes(tmp_path: Path) -> None:
    told: list[Sequence[Tally]] = []
    seen: list[int] = []

    def rule(request: dict[str, Any]) -> str:
        seen.append(told[0][0].open)  # when it is asked: on a slow disk all are over before the first is written
        return look_then_finish(request)

    with serving(StubServer(rule=rule, pool=(2_000, 16))) as stub:
        await bench([react_cell(stub, count=30, concurrency=64)], tmp_path, on_progress=told.append)
    opened = [request for request in stub.seen if len(request["messages"]) == 2]
    assert len(opened) == 30
    assert max(seen) > 4, "episodes turn out short, so more are let in than the context would allow"


async def test_cancelling_loses_only_the_episodes_in_flight(tmp_path: Path) -> None:
    enough = asyncio.Event()

    def note(tallies: Sequence[Tally]) -> None:
        if tallies[0].played >= 5:
            enough.set()

    with serving(StubServer()) as stub:
        config = react_cell(stub, count=60, concurrency=2)
        running = asyncio.create_task(bench([config], tmp_path, on_progress=note))
        await asyncio.wait_for(enough.wait(), 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0.2)  # the write of an episode that had ended may still be going on
        graded = len(list((tmp_path / "cell").glob("*.trace.json")))
        assert 5 <= graded < 60
        assert figures(await bench([config], tmp_path)) == [(graded, 60 - graded, 0)]


async def test_a_terminal_shows_every_cell_and_what_it_came_to(tmp_path: Path) -> None:
    screen = StringIO()
    with serving(StubServer()) as stub, TallyDisplay(Console(file=screen, force_terminal=True, width=140)) as shown:
        await bench([react_cell(stub, name=name) for name in ("one", "two")], tmp_path, on_progress=shown)
    last = [line for line in screen.getvalue().replace("\x1b[2K", "\n").splitlines() if "6/6" in line]
    assert any("one" in line and "solved 0, score 0 %" in line for line in last)
    assert any("two" in line for line in last)
    assert "12/12" in screen.getvalue()
    assert "played again" not in screen.getvalue()
    spoil_three(tmp_path / "one")
    with serving(StubServer()) as stub, TallyDisplay(Console(file=screen, force_terminal=True, width=140)) as shown:
        await bench([react_cell(stub, name="one")], tmp_path, on_progress=shown)
    assert screen.getvalue().count("played again: ") == 3


async def test_elsewhere_a_line_is_said_now_and_then_also_while_no_episode_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0.02)
    beats, enough, beat = count(1), threading.Event(), TallyDisplay.beat

    def counted(shown: TallyDisplay) -> None:
        beat(shown)
        if shown.last is not None and next(beats) == 3:
            enough.set()

    def slow(request: dict[str, Any]) -> str:
        enough.wait(30)
        return look_then_finish(request)

    monkeypatch.setattr(TallyDisplay, "beat", counted)

    with serving(StubServer(rule=slow)) as stub, TallyDisplay(Console(file=StringIO())) as shown:
        await bench([react_cell(stub, count=1)], tmp_path, on_progress=shown)
    assert capsys.readouterr().err.count("0/1 episodes; ") >= 3


def command(*arguments: object) -> Result:
    return CliRunner().invoke(commands.command, [str(argument) for argument in arguments])


def test_the_commands_play_and_say_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(StubServer(context=2_048)) as stub:
        write_tasks(tmp_path / "tasks", TaskSource(difficulty="mini", count=2).load())
        arguments = ("--tasks", "tasks", "--base-url", stub.url, "--context", 2048, "--adapter", "react")
        result = command("matrix", *arguments)
        assert result.exit_code == 0, result.output
        assert "runs/matrix/react-react-mini: solved 0 / graded 2 / not graded 0" in result.stdout
        assert "count" not in result.stderr
        result = command("matrix", *arguments, "--count", 1, "--run", "one")
        assert "the first 1 of the 2 tasks of tasks (count: 1)" in result.stderr
        (tmp_path / "cell.yaml").write_text(
            "name: mine\nadapter: base\nruntime: react\ncontext: 2048\ntasks: {folder: tasks}\nconcurrency: 2\n"
        )
        spoil = Path("runs/here/mine")
        for played_again in (0, 2):
            result = command("run", "cell.yaml", "--base-url", stub.url, "--run", "here")
            assert result.stderr.count("played again: runs/here/mine/knapsack-mini") == played_again
            for path in spoil.glob("*.trace.json"):
                path.write_text("{")
        result = command("run", "cell.yaml", "--base-url", stub.url, "--run", "here")
        assert result.exit_code == 0, result.output
        assert "runs/here/mine: solved 0 / graded 2" in result.stdout
        assert "keepstate report runs/here" in result.stderr


def test_ctrl_c_stops_within_two_seconds_and_says_how_to_go_on(tmp_path: Path) -> None:
    stopped = threading.Event()

    def slow(request: dict[str, Any]) -> str:
        stopped.wait(0.05 if len(stub.seen) < 20 else 30)
        return look_then_finish(request)

    with serving(StubServer(rule=slow)) as stub:
        arguments = ["bench", "matrix", "--difficulty", "mini", "--base-url", stub.url, "--adapter", "react"]
        process = subprocess.Popen(
            [sys.executable, "-m", "keepstate", *arguments, "--concurrency", "2"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 30
        while len(stub.seen) < 21 and time.monotonic() < deadline:
            time.sleep(0.02)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=10)
        took = time.monotonic() - started
        stopped.set()
    assert took < 2
    assert process.returncode == 130
    graded = len(list(tmp_path.rglob("*.trace.json")))
    assert graded >= 5
    assert "repeat the command to go on" in words
    assert "Traceback" not in words
