"""Fuzz the host's reader of frames guided by coverage: python tests/runtimes/fuzz_frames.py -runs=1000000

Needs `pip install atheris` in the core environment; options are libFuzzer's. The bare suite fuzzes the same reader by
hypothesis (test_frames.py). Any exception but the reader's own, or more bytes kept than one frame may have, is a find.
"""

import sys

import atheris

with atheris.instrument_imports():
    from keepstate.runtimes.sandbox import frames


def feed(data: bytes) -> None:
    """One stream: the first byte says in which pieces it arrives."""
    size = max(1, data[0]) if data else 1
    reader = frames.FrameReader(limit=4096)
    try:
        for start in range(1, len(data), size):
            reader.feed(data[start : start + size])
            for message in reader:
                assert type(message) is dict
                assert frames.decode(frames.encode(message)[4:]) == message
    except frames.FrameError:
        return


if __name__ == "__main__":
    atheris.Setup(sys.argv, feed)
    atheris.Fuzz()
