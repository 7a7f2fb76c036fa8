"""Collecting traces: everything once, resumed exactly, failures counted, nothing half written."""

import asyncio
import gc
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keepstate import display
from keepstate.cli import _collect, cli
from keepstate.errors import EpisodeFailure, UserError
from keepstate.models.base import Message, Reply
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play import jobs
from keepstate.play.collect import COLLECTION_FILE, CollectPlan, Teacher, collect
from keepstate.play.jobs import RETRIES
from keepstate.play.tally import Tally, TallyDisplay
from keepstate.processes import alone_in
from keepstate.resume import OtherWork
from keepstate.tasks import make_tasks, write_tasks
from keepstate.tasks.base import Task
from keepstate.traces import read_trace
from keepstate.traces.check import check_folders
from keepstate.traces.record import Limits, Trace
from keepstate.traces.writer import write_traces
from keepstate.vocabulary import Origin, RuntimeName

REACT = (RuntimeName.REACT,)


def tasks_of(count: int, seed: int = 0) -> list[Task]:
    return list(make_tasks("knapsack", "mini", count, seed))


def plan(tasks: list[Task], out: Path, teacher: Teacher = ScriptedTeacher, **changes: object) -> CollectPlan:
    return CollectPlan(tasks, **{"runtimes": REACT, "teacher": teacher, "out": out, **changes})  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def path_of(task: Task, out: Path) -> Path:
    return out / "react" / f"{task.name}.trace.json"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["traces", "collect", *map(str, arguments)])


class Failing:
    """A model that fails, by us or by the user."""

    name = ScriptedTeacher(tasks_of(1)[0], RuntimeName.REACT).name

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        raise self.error


async def test_plays_every_task_in_every_runtime_and_the_second_run_plays_nothing(tmp_path: Path) -> None:
    tasks = tasks_of(3)
    everything = plan(tasks, tmp_path, runtimes=tuple(RuntimeName))
    first = await collect(everything, allow_unsafe=True)
    assert [(tally.name, tally.played) for tally in first] == [(runtime, 3) for runtime in RuntimeName]
    written = contents(tmp_path)
    assert set(written) == {
        f"{runtime}/{task.name}.{end}" for runtime in RuntimeName for task in tasks for end in ("json", "trace.json")
    } | {f"{runtime}/{COLLECTION_FILE}" for runtime in RuntimeName}
    second = await collect(everything, allow_unsafe=True)
    assert [(tally.played, tally.kept) for tally in second] == [(0, 3)] * 3
    assert [tally.score for tally in second] == pytest.approx([tally.score for tally in first])
    assert [tally.solved for tally in second] == [tally.solved for tally in first]
    assert contents(tmp_path) == written


class Spaced(ScriptedTeacher):
    """A teacher behind a server whose reasoning parser leaves line breaks before the answer."""

    async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
        assert not any(message["content"].startswith("\n") for message in messages)
        reply = await super().reply(messages, seed=seed, turn=turn)
        return replace(reply, text=f"\n \r\n\n{reply.text}")


async def test_a_teachers_leading_line_breaks_are_left_out_so_that_a_data_set_can_be_made(tmp_path: Path) -> None:
    tasks = tasks_of(2)
    (tally,) = await collect(plan(tasks, tmp_path / "spaced", Spaced))
    await collect(plan(tasks, tmp_path / "plain"))
    traces = [
        [read_trace(path) for path in sorted((tmp_path / name / "react").glob("*.trace.json"))]
        for name in ("spaced", "plain")
    ]
    assert [trace.messages for trace in traces[0]] == [trace.messages for trace in traces[1]]
    assert tally.trimmed == sum(len(trace.steps) for trace in traces[0]) > 0
    assert check_folders([tmp_path / "spaced"]).good


