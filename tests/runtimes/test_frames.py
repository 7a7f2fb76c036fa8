"""The host's reader of frames under arbitrary bytes: frames, nothing yet, or its own error; bounded memory."""

import asyncio
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstate.runtimes.sandbox.frames import MAX_MARKS, FrameError, FrameReader, decode, encode
from keepstate.runtimes.sandbox.guest import wire
from keepstate.runtimes.sandbox.guest.wire import MAX_FRAME
from keepstate.runtimes.sandbox.worker import Turns

LENGTHS = st.integers(0, 2**32 - 1)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=5)
TOKENS = st.sampled_from(
    [*'{}[]",:\\', "null", "true", "1e999", "-", "9" * 5000, "NaN", '"step"', "\\ud800", "\0", "\xff", " "]
)
HOSTILE = (
    st.binary(max_size=200)
    | st.lists(TOKENS, max_size=30).map(lambda parts: framed("".join(parts).encode("latin-1")))
    | st.tuples(LENGTHS, st.binary(max_size=50)).map(lambda pair: pair[0].to_bytes(4, "big") + pair[1])
    | MESSAGES.map(encode)
    | st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b"[" * 5000 + b"]" * 5000]).map(
        lambda text: len(text).to_bytes(4, "big") + text
    )
)


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, the rest in one."""
    found = []
    for size in cuts:
        found.append(data[:size])
        data = data[size:]
    return [*found, data]


def read(chunks: list[bytes]) -> tuple[list[dict[str, Any]], bool]:
    """Frames read from a stream, and whether it ended in the reader's own error."""
    reader, messages = FrameReader(), []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            for message in reader:
                messages.append(message)  # not `+= list(reader)`: those before a broken one count
    except FrameError:
        return messages, True
    return messages, False


@given(st.lists(MESSAGES, max_size=4), st.lists(st.integers(0, 40), max_size=20))
def test_frames_arrive_whole_whatever_the_pieces(messages: list[dict[str, Any]], cuts: list[int]) -> None:
    stream = b"".join(map(encode, messages))
    assert read(pieces(stream, cuts)) == (messages, False)


@given(st.lists(HOSTILE, max_size=5), st.lists(st.integers(0, 40), max_size=20))
@settings(max_examples=300)
def test_hostile_bytes_never_raise_another_error(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    in_pieces = read(pieces(stream, cuts))
    assert in_pieces == read([stream]), "the same whatever the pieces"
    assert all(isinstance(message, dict) for message in in_pieces[0])


@given(st.binary(max_size=300) | st.lists(TOKENS, max_size=30).map(lambda parts: "".join(parts).encode("latin-1")))
@settings(max_examples=300)
def test_what_is_decoded_is_finite_json(payload: bytes) -> None:
    try:
        message = decode(payload)
    except FrameError:
        return
    assert isinstance(message, dict)
    assert all(math.isfinite(value) for value in message.values() if isinstance(value, float))
    assert json.loads(json.dumps(message)) == message


@given(MESSAGES)
def test_both_sides_write_the_same_format(message: dict[str, Any]) -> None:
    assert decode(wire.encode(message)[4:]) == message == decode(encode(message)[4:])


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 2**31, 2**32 - 1])
def test_too_long_a_frame_is_refused_at_its_first_bytes(length: int) -> None:
    reader = FrameReader()
    reader.feed(length.to_bytes(4, "big"))
    with pytest.raises(FrameError, match=str(MAX_FRAME)):
        reader.next()


def test_memory_stays_within_the_cap() -> None:
    """The largest frame, fed piece by piece, and a claim of one more byte, cost little more than the frame."""
    payload = b'{"a":"' + b"x" * (MAX_FRAME - 8) + b'"}'
    assert len(payload) == MAX_FRAME
    tracemalloc.start()
    try:
        reader = FrameReader()
        for chunk in (MAX_FRAME.to_bytes(4, "big"), *pieces(payload, [65_536] * (MAX_FRAME // 65_536 - 1))):
            assert list(reader) == []
            reader.feed(chunk)
        assert len(next(iter(reader))["a"]) == MAX_FRAME - 8
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * MAX_FRAME


@pytest.mark.parametrize("value", [b"1e1", b"[]", b'{"":0}', b"[[0]]"])
def test_many_values_are_refused_before_they_are_made(value: bytes) -> None:
    for count, is_allowed in ((10_000, True), (MAX_MARKS, False)):
        payload = b'{"a":[' + b",".join([value] * count) + b"]}"
        reader = FrameReader(limit=2 * len(payload))
        reader.feed(framed(payload))
        if is_allowed:
            assert len((reader.next() or {})["a"]) == count
        else:
            with pytest.raises(FrameError, match=f"more than {MAX_MARKS} values"):
                reader.next()


async def test_one_worker_is_served_in_a_round_of_the_event_loop() -> None:
    turns, served, rounds = Turns(), [], 0

    def again(number: int) -> None:
        served.append((number, rounds))
        if len(served) < 9:
            turns.ask(lambda: again(number))

    for number in range(3):
        turns.ask(lambda number=number: again(number))
    while len(served) < 9:
        await asyncio.sleep(0)
        rounds += 1
    assert [number for number, _ in served[:9]] == [0, 1, 2] * 3
    assert len({when for _, when in served}) == len(served)


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b'"x"', b"nul", b"{}{}", b'{"a":1}x', b"\xff", b'{"a":Infinity}',
                                     b'{"a":1e999}', b"[" * 900_000, b'{"a":' + b"9" * 100_000 + b"}"])  # fmt: skip
def test_what_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(FrameError):
        decode(payload)
