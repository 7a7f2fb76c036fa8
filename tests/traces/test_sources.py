"""Conversation files in any encoding and layout: read rightly or named once, never shifted nor passed in silence."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keepstate.cli import cli
from keepstate.traces import TraceError, read_trace
from keepstate.traces.importing.folders import Left, import_traces
from keepstate.traces.importing.sources import iter_values
from keepstate.vocabulary import RuntimeName

ROWS: list[dict[str, Any]] = [{"n": n, "text": f"Straße {n} kostet 5 € \u2028 \U0001f378"} for n in range(3)]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]


def values(path: Path) -> list[Any]:
    return [str(value) if isinstance(value, TraceError) else value for _, value in iter_values(path)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_every_unicode_encoding_is_read(encoding: str, pack: Any, end: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for text in (end.join(LINES), end + end.join(LINES) + end):
        path.write_bytes(pack(text.encode(encoding)))
        assert values(path) == ROWS


def test_a_byte_order_mark_may_begin_any_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join("\ufeff" + line for line in LINES), encoding="utf-8")
    assert values(tmp_path / "x.jsonl") == ROWS


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=1),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        " ".join(LINES),
        "\n" + "\n\n".join(json.dumps(row, indent="\t") for row in ROWS),
    ],
)
def test_rows_may_be_an_array_or_documents_over_many_lines(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert values(tmp_path / "x.json") == ROWS


def test_an_array_of_rows_is_one_whatever_its_rows_hold_besides(tmp_path: Path) -> None:
    rows = [{**ROW, "role": "swe", "from": "a lab"}, None, [{"role": "user", "content": "u"}]]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert values(tmp_path / "x.json") == rows
    (tmp_path / "x.json").write_text(json.dumps(ROW["messages"]))
    assert values(tmp_path / "x.json") == [ROW["messages"]]


def test_rows_with_events_of_their_own_are_rows(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({**ROW, "events": [{"type": "click"}]}))
    assert "keys events" in run(tmp_path / "x.jsonl", "--out", tmp_path / "out").stderr


def test_places_are_the_lines_where_values_begin(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("\n" + json.dumps([{"a": 1}, {"b": [2]}], indent=1) + "\n" + json.dumps({"c": 3}, indent=1))
    assert [place for place, _ in iter_values(path)] == [f"{path}:{line}" for line in (3, 6, 12)]
    path.write_text('\n{"a": 1}\n{\n[{"b": 2}, {"c": 3}]\n')
    assert [place.removeprefix(f"{path}:") for place, _ in iter_values(path)] == ["2", "3", "4 item 1", "4 item 2"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("\n".join(LINES[:1]).replace("€", "").encode("cp1252", "replace"), "perhaps Windows-1252 or Latin-1"),
        (b'{"a": "\xff\xfe\x81"}', "perhaps an encoding of its own"),
        (gzip.compress(b"{}" * 999, mtime=0)[:20], "compressed with gzip and cannot be decompressed"),
        (b"\x28\xb5\x2f\xfd....", "decompress it first: zstd -d "),
        (b"BZh9....", "bunzip2"),
        (b"PAR1....", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page; download the file itself"),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "compressed with gzip twice"),
        (b"ARROW1..", "Arrow"),
        (b"x.jsonl".ljust(257, b"\0") + b"ustar  \0", "tar xf"),
        ('{"text": "кодировка"}'.encode("cp1251"), "perhaps an encoding of its own"),
        (b"PK\x03\x04", "zip archive"),
        (b"\xff\xfe{\x00x", "it begins as utf-16 and is not"),
        (b'{\n "a": 1,\n "b"\n}', "neither one JSON value a line nor one JSON document"),
        (b'[{"a": 1},\n{"a": 2}', "neither one JSON value a line nor one JSON document"),
        (b" \n\n", "the file is empty"),
        (b"", "the file is empty"),
        (b"a,b\n1,2\n", "neither one JSON value a line nor one JSON document"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_once(raw: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(raw)
    ((place, value),) = iter_values(tmp_path / "x.jsonl")
    assert isinstance(value, TraceError)
    assert place == str(tmp_path / "x.jsonl")
    assert words in str(value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_command_that_converts_a_file_works_as_it_is_typed(pack: Any, tmp_path: Path) -> None:
    path = tmp_path / "a file.jsonl"
    path.write_bytes(pack('{"text": "Straße"}'.encode("cp1252")))
    (reason,) = values(path)
    command = reason.partition("convert it first: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert values(tmp_path / "utf8.jsonl") == [{"text": "Straße"}]


def test_damaged_lines_of_a_file_are_named_alone(tmp_path: Path) -> None:
    good = [line.encode() for line in LINES]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join([good[0], b'{"a": "\xdf"}', good[1], b'{"a": NaN}', b"{", good[2]]))
    found = values(tmp_path / "x.jsonl")
    assert [value for value in found if isinstance(value, dict)] == ROWS
    assert [str(value).partition(":")[0] for value in found if isinstance(value, str)] == [
        "the line is not UTF-8, as others are",
        "no valid JSON",
        "no valid JSON",
    ]


def test_a_damaged_first_line_is_named_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a": "\xdf"}\n' + "\n".join(LINES).encode())
    assert values(tmp_path / "x.jsonl") == ["the line is not UTF-8, as others are", *ROWS]


def test_nothing_is_read_of_a_gzip_file_that_breaks_off_late(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"n": n, "text": "é" + str(n**9)}, ensure_ascii=False) for n in range(20_000))
    (tmp_path / "x.jsonl").write_bytes(gzip.compress(rows.encode())[:-20])
    (reason,) = values(tmp_path / "x.jsonl")
    assert "compressed with gzip and cannot be decompressed" in reason


ROW = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["traces", "import", *map(str, arguments), "--runtime", "persistent"])


def test_a_folder_is_read_whatever_the_case_of_names_and_says_what_it_passes_over(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number, name in enumerate(("a.JSONL", "b.ndjson", "c.json", "d.jsonl.gz")):
        row = json.dumps({**ROW, "id": number}, indent=2 if name == "c.json" else None).encode()
        (source / name).write_bytes(gzip.compress(row) if name.endswith("gz") else row)
    (source / "e.parquet").write_bytes(b"PAR1")
    (source / "gone.jsonl").symlink_to(source / "nowhere")
    (source / "f.json").write_text('{"x": 1}')
    (source / "task-1.trace.json").write_text("{}")
    (source / "task-1.json").write_text('{"status": "completed"}')
    (source / "task-1.jsonl").write_text(json.dumps({**ROW, "id": "rows beside a trace of the same name"}))
    done = run(source, "--out", out)
    assert len(list(out.rglob("*.trace.json"))) == 5
    assert "5 persistent; 2 could not be read" in done.stderr
    assert f"passed over: {source / 'e.parquet'}: it is Parquet; write its rows as JSON lines first" in done.stderr
    assert f"passed over: {source / 'f.json'}: neither `messages` nor" in done.stderr
    assert f"{source / 'gone.jsonl'}: No such file or directory" in done.stderr
    assert "task-1.json" not in done.stderr
    assert done.exit_code == 1


def test_every_trace_names_file_and_line_and_is_imported_once_whatever_the_path(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps({**ROW, "id": number}) for number in range(2)))
    run(tmp_path / "x.jsonl", "--out", tmp_path / "out")
    first = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")}
    places = {read_trace(path).versions["imported from place"] for path in first if ".trace." in path.name}
    assert places == {f"{tmp_path}/x.jsonl:{line}" for line in (1, 2)}
    for path in first:
        if ".trace." in path.name:  # as an older version wrote it
            path.write_bytes(path.read_bytes().replace(b"rows of messages", b"JSONL of messages"))
    first = {path: path.read_bytes() for path in first}
    (tmp_path / "y.jsonl").write_bytes(b"\n" + (tmp_path / "x.jsonl").read_bytes())
    run(tmp_path / "y.jsonl", "--out", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json")} == first


def test_one_reason_in_many_lines_is_not_said_a_thousand_times(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 100)
    done = run(tmp_path / "x.jsonl", "--out", tmp_path / "out")
    assert done.stderr.count("prompt and completion") == 6
    assert "and 95 more" in done.stderr
    assert "none; 100 could not be read" in done.stderr
    assert done.exit_code == 1


def test_one_reason_in_many_files_is_not_said_for_each(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"x{number}.jsonl").write_text('{"prompt": "q", "completion": "a"}\n')
    done = run(tmp_path, "--out", tmp_path / "out")
    assert done.stderr.count("prompt and completion") == 6
    assert "and 7 more: this is a row of prompt and completion" in done.stderr


def test_another_format_goes_to_the_file_that_was_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(ROW))
    file = tmp_path / "deep/out.jsonl"
    done = run(tmp_path / "x.jsonl", "--to", "messages", "--out", file)
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads(file.read_text())["messages"] == ROW["messages"]
    assert json.loads(run(tmp_path / "x.jsonl", "--to", "messages").stdout)["messages"] == ROW["messages"]
    assert run(tmp_path / "x.jsonl", "--to", "messages", "--out", tmp_path).exception.message.endswith(
        "one file is written"
    )  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [("--out", "F"), ("--to", "messages"), ("--to", "messages", "--out", "F")])
def test_an_import_of_nothing_is_no_success(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = run(tmp_path / "in", *(tmp_path / "F" if word == "F" else word for word in options))
    assert done.exit_code
    assert "nothing was imported" in str(done.exception)
    assert not (tmp_path / "F").exists()
    assert CliRunner().invoke(cli, ["traces", "import", str(tmp_path / "none.jsonl")]).exit_code


def test_two_imports_into_one_folder_lose_nothing(tmp_path: Path) -> None:
    imports = []
    for name in "xy":
        rows = [{**ROW, "id": "one task", "messages": [*ROW["messages"], *ROW["messages"][:1] * n]} for n in range(60)]
        rows = [{**row, "messages": [{"role": "system", "content": name}, *row["messages"]]} for row in rows]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        words = ["traces", "import", tmp_path / name, "--runtime", "react", "--out", tmp_path / "out"]
        imports.append(subprocess.Popen([sys.executable, "-c", "from keepstate.cli import main; main()", *words]))
    assert [each.wait() for each in imports] == [0, 0]
    assert len(list((tmp_path / "out").rglob("*.trace.json"))) == 120


def test_an_import_says_which_file_it_is_at(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"x{number}.jsonl").write_text(json.dumps(ROW))
    seen: list[tuple[int, int]] = []
    left = Left(lambda _: None)
    import_traces([tmp_path], RuntimeName.PERSISTENT, left, out=tmp_path / "out", on_progress=seen.append)
    assert seen == [(0, 3), (1, 3), (2, 3)]
