"""Files and hashes that everything else stands on."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstate.errors import UserError
from keepstate.files import (
    ListHash,
    atomic_file,
    canonical_json,
    content_hash,
    parse_json,
    parse_yaml,
    scratch_folder,
    write_atomic,
    write_json,
)
from keepstate.many_files import write_many, write_together

TEXT = st.text(st.characters(codec=None))
ITEMS = st.lists(st.one_of(TEXT, st.integers(), st.dictionaries(TEXT, TEXT), st.none()), max_size=8)


@given(ITEMS, st.lists(st.integers(0, 8), max_size=5))
def test_the_hash_of_a_growing_list_is_that_of_the_whole(items: list[Any], stops: list[int]) -> None:
    running = ListHash()
    for stop in [*sorted(stops), len(items), len(items)]:
        assert running.of(items[:stop]) == content_hash(items[:stop])


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e400", "-1e999", "{"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON number|Expecting"):
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "\x00",
        "\udcff",
        "a: 2020-13-01",
        "a: !!int ''",
        "a: !!bool x",
        "9" * 5000,
        "[" * 5000,
        "!!python/tuple []",
    ],
)
def test_what_is_no_yaml_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not YAML: [^\n]+$"):
        parse_yaml(text.encode(errors="surrogateescape"))


def test_json_is_read_and_written_strictly(tmp_path: Path) -> None:
    assert parse_json(b'{"a": [1, 1.5e3, null, "NaN"]}') == {"a": [1, 1500.0, None, "NaN"]}
    for write in (partial(write_json, tmp_path / "x.json"), canonical_json):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write({"score": float("nan")})
    assert not list(tmp_path.iterdir())


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_a_file_is_as_open_as_its_user_wants(mask: int, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with umask(mask):
        write_atomic(path, "1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        path.chmod(0o640)
        write_atomic(path, "2")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("2", 0o640), "what was set by hand stays"


WRITES_FOR_EVER = """
import sys, time
from pathlib import Path
from keepstate.files import atomic_file, scratch_folder
with scratch_folder(Path(sys.argv[1]), ".work.") as work, atomic_file(Path(sys.argv[1]) / "a.json") as file:
    file.write(b"half")
    (work / "b").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@contextmanager
def somebody_writing(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process in the middle of writing `a.json` and in a scratch folder; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITES_FOR_EVER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    with somebody_writing(tmp_path):
        pass
    assert len(list(tmp_path.iterdir())) == 2, "a killed process clears nothing itself"
    (tmp_path / ".other.json.tmp").write_text("not ours")
    write_atomic(tmp_path / "a.json", "whole")
    with scratch_folder(tmp_path, ".work.") as work:
        assert list(tmp_path.glob(".work.*")) == [work]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.json.tmp", "a.json"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with somebody_writing(tmp_path):
        theirs = set(tmp_path.iterdir())
        write_atomic(tmp_path / "a.json", "mine")
        with scratch_folder(tmp_path, ".work."):
            assert theirs < set(tmp_path.iterdir())
        assert set(tmp_path.iterdir()) == {*theirs, tmp_path / "a.json"}
        assert (tmp_path / "a.json").read_text() == "mine"


def test_a_file_that_many_write_at_once_is_always_whole(tmp_path: Path) -> None:
    path, broken = tmp_path / "a", []

    def write(letter: str) -> None:
        for _ in range(40):
            write_atomic(path, letter * 10_000)
            text = path.read_text()
            if text != text[0] * 10_000:
                broken.append(text[:20])

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert broken == []
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, "old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, "rows")
        assert os.read(reader, 9) == b"rows"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_many_files_are_written_as_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstate.many_files.WRITTEN_AT_ONCE", 2)
    (tmp_path / "old").write_text("old")
    files: list[tuple[Path, str | bytes]] = [(tmp_path / name, f"{name}\udcff") for name in ("new/a", "old", "b/c/d")]
    assert write_many(iter(files)) == [path for path, _ in files]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(path for path, _ in files)
    assert all(path.read_text() == f"{path.relative_to(tmp_path)}\\udcff" for path, _ in files)


def test_the_next_files_are_made_while_these_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = threading.Event()
    monkeypatch.setattr("keepstate.many_files.WRITTEN_AT_ONCE", 1)
    monkeypatch.setattr("keepstate.many_files.WAITED_FOR_ALONE", 0)
    monkeypatch.setattr("keepstate.many_files._sync_disk", lambda _folder: waited.append(made.wait(10)))
    waited: list[bool] = []

    def files() -> Iterator[tuple[Path, str]]:
        yield tmp_path / "first", ""
        made.set()
        yield tmp_path / "second", ""

    write_many(files())
    assert waited == [True, True]


@pytest.mark.parametrize(("count", "alone", "together"), [(8, 8 + 2, 0), (9, 2, 1)])
def test_the_disk_is_asked_for_each_of_a_few_files_and_once_for_many(
    count: int, alone: int, together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("os.fsync", lambda _: asked.append("fsync"))
    monkeypatch.setattr("keepstate.many_files._sync_disk", lambda _: asked.append("syncfs"))
    files = [(tmp_path / f"{number % 2}" / f"{number}", b"1") for number in range(count)]
    write_together(files)
    assert (asked.count("fsync"), asked.count("syncfs")) == (alone, together), "and each folder for the names"
    asked.clear()
    write_together(files, durable=False)
    assert not asked


def test_of_files_that_wait_together_none_appears_before_all_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_folder: Path) -> None:
        assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == []
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("keepstate.many_files.WAITED_FOR_ALONE", 0)
    monkeypatch.setattr("keepstate.many_files._sync_disk", full)
    with pytest.raises(UserError, match="no disk space left"):
        write_many((tmp_path / name, name) for name in "abc")
    assert list(tmp_path.iterdir()) == []