async def test_only_what_is_missing_or_differs_is_played(tmp_path: Path) -> None:
    tasks = tasks_of(4)
    await collect(plan(tasks, tmp_path))
    react = tmp_path / "react"
    (react / f"{tasks[0].name}.trace.json").unlink()
    (react / f"{tasks[1].name}.trace.json").write_text("{")
    other = tasks_of(1, seed=9)[0].model_copy(update={"task_id": tasks[2].task_id})
    changed = [tasks[0], tasks[1], other, tasks[3]]
    with pytest.raises(OtherWork, match=r"1 finished episodes \(first .*\n  content of the task: "):
        await collect(plan(changed, tmp_path))
    (tally,) = await collect(plan(changed, tmp_path, fresh=True))
    assert (tally.played, tally.kept) == (3, 1)
    assert read_trace(react / f"{other.name}.trace.json").task.content_hash == other.content_hash


async def test_a_run_killed_between_trace_and_verdict_is_mended_and_files_that_are_no_record_are_named(
    tmp_path: Path,
) -> None:
    tasks = tasks_of(4)
    await collect(plan(tasks, tmp_path))
    written, react = contents(tmp_path), tmp_path / "react"
    (react / f"{tasks[0].name}.json").unlink()
    (react / f"{tasks[1].name}.json").write_text("{")
    (tally,) = await collect(plan(tasks, tmp_path))
    assert (tally.played, tally.kept, tally.replaced) == (0, 4, [])
    assert contents(tmp_path) == written
    (react / f"{tasks[0].name}.trace.json").write_bytes(b"\0" * 100)
    shutil.copy(react / f"{tasks[2].name}.trace.json", react / f"{tasks[1].name}.trace.json")
    (react / f"{tasks[2].name}.json").write_text('{"status": "failed"}')
    (tally,) = await collect(plan(tasks, tmp_path))
    assert (tally.played, tally.kept) == (3, 1)
    assert [file.path.name for file in tally.replaced] == [f"{task.name}.trace.json" for task in tasks[:3]]
    assert "another episode: task" in tally.replaced[1].reason
    (react / f"{tasks[0].name}.trace.json").rename(tmp_path / "good")
    (react / f"{tasks[0].name}.trace.json").mkdir()
    with pytest.raises(UserError) as caught:
        await collect(plan(tasks, tmp_path))
    assert "it may hold a finished episode" in caught.value.hint
    with pytest.raises(UserError, match=r"cannot write .*good is no folder"):
        await collect(plan(tasks, tmp_path / "good"))  # a file, where a folder is needed


async def test_our_failures_are_counted_recorded_without_score_and_played_again(tmp_path: Path) -> None:
    tasks = tasks_of(3)

    def teacher(task: Task, runtime: RuntimeName) -> ScriptedTeacher | Failing:
        if task == tasks[1]:
            return Failing(EpisodeFailure(Origin.MODEL, "no answer"))
        return ScriptedTeacher(task, runtime)

    (tally,) = await collect(plan(tasks, tmp_path, teacher))
    assert (tally.played, dict(tally.failures)) == (2, {Origin.MODEL: 1})
    assert tally.first_failure == f"{tasks[1].name}: no answer"
    assert read_trace(tmp_path / "react" / f"{tasks[1].name}.trace.json").verdict is None
    (again,) = await collect(plan(tasks, tmp_path))
    assert (again.played, again.kept, again.failures.total()) == (1, 2, 0)


async def test_a_failure_of_ours_is_tried_again_at_most_twice_in_the_same_run(tmp_path: Path) -> None:
    asked: list[str] = []

    def teacher(passing_attempt: int) -> Teacher:
        def play(task: Task, runtime: RuntimeName) -> ScriptedTeacher | Failing:
            asked.append(task.name)
            failing = len(asked) - 1 < passing_attempt  # the first call asks for the name alone
            return Failing(EpisodeFailure(Origin.MODEL, "no answer")) if failing else ScriptedTeacher(task, runtime)

        return play

    (tally,) = await collect(plan(tasks_of(1), tmp_path / "passing", teacher(1 + RETRIES)))
    assert (tally.played, tally.failures.total(), len(asked)) == (1, 0, 2 + RETRIES)
    asked.clear()
    (tally,) = await collect(plan(tasks_of(1), tmp_path / "failing", teacher(2 + RETRIES)))
    assert (tally.played, tally.failures.total(), len(asked)) == (0, 1, 2 + RETRIES)
    assert tally.open == 0


