"""`keepstate ls` and `clean`: what there is, how far it is, what failed, what may go and that nothing else does."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_traces import make_trace, write_traces

from keepstate import inventory, leftovers
from keepstate.bench.benchmark_config import BenchmarkConfig, TaskSource
from keepstate.bench.cells import make_cell
from keepstate.cli import cli
from keepstate.files import TEMPORARY, write_json
from keepstate.inventory import Kind, look
from keepstate.processes import alone_in
from keepstate.staging import place, stage
from keepstate.tasks import write_tasks
from keepstate.train.progress import PROGRESS
from keepstate.train.result import DONE, WEIGHTS, TrainedAdapter
from keepstate.train.run_folder import LOCK, alone
from keepstate.train.trained_for import RUN, TrainedFor
from keepstate.vocabulary import RuntimeName


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, words)])


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of each kind, and what is not keepstate's."""
    monkeypatch.chdir(tmp_path)
    source = TaskSource(difficulty="mini", count=2)
    config = BenchmarkConfig(name="p-forget", adapter="persistent", runtime=RuntimeName.FORGET, tasks=source)
    cell = make_cell(config, Path("runs/bench"))
    write_tasks(Path("data/tasks"), cell.tasks)
    cell.write()
    write_traces(cell.folder, [make_trace(1), make_trace(2, failed=True)])
    write_traces(Path("imported"), [make_trace(3)])
    write_json(Path("data/traces/react/collection.json"), {"decisive": {"model": "teacher", "runtime": "react"}})
    for name in ("half", "done"):
        training(Path("out") / name, finished=name == "done")
    write_json(Path("runs/bench/report/report.json"), {"schema": "keepstate.report.v2"})
    write_json(Path("web/manifest.json"), {"name": "somebody's"})
    write_json(Path("web/report.json"), ["somebody's"])
    write_json(Path(".hidden/cell.json"), {})
    write_json(Path("env/lib/cell.json"), {})
    Path("env/pyvenv.cfg").touch()
    return tmp_path


def training(folder: Path, *, finished: bool) -> None:
    write_json(folder / RUN, {"decisive": {"runtime": "forget"}})
    entry = {"event": "begin", "step": 3, "steps": 9}
    (folder / PROGRESS).write_text(json.dumps(entry) + "\n")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / WEIGHTS).write_bytes(b"1234")
    if finished:
        (folder / WEIGHTS).write_bytes(b"12")
        adapter = TrainedAdapter(
            key="0" * 64,
            name="forget",
            trained_for=TrainedFor(runtimes=(RuntimeName.FORGET,)),
            base_model="base",
            data_sha256="",
            template_sha256="",
            steps=9,
            first_loss=1,
            final_loss=None,
            seconds=1,
            tokens=1,
            peak_gib=0,
        )
        write_json(folder / DONE, adapter.model_dump(mode="json"))


def test_every_kind_is_listed_with_how_far_it_is(there: Path) -> None:
    found = {str(item.path): item for item in look(Path()).items}
    assert {
        path: (item.kind, item.what, item.done, item.total, len(item.ungraded)) for path, item in found.items()
    } == {
        "data/tasks": (Kind.TASKS, "knapsack", 2, None, 0),
        "imported": (Kind.TRACES, "imported", 1, None, 0),
        "data/traces/react": (Kind.TRACES, "teacher → react", 0, None, 0),
        "out/half": (Kind.TRAINING, "forget", 3, 9, 0),
        "out/done": (Kind.ADAPTER, "forget of base", 9, 9, 0),
        "runs/bench/p-forget": (Kind.CELL, "persistent → forget", 1, 2, 1),
        "runs/bench/report": (Kind.REPORT, "", None, None, 0),
    }
    files = [path for path in Path("out/done").rglob("*") if path.is_file()]
    assert found["out/done"].bytes == sum(path.stat().st_size for path in files)
    assert found["out/done"].changed == max(path.stat().st_mtime for path in files)
    assert [item.kind for item in look(Path()).items] == sorted((i.kind for i in found.values()), key=[*Kind].index)


def test_the_table_says_what_the_json_says(there: Path) -> None:
    listed, told = call("ls", there), call("ls", there, "--json")
    assert (listed.exit_code, told.exit_code) == (0, 0)
    rows = json.loads(told.stdout)
    assert len(rows) == 7
    assert all(row["path"] in listed.stdout for row in rows)
    for words in ("1 of 2 graded, 1 solved, 1 failed", "3 of 9 steps", "2 tasks", "persistent → forget"):
        assert words in listed.stdout


def test_a_training_that_runs_now_is_told_from_one_that_was_cut(there: Path) -> None:
    assert "running" not in call("ls").stdout
    with alone(there / "out" / "half"):
        assert {str(item.path) for item in look(Path()).items if item.running} == {"out/half"}
        assert "3 of 9 steps, running" in call("ls").stdout
    assert "running" not in call("ls").stdout


def test_failed_episodes_are_named_with_their_reason(there: Path) -> None:
    (there / "imported" / "broken.trace.json").write_text("{")
    done = call("ls", "--failed")
    assert "runs/bench/p-forget/knapsack-t2.trace.json: sandbox: gone\n" in done.stdout
    assert "imported/broken.trace.json: no verdict lies beside it" in done.stdout
    assert "2 episodes are not graded" in done.stderr
    told = json.loads(call("ls", "--failed", "--json").stdout)
    assert [entry["origin"] for entry in told] == [None, "sandbox"]


