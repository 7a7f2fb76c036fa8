"""What a node converts for others: the same rows, and nothing where its files are not the driver's."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from made_traces import make_trace, write_traces

from keepstate.cli import cli, run
from keepstate.dataset import BuildOptions, build_datasets, shards
from keepstate.dataset.convert import LeftOut, Row, open_converter
from keepstate.dataset.shards import convert_chunk
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.play.node import Stopped, program
from keepstate.vocabulary import RuntimeName

PERSISTENT, OPTIONS = RuntimeName.PERSISTENT, BuildOptions()


def build(root: Path, out: Path, tokenizer: TextTokenizer, **how: Any) -> None:
    build_datasets(
        {PERSISTENT: root}, {PERSISTENT: out}, template="chatml", tokenizer_path=tokenizer.path, options=OPTIONS, **how
    )


class InLine:
    """A cluster whose one node is this process."""

    def in_order(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return map(pickle.loads(pickle.dumps(work)), items)


def test_a_data_set_is_the_same_bytes_and_paths_are_as_given(
    tmp_path: Path, small_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_traces(tmp_path / "t", [make_trace(number) for number in range(shards.CHUNK + 9)])
    (root / "broken.trace.json").write_text("{")
    (root / "lost.trace.json").symlink_to("nowhere")
    build(Path("t"), tmp_path / "a", small_tokenizer, jobs=1)
    build(Path("t"), tmp_path / "b", small_tokenizer, cluster=InLine())
    for name in ("train.jsonl", "val.jsonl", "index.jsonl", "left_out.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_node_with_other_files_ends_the_build(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0)])
    (path,) = root.glob("*.trace.json")
    template = load_template("chatml", small_tokenizer.path.parent)
    converter = partial(open_converter, template, small_tokenizer.path, OPTIONS, PERSISTENT)
    size = path.stat().st_size

    def convert(size: int = size, place: Path = path, **others: str) -> list[Row | LeftOut] | Stopped:
        told = {"tokenizer": small_tokenizer.sha256, "expected": program()} | others
        return convert_chunk([("named", str(place), size)], pickle.dumps(converter), **told)

    (row,) = convert()  # type: ignore[misc]
    assert row.path == "named"
    for stopped, words in (
        (convert(size - 1), f"{path} has {size} bytes on a node, and {size - 1} here"),
        (convert(size, path.with_name("gone")), "has -1 bytes on a node"),
        (convert(tokenizer="0"), "is another file on a node"),
        (convert(expected="keepstate 0"), "this is keepstate 0"),
    ):
        assert isinstance(stopped, Stopped)
        assert words in stopped.message
        assert isinstance(stopped.error(), UserError)


def test_processes_of_this_machine_are_none_of_the_clusters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["dataset", "build", "--engine", "ray", "--jobs", "2"]) == 2
    assert "--jobs belongs to --engine local" in capsys.readouterr().err