async def test_two_at_once_do_not_play_into_one_folder(tmp_path: Path) -> None:
    tasks = tasks_of(1)
    with alone_in(tmp_path / "react"):
        with pytest.raises(UserError, match=r"another keepstate plays into .*react now"):
            await collect(plan(tasks, tmp_path))
        (other,) = await collect(plan(tasks, tmp_path, runtimes=(RuntimeName.FORGET,)), allow_unsafe=True)
    assert other.played == 1
    assert (await collect(plan(tasks, tmp_path)))[0].played == 1


async def test_what_the_user_must_mend_stops_the_run_as_one_error(tmp_path: Path) -> None:
    error = UserError("no model of that name", "name another")
    with pytest.raises(UserError, match="no model of that name"):
        await collect(plan(tasks_of(4), tmp_path, lambda _task, _runtime: Failing(error)))


async def test_when_one_write_fails_the_others_are_waited_for_and_one_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = list[int]()

    def full(episodes: Sequence[tuple[Path, Trace]]) -> None:
        time.sleep(0.3)
        failed.append(len(episodes))
        raise UserError("no disk space left", "free some space")

    printed: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: printed.append(context))
    monkeypatch.setattr(jobs, "write_traces", full)
    with pytest.raises(UserError, match="no disk space left"):
        await collect(plan(tasks_of(2), tmp_path))
    assert failed == [2, 1, 1], "one that cannot be written takes no other with it"
    gc.collect()  # when a future goes, asyncio prints the error that nobody looked at
    assert printed == []


async def test_no_more_are_written_together_than_may_be_open_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, counted = list[int](), list[object]()

    def written(batch: Sequence[object]) -> list[None]:
        sizes.append(len(batch))
        return [None] * len(batch)

    async def over(_: object) -> None:
        """Nobody is told."""

    monkeypatch.setattr(jobs, "MOST_WAITING", 4)
    monkeypatch.setattr(jobs, "_written", written)
    job: Any = SimpleNamespace(tally=SimpleNamespace(add=counted.append), begin=lambda: None)
    trace: Any = None
    async with jobs.Recording(over) as recording:
        await asyncio.gather(*(recording.add(job, trace) for _ in range(9)))
    assert (sizes, len(counted)) == ([4, 4, 1], 9)


async def test_episodes_that_end_while_others_are_written_are_written_together_and_counted_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MOST_WAITING", 4)
    others_end, sizes = threading.Event(), list[int]()

    def slow(episodes: Sequence[tuple[Path, Trace]]) -> None:
        assert others_end.wait(20)
        sizes.append(len(episodes))
        write_traces(episodes)

    played: list[int] = []
    monkeypatch.setattr(jobs, "write_traces", slow)
    made = plan(tasks_of(9), tmp_path, concurrency=1)
    asyncio.get_running_loop().call_later(0.5, others_end.set)
    (tally,) = await collect(made, on_progress=lambda tallies: played.append(tallies[0].played))
    assert (tally.played, sizes[:2], sum(sizes)) == (9, [1, 4], 9), "no more than four wait"
    assert played == list(range(1 + 9)), "each is told when it is counted"
    assert sum(name.endswith(".trace.json") for name in contents(tmp_path)) == 9


async def test_an_episode_that_cannot_be_written_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(3)

    def refusing(episodes: Sequence[tuple[Path, Trace]]) -> None:
        time.sleep(0.2)  # until all have ended
        if any(trace.task.name == tasks[1].name for _, trace in episodes):
            raise UserError("no disk space left", "free some space")
        write_traces(episodes)

    monkeypatch.setattr(jobs, "write_traces", refusing)
    with pytest.raises(UserError, match="no disk space left"):
        await collect(plan(tasks, tmp_path))
    monkeypatch.undo()
    (again,) = await collect(plan(tasks, tmp_path))
    assert (again.kept, again.played) == (2, 1)