def test_what_cannot_be_read_is_shown_as_such_and_exits_1(there: Path) -> None:
    (there / "runs" / "bench" / "p-forget" / "cell.json").write_text("{")
    (there / "out" / "done" / WEIGHTS).unlink()
    done = call("ls", "--json")
    problems = {row["path"]: row["problem"] for row in json.loads(done.stdout) if row["problem"]}
    assert done.exit_code == 1
    assert problems.keys() == {"runs/bench/p-forget", "out/done"}
    assert "weights are gone" in problems["out/done"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_closed_folder_is_named(there: Path) -> None:
    (there / "data").chmod(0)
    done = call("ls")
    (there / "data").chmod(0o755)
    assert (done.exit_code, "not looked into: data: Permission denied" in done.stderr) == (1, True)


def test_nothing_there_says_how_to_begin(tmp_path: Path) -> None:
    done = call("ls", tmp_path, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [])
    assert "keepstate tasks generate" in done.stderr
    assert call("ls", tmp_path / "nowhere").exit_code == 1  # UserError: `run` makes it 2


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def littered(there: Path) -> Path:
    """The same, with what killed runs left."""
    for name in ("runs/bench", "data/tasks", "env"):
        (there / name / f".x.json{TEMPORARY}").write_text("{")
    (there / "out" / "done" / "prepared" / "a").mkdir(parents=True)
    (there / "out" / "done" / "prepared" / "a" / "data.arrow").write_bytes(b"1")
    (there / "out" / "done" / "checkpoint-9").symlink_to(there / "imported")
    for name in ("checkpoint-best", "checkpoint-3-copy", "checkpoint-"):
        (there / "out" / "done" / name).mkdir()
        (there / "out" / "done" / name / "mine").touch()
    return there


def test_nothing_is_removed_unasked(littered: Path) -> None:
    before = files_below(littered)
    done = call("clean")
    assert (done.exit_code, files_below(littered)) == (0, before)
    assert done.stdout.count("could go") == 4
    assert "4, 7 B; to remove them: keepstate clean . --delete" in done.stderr


def test_what_is_of_no_more_use_goes_and_nothing_else(littered: Path) -> None:
    before = files_below(littered)
    done = call("clean", "--delete", "--json")
    assert done.exit_code == 0
    assert all(entry["removed"] for entry in json.loads(done.stdout))
    assert before - files_below(littered) == {
        f"runs/bench/.x.json{TEMPORARY}",
        f"data/tasks/.x.json{TEMPORARY}",
        "out/done/checkpoint-3/adapter_model.safetensors",
        "out/done/prepared/a/data.arrow",
    }
    assert "nothing to remove" in call("clean", "--delete").stderr


def test_what_a_process_uses_stays(littered: Path) -> None:
    held = [littered / "runs" / "bench" / f".x.json{TEMPORARY}", littered / "out" / "done" / LOCK]
    before = files_below(littered)
    with held[0].open() as one, held[1].open("w") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX)
        done = call("clean", "--delete")
    assert (done.exit_code, done.stdout.count("stays  ")) == (1, 3)
    assert "used by a process now" in done.stderr
    assert before - files_below(littered) == {f"data/tasks/.x.json{TEMPORARY}"}


def test_what_nodes_staged_stays_while_the_run_lives_and_goes_when_it_has_died(there: Path) -> None:
    cell = there / "runs" / "bench" / "p-forget"
    with alone_in(cell):
        for mark in ("0" * 16, "1" * 16):
            stage(cell / "t3.trace.json", b"{}", mark)
        done = call("clean", "--delete")
        assert (done.exit_code, done.stdout.count("stays  ")) == (1, 2)
        assert "used by a process now" in done.stderr
        place(cell / "t3.trace.json", "0" * 16)
    done = call("clean", "--delete")
    assert (done.exit_code, done.stdout.count("removed  ")) == (0, 1)
    assert "nothing to remove" in call("clean").stderr


def test_what_nodes_staged_stays_where_nobody_can_tell_whether_the_run_lives(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS, on which folders cannot be locked."""
    cell, lock = there / "runs" / "bench" / "p-forget", fcntl.flock
    stage(cell / "t3.trace.json", b"{}", "0" * 16)

    def only_files(descriptor: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", only_files)
    with alone_in(cell):  # there the run is played all the same
        assert call("clean", "--delete").stdout.count("stays  ") == 1


def test_files_that_come_and_go_meanwhile_are_no_error(littered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanishing(*words: object) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
        for folder, files in folders(*words):  # type: ignore[arg-type]
            for entry in files:
                if entry.name.endswith(TEMPORARY):
                    (folder / entry.name).unlink(missing_ok=True)
            yield folder, files

    folders = inventory.folders
    monkeypatch.setattr(leftovers, "folders", vanishing)
    assert call("clean").stdout.count("could go") == 2
    (littered / "runs" / "bench" / "p-forget" / f".x.json{TEMPORARY}").touch()
    monkeypatch.setattr(inventory, "folders", vanishing)
    assert call("ls").exit_code == 0


def test_a_training_that_was_begun_anew_meanwhile_loses_nothing(littered: Path) -> None:
    found = {leftover.path.name: leftover for leftover in leftovers.leftovers(Path("out"), [])}
    (littered / "out" / "done" / DONE).unlink()
    before = files_below(littered) | {f"out/done/{LOCK}"}
    assert not found["checkpoint-3"].remove()
    assert not found["prepared"].remove()
    assert files_below(littered) == before


def test_a_name_is_one_line_and_no_command_of_a_terminal(there: Path) -> None:
    (there / f".a\nremoved  9 B  \x1b[2J{TEMPORARY}").touch()
    assert call("clean").stdout.startswith(
        f"could go        0 B  .a\\nremoved  9 B  \\x1b[2J{TEMPORARY}  (half written by a run that was killed)\n"
    )
    write_json(there / "traces:bug:" / "collection.json", {"decisive": {"model": "m", "runtime": "react"}})
    assert "traces:bug:" in call("ls").stdout
