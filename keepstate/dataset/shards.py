"""Converting traces on all nodes of a Ray cluster, in place of this machine's processes; the bytes are the same.

Nodes read the traces themselves, from a folder that all of them have under one path. Each file must have the size
there that it has here, and the tokenizer must be the same: a node that reads something else ends the build.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from keepstate.dataset.convert import Converter, LeftOut, Row
from keepstate.errors import UserError
from keepstate.play.node import Stopped, program

if TYPE_CHECKING:
    from keepstate.play.cluster import Cluster

CHUNK = 64
"""Files of a task: Ray takes a millisecond for each task, a file 2 ms and more."""
SHARE = "put traces and tokenizer into a folder that every node has under the same path"


def converted_on(
    cluster: Cluster, files: Sequence[str], converter: Callable[[], Converter]
) -> Iterator[list[Row | LeftOut]]:
    """Results chunk by chunk, in the order of the files.

    Args:
        cluster: Where.
        files: Paths of traces.
        converter: Makes the converter; what a process can hand to another one.

    Raises:
        UserError: A node has other files than this machine, or another keepstate.
    """
    recipe, tokenizer = pickle.dumps(converter), converter().tokenizer.sha256
    work = partial(convert_chunk, recipe=recipe, tokenizer=tokenizer, expected=program())
    chunks = (
        [(path, os.path.abspath(path), _size(path)) for path in files[start : start + CHUNK]]
        for start in range(0, len(files), CHUNK)
    )
    for results in cluster.in_order(work, chunks):
        if isinstance(results, Stopped):
            raise results.error()
        yield results


def convert_chunk(
    chunk: Sequence[tuple[str, str, int]], recipe: bytes, tokenizer: str, expected: str
) -> list[Row | LeftOut] | Stopped:
    """What a node does: convert some files, given by name, place and size."""
    try:
        if (here := program()) != expected:
            raise UserError(f"a node runs {here}, this is {expected}", "install the same keepstate on every node")
        converter = _converter(recipe)
        if converter.tokenizer.sha256 != tokenizer:
            raise UserError(f"{converter.tokenizer.path} is another file on a node than here", SHARE)
        results: list[Row | LeftOut] = []
        for name, place, size in chunk:
            if _size(place) != size:
                raise UserError(f"{place} has {_size(place)} bytes on a node, and {size} here (-1: none)", SHARE)
            results.append(replace(converter.convert(Path(place)), path=name))
    except UserError as error:
        return Stopped(-1, error.message, error.hint)
    return results


@functools.lru_cache(maxsize=1)
def _converter(recipe: bytes) -> Converter:
    """Made once a process: a tokenizer takes a second to load."""
    made = pickle.loads(recipe)()
    assert isinstance(made, Converter)
    return made


def _size(path: str) -> int:
    """Bytes of a file; -1 where there is none that can be asked."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