async def test_a_cancelled_run_is_left_when_what_had_ended_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = threading.Event()

    def slow(episodes: Sequence[tuple[Path, Trace]]) -> None:
        writing.set()
        time.sleep(0.2)
        write_traces(episodes)

    monkeypatch.setattr(jobs, "write_traces", slow)
    running = asyncio.create_task(collect(plan(tasks_of(4), tmp_path)))
    await asyncio.to_thread(writing.wait, 20)
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sum(name.endswith(".trace.json") for name in contents(tmp_path)) == 4


async def test_cancelling_loses_only_the_episodes_in_flight(tmp_path: Path) -> None:
    tasks = tasks_of(6)
    stuck = asyncio.Event()

    class Stuck(Failing):
        async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
            stuck.set()
            await asyncio.Event().wait()
            raise AssertionError

    def teacher(task: Task, runtime: RuntimeName) -> ScriptedTeacher | Stuck:
        return Stuck(ValueError()) if task in tasks[3:] else ScriptedTeacher(task, runtime)

    seen: list[int] = []

    def progress(tallies: Sequence[Tally]) -> None:
        seen.append(tallies[0].played)

    running = asyncio.create_task(collect(plan(tasks, tmp_path, teacher, concurrency=1), on_progress=progress))
    await asyncio.wait_for(stuck.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen[0] == 0
    assert len(contents(tmp_path)) == 6 + 1
    (resumed,) = await collect(plan(tasks, tmp_path))
    assert (resumed.played, resumed.kept) == (3, 3)


def test_the_command_plays_reports_and_says_by_its_exit_code_what_is_missing(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", tasks_of(2))
    arguments = ("--tasks", tmp_path / "tasks", "--runtime", "react", "--out", tmp_path / "traces")
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/traces/react: 2 recorded, 0 kept, mean score" in result.stdout
    (tmp_path / "tasks" / "broken.json").write_text("{")
    result = command(*arguments)
    assert result.exit_code == 1
    assert "react: 0 recorded, 2 kept" in result.stdout
    assert "broken.json: not JSON" in result.stderr


def test_finished_episodes_of_other_options_are_replaced_on_request_alone(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", tasks_of(2))
    arguments = ("--tasks", tmp_path / "tasks", "--runtime", "react", "--out", tmp_path / "traces")
    assert command(*arguments).exit_code == 0
    written = contents(tmp_path / "traces")
    for other, changed in ((("--seed", 1), "seed: 0 -> 1"), (("--turns", 7), "limits.turns: 40 -> 7")):
        refused = command(*arguments, *other)
        assert isinstance(refused.exception, OtherWork)
        folder = tmp_path / "traces" / "react"
        assert refused.exception.message == f"{folder} holds 2 finished traces of other options:\n  {changed}"
        assert "--fresh" in refused.exception.hint
        assert contents(tmp_path / "traces") == written
    for kept in (0, 2):
        result = command(*arguments, "--seed", 1, "--fresh")
        assert result.exit_code == 0, result.output
        assert f"react: {2 - kept} recorded, {kept} kept" in result.stdout, "fresh keeps what these options made"
    assert contents(tmp_path / "traces").keys() == written.keys()


async def test_more_tasks_go_on_with_a_collection_and_what_fresh_replaces_leaves_no_mixture(tmp_path: Path) -> None:
    tasks = tasks_of(4)
    await collect(plan(tasks[:2], tmp_path))
    (tally,) = await collect(plan(tasks, tmp_path))
    assert (tally.played, tally.kept) == (2, 2)
    with pytest.raises(OtherWork, match=r"4 finished traces of other options:\n  seed: 0 -> 1"):
        await collect(plan(tasks[:1], tmp_path, seed=1))
    imported = tmp_path / "react" / "knapsack-imported.trace.json"
    imported.write_text(json.dumps(json.loads(path_of(tasks[0], tmp_path).read_text()) | {"limits": None}))
    (tally,) = await collect(plan(tasks[:1], tmp_path, seed=1, fresh=True))
    assert tally.played == 1
    left = {path.name for path in (tmp_path / "react").glob("*.trace.json")}
    assert left == {imported.name, path_of(tasks[0], tmp_path).name}


async def test_a_finished_trace_of_a_newer_version_is_replaced_on_request_alone(tmp_path: Path) -> None:
    (task,) = tasks_of(1)
    await collect(plan([task], tmp_path))
    path = path_of(task, tmp_path)
    raw = json.loads(path.read_text())
    raw["limits"]["new_bound"] = 3
    path.write_text(json.dumps(raw))
    with pytest.raises(OtherWork, match=r"1 finished episodes .*\n  unknown key 'limits\.new_bound'"):
        await collect(plan([task], tmp_path))
    assert json.loads(path.read_text()) == raw
    (tally,) = await collect(plan([task], tmp_path, fresh=True))
    assert (tally.played, tally.kept) == (1, 0)
    assert "new_bound" not in path.read_text()
    path.write_text(json.dumps(raw | {"verdict": None}))
    (tally,) = await collect(plan([task], tmp_path))
    assert tally.played == 1, "what is not graded is not finished"


async def test_a_replacement_that_cannot_be_played_replaces_nothing(tmp_path: Path) -> None:
    tasks = tasks_of(2)
    await collect(plan(tasks, tmp_path))
    written = contents(tmp_path)
    error = UserError("no server answers", "start it")
    with pytest.raises(UserError, match="no server answers"):
        await collect(plan(tasks, tmp_path, lambda _task, _runtime: Failing(error), seed=1, fresh=True))
    assert contents(tmp_path) == written


async def test_a_folder_that_is_called_as_a_trace_is_nobodys_and_ends_no_replacement(tmp_path: Path) -> None:
    tasks = tasks_of(2)
    await collect(plan(tasks, tmp_path))
    (tmp_path / "react" / "mine.trace.json").mkdir()
    with pytest.raises(OtherWork, match="holds 2 finished traces"):
        await collect(plan(tasks, tmp_path, seed=1))
    (tally,) = await collect(plan(tasks, tmp_path, seed=1, fresh=True))
    assert tally.played == 2
    assert (tmp_path / "react" / "mine.trace.json").is_dir()


async def test_where_a_folder_is_in_the_records_place_fresh_removes_nothing(tmp_path: Path) -> None:
    tasks = tasks_of(2)
    await collect(plan(tasks, tmp_path))
    record = tmp_path / "react" / COLLECTION_FILE
    record.unlink()
    written = contents(tmp_path)
    record.mkdir()
    with pytest.raises(UserError, match=r"collection\.json is a folder"):
        await collect(plan(tasks, tmp_path, seed=1, fresh=True))
    record.rmdir()
    assert contents(tmp_path) == written


async def test_where_no_episode_was_finished_nothing_is_refused(tmp_path: Path) -> None:
    tasks = tasks_of(2)
    failing = EpisodeFailure(Origin.MODEL, "no answer")
    (tally,) = await collect(plan(tasks, tmp_path, lambda _task, _runtime: Failing(failing)))
    assert tally.failures.total() == 2
    (tally,) = await collect(plan(tasks, tmp_path, seed=1))
    assert tally.played == 2
    assert json.loads((tmp_path / "react" / COLLECTION_FILE).read_text())["decisive"]["seed"] == 1


async def test_a_collection_of_an_older_version_goes_on_by_what_its_traces_tell(tmp_path: Path) -> None:
    tasks = tasks_of(3)
    await collect(plan(tasks[:2], tmp_path))
    record = tmp_path / "react" / COLLECTION_FILE
    record.unlink()
    with pytest.raises(OtherWork, match=r"2 finished traces of other options:\n  limits\.turns: 40 -> 7"):
        await collect(plan(tasks[2:], tmp_path, limits=Limits(turns=7)))
    idle = Failing(AssertionError("it is not asked"))
    with pytest.raises(OtherWork, match=r"2 finished traces of other options:\n  family: knapsack -> navigation"):
        await collect(plan(list(make_tasks("navigation", "mini", 1, 0)), tmp_path, lambda _task, _runtime: idle))
    (tally,) = await collect(plan(tasks, tmp_path))
    assert (tally.played, tally.kept) == (1, 2)
    assert record.exists()


def test_a_line_is_said_now_and_then_also_while_no_episode_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0.02)
    enough, beat = threading.Event(), TallyDisplay.beat
    beats = count(1)

    def counted(shown: TallyDisplay) -> None:
        beat(shown)
        if shown.last is not None and next(beats) == 3:
            enough.set()

    class Slow(ScriptedTeacher):
        async def reply(self, messages: Sequence[Message], *, seed: int, turn: int) -> Reply:
            await asyncio.to_thread(enough.wait, 30)
            return await super().reply(messages, seed=seed, turn=turn)

    monkeypatch.setattr(TallyDisplay, "beat", counted)
    monkeypatch.setattr(_collect, "ScriptedTeacher", Slow)
    write_tasks(tmp_path / "tasks", tasks_of(1))
    result = command("--tasks", tmp_path / "tasks", "--runtime", "react", "--out", tmp_path / "traces")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("0/1 episodes; 1 open, 0 episodes/min, ") >= 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--teacher", "llm"], "--base-url and --model"),
        (["--base-url", "http://127.0.0.1:9/v1"], "--teacher llm"),
        (["--tasks", "/nowhere"], "no such folder"),
    ],
)
def test_bad_options_are_explained(tmp_path: Path, options: list[str], says: str) -> None:
    write_tasks(tmp_path, tasks_of(1))
    result = command("--tasks", tmp_path, *options)
    assert isinstance(result.exception, UserError)
    assert says in result.exception.message


