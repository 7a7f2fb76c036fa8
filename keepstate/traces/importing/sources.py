"""The JSON values in a file from elsewhere, whatever its encoding and layout, each with the line it starts in.

Read: UTF-8, UTF-16 and UTF-32 with or without a byte order mark, gzip (by content); one value a line, one or several
documents over many lines, an array of rows, values that run on without a line's end; the samples in an archive of
inspect_ai's. A file in any other encoding or format is named once and nothing of it is read. Makes no trace of the
values.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import IO, Any, AnyStr, cast

from keepstate.files import parse_json
from keepstate.traces.importing.inspect_logs import samples_of
from keepstate.traces.importing.smolagents import is_memory
from keepstate.traces.record import TraceError

GZIP = b"\x1f\x8b"
ZIP = b"PK\x03\x04"
FORMATS = (
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it first: zstd -d FILE"),
    (b"BZh", "compressed with bzip2", "decompress it first: bunzip2 FILE"),
    (b"\xfd7zXZ", "compressed with xz", "decompress it first: unxz FILE"),
    (ZIP, "a zip archive", "unpack it first: unzip FILE"),
    (b"7z\xbc\xaf", "a 7-Zip archive", "unpack it first"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "decompress it first: unlz4 FILE"),
    (b"PAR1", "Parquet", "write its rows as JSON lines first, with the library that reads it"),
    (b"ARROW1", "Arrow", "write its rows as JSON lines first, with the library that reads it"),
    (b"\xff\xff\xff\xff", "Arrow", "write its rows as JSON lines first, with the library that reads it"),
    (b"SQLite format 3", "an SQLite database", "write its rows as JSON lines first"),
    (b"%PDF", "a PDF", "only JSON is read"),
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file", "fetch that first: git lfs pull"),
    (b"<!DOCTYPE", "a web page", "download the file itself (of a hub: its `resolve` address, not `blob`)"),
    (b"<html", "a web page", "download the file itself (of a hub: its `resolve` address, not `blob`)"),
)
"""How files of other formats begin, what they are, and the way out."""
TAR, HEAD_BYTES = slice(257, 262), 262
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ZEROS = (
    (re.compile(rb"\0\0\0[^\0]", re.DOTALL), "utf-32-be"),
    (re.compile(rb"[^\0]\0\0\0", re.DOTALL), "utf-32-le"),
    (re.compile(rb"\0[^\0]\0[^\0]", re.DOTALL), "utf-16-be"),
    (re.compile(rb"[^\0]\0[^\0]\0", re.DOTALL), "utf-16-le"),
)
"""Where the zeros are in the first four bytes of JSON, which begins with ASCII (RFC 4627, section 3)."""
NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]|[\x80-\xff]{4}")
"""Bytes that it does not use, or as many letters beyond ASCII in a row as no language writes that it is for."""
MARK = "\ufeff"
CHUNK_CHARS = 1 << 20
MOST_CHARS = 512 << 20
"""Of one line, and of a file that is not one value a line: parsed, it takes several times as much memory."""
ONE_A_LINE = "write its rows one a line first, e.g. jq -c '.[]' FILE"
_SPACE = re.compile(r"[\s\ufeff]*")
_DECODER = json.JSONDecoder()


def iter_values(path: Path) -> Iterator[tuple[str, Any]]:
    """Every value in a file, with its place `<path>:<line>`; a `TraceError` in place of what cannot be read.

    Raises:
        OSError: The file cannot be read.
    """
    if _is_zip(path):
        yield from _ending(str(path), samples_of(path))
        return
    try:
        encoding = _encoding(path)
        first = next((line for line in _lines(path, encoding) if line is None or line.strip().strip(MARK)), "")
        documents = None if _parses(first) else _documents_of(path, encoding)
    except TraceError as error:
        yield str(path), error
        return
    if documents is not None:
        for line, value in documents:
            yield f"{path}:{line}", value
        return
    yield from _ending(str(path), _values_by_line(path, encoding))


def _ending(place: str, found: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """What is found, and at the end why no more is."""
    try:
        yield from found
    except TraceError as error:
        yield place, error


def _values_by_line(path: Path, encoding: str) -> Iterator[tuple[str, Any]]:
    for number, text in enumerate(_lines(path, encoding), start=1):
        place = f"{path}:{number}"
        if text is None:
            yield place, TraceError("the line is not UTF-8, as others are")
        elif text.strip().strip(MARK):
            yield from _values_of_line(place, text)


def is_rows(value: Any) -> bool:
    """Whether a JSON value is an array of rows, and not of the messages or steps of one conversation."""
    return isinstance(value, list) and bool(value) and not any(map(_is_message, value)) and not is_memory(value)


def _is_message(value: Any) -> bool:
    keys = value.keys() if isinstance(value, Mapping) else set()
    return bool(keys & {"role", "from"}) and not keys & {"messages", "conversations"}


def other_format(path: Path) -> str | None:
    """What a file is that is no text, and the way out; None where its content does not tell."""
    try:
        with path.open("rb") as file:
            return _other_format(file.read(HEAD_BYTES), path)
    except OSError as error:
        return error.strerror


def _other_format(head: bytes, path: Path) -> str | None:
    for magic, name, way_out in FORMATS:
        if head.startswith(magic):
            return f"it is {name}; {way_out.replace('FILE', quote(str(path)))}"
    return f"it is a tar archive; unpack it first: tar xf {quote(str(path))}" if head[TAR] == b"ustar" else None


def _values_of_line(place: str, text: str) -> Iterator[tuple[str, Any]]:
    try:
        value = parse_json(text.strip().lstrip(MARK))
    except (ValueError, RecursionError) as error:
        try:
            values = [value for _, value in _documents(text)]  # of files that were glued together
        except (ValueError, RecursionError):
            yield place, TraceError(f"no valid JSON: {error}")
            return
        yield from ((f"{place} item {number}", item) for number, item in enumerate(values, start=1))
        return
    if is_rows(value):
        yield from ((f"{place} item {number}", item) for number, item in enumerate(value, start=1))
    else:
        yield place, value


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if _packed(path) else path.open("rb")


def _encoding(path: Path) -> str:
    """The encoding of a file that can be read as text from end to end.

    Raises:
        TraceError: It is empty, no text, in another encoding, or its compression is broken.
    """
    encoding: str | None = None
    try:
        with _open(path) as file:
            head = file.read(HEAD_BYTES)
            if other := _other_format(head, path):
                raise TraceError(other)
            if head.startswith(GZIP):
                raise TraceError(f"it is compressed with gzip twice; decompress it first: gunzip {quote(str(path))}")
            encoding = next((name for mark, name in MARKS if head.startswith(mark)), None)
            encoding = encoding or next((name for zeros, name in ZEROS if zeros.match(head)), "utf-8")
            file.seek(0)
            if encoding == "utf-8":
                _require_utf8(path, file)
            else:
                text = io.TextIOWrapper(file, encoding)
                while text.read(CHUNK_CHARS):
                    pass
    except UnicodeDecodeError as error:
        raise TraceError(f"it begins as {encoding} and is not: {error.reason}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"it is compressed with gzip and cannot be decompressed: {error}") from error
    return encoding


def _require_utf8(path: Path, file: IO[bytes]) -> None:
    """Refuse a file whose lines are not UTF-8, unless others show that it is meant to be: then those are named alone.

    Raises:
        TraceError: It is in another encoding.
    """
    first_bad, other, meant = 0, False, False
    for number, line in enumerate(_bounded(file), start=1):  # to the end, where a gzip file may be cut
        if line.isascii():
            continue
        try:
            line.decode()
            meant = True
        except UnicodeDecodeError:
            first_bad, other = first_bad or number, other or bool(NOT_CP1252.search(line))
    if first_bad and not meant:
        found, name = ("an encoding of its own", "ENCODING") if other else ("Windows-1252 or Latin-1", "WINDOWS-1252")
        source, convert = quote(str(path)), f"iconv -f {name} -t UTF-8"
        command = f"zcat {source} | {convert}" if _packed(path) else f"{convert} {source}"
        raise TraceError(
            f"it is not UTF-8, 16 or 32 (first in line {first_bad}) but perhaps {found}; "
            f"convert it first: {command} > utf8.jsonl"
        )


def _lines(path: Path, encoding: str) -> Iterator[str | None]:
    """The lines of a file, None for one that cannot be decoded. Only a newline ends a line."""
    with _open(path) as file:
        if encoding != "utf-8":
            yield from _bounded(io.TextIOWrapper(file, encoding, newline="\n"))
            return
        for line in _bounded(file):
            try:
                yield line.decode()
            except UnicodeDecodeError:
                yield None


def _bounded(file: IO[AnyStr]) -> Iterator[AnyStr]:
    """Its lines.

    Raises:
        TraceError: One is longer than memory should hold.
    """
    while line := file.readline(MOST_CHARS + 1):
        if len(line) > MOST_CHARS:
            raise TraceError(f"it holds a line of more than {MOST_CHARS >> 20} MiB: {ONE_A_LINE}")
        yield line


def _parses(text: str | None) -> bool:
    try:
        return text is not None and parse_json(text.strip().lstrip(MARK)) is not None
    except (ValueError, RecursionError):
        return False


def _documents_of(path: Path, encoding: str) -> list[tuple[int, Any]] | None:
    """The values of a file whose first line holds none; None where its other lines do, so that it has one a line.

    Raises:
        TraceError: It is neither, or empty.
    """
    lines: list[str] = []
    size = 0
    for line in _lines(path, encoding):
        if line is None:
            return None  # damaged lines are named one by one
        size += len(line)
        if size > MOST_CHARS:
            raise TraceError(
                f"its first line is no JSON value, and all of it is over {MOST_CHARS >> 20} MiB: {ONE_A_LINE}"
            )
        lines.append(line)
    text = "".join(lines)
    if not text.strip().strip(MARK):
        raise TraceError("the file is empty")
    try:
        return list(_documents(text))
    except (ValueError, RecursionError) as error:
        array = text.lstrip().lstrip(MARK).startswith("[")  # that is broken, even if some of its lines are rows
        if not array and any(line.startswith(("{", "[")) and _parses(line) for line in text.split("\n")):
            return None
        reason = f"{error.msg}, line {error.lineno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise TraceError(f"neither one JSON value a line nor one JSON document: {reason}") from error


def _documents(text: str) -> Iterator[tuple[int, Any]]:
    """Each JSON value of `text` and the line it starts in; of an array of rows, each row.

    Raises:
        ValueError: Something in it is no JSON.
    """
    place, line, counted = 0, 1, 0
    while (place := _SPACE.match(text, place).end()) < len(text):  # type: ignore[union-attr]
        value, end = _DECODER.raw_decode(text, place)
        parse_json(text[place:end])  # strictly
        starts = _starts(text, place, len(value)) if is_rows(value) else [place]
        for start, item in zip(starts, value if is_rows(value) else [value], strict=True):
            line, counted = line + text.count("\n", counted, start), start
            yield line, item
        place = end


def _starts(text: str, place: int, count: int) -> Iterator[int]:
    """Where the items of the array that begins at `place` begin."""
    place += 1
    for _ in range(count):
        place = re.compile(r"[\s,]*").match(text, place).end()  # type: ignore[union-attr]
        yield place
        _, place = _DECODER.raw_decode(text, place)