def test_a_dead_url_of_a_teacher_is_said_at_once_and_only_where_it_is_needed(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    write_tasks(tmp_path / "tasks", tasks_of(2))
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    options = ("--teacher", "llm", "--base-url", url, "--model", "m", "--runtime", "react")
    started = time.monotonic()
    result = command("--tasks", tmp_path / "tasks", "--out", tmp_path / "traces", *options)
    assert time.monotonic() - started < 10
    assert isinstance(result.exception, UserError)
    assert f"no server answers at {url}" in result.exception.message
    assert not (tmp_path / "traces").exists()


async def test_ctrl_c_ends_the_command_with_130_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", tasks_of(2))
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    options = ["--tasks", str(tmp_path / "tasks"), "--out", str(tmp_path / "traces"), "--runtime", "react"]
    teacher = ["--teacher", "llm", "--base-url", url, "--model", "m"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "keepstate", "traces", "collect", *options, *teacher, stderr=asyncio.subprocess.PIPE
    )
    await asyncio.wait_for(asked.wait(), 30)
    process.send_signal(signal.SIGINT)
    _, stderr = await asyncio.wait_for(process.communicate(), 20)
    server.close()
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert b"interrupted" in stderr
    assert not list((tmp_path / "traces").rglob("*"))


def test_without_a_cap_a_teacher_makes_all_its_calls_at_once(tmp_path: Path) -> None:
    [path] = write_tasks(tmp_path / "tasks", tasks_of(1))
    options = ("--tasks", path.parent, "--runtime", "react", "--out", tmp_path / "out", "--tool-calls")
    assert command(*options, "none").exit_code == 0
    trace = read_trace(next((tmp_path / "out/react").glob("*.trace.json")))
    assert trace.limits is not None
    assert trace.limits.tool_calls == "none"
    assert len(trace.steps[1].interpreter_result.results) > 2
    refused = command(*options, "1")
    assert refused.exit_code == 2
    assert "1 is not in the range x>=2" in refused.output
