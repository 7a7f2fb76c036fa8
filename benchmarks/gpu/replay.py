"""Recorded answers for a server whose weights are random, and what speculation could draft of them.

    python benchmarks/gpu/replay.py drafts --traces DATA/persistent --base-model FOLDER
    python benchmarks/gpu/replay.py pack --traces DATA/persistent --traces DATA/react --base-model FOLDER --out FILE.npz

`drafts` counts, for several settings of vLLM's n-gram proposer, the tokens that a step yields where these answers are
what the model writes: exactly, since a draft counts where it is what stands there. `pack` writes what replay_plugin
forces a server to answer: of each turn of these traces the prompt's hash and the answer's tokens. With it a server of
any weights of the shape plays these episodes, at its own speed, with the drafts that real text allows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from keepstate.dataset.fitting import template_of
from keepstate.dataset.sample import prove
from keepstate.dataset.templates import FOLDER, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.traces import BadTrace, iter_traces

GRID = {"shortest": (1, 2, 3), "longest": (3, 4, 8), "drafted": (2, 4, 6, 8, 12)}


def turns(folders: Sequence[Path], base_model: Path) -> Iterator[tuple[list[int], list[int]]]:
    """The tokens of every prompt, and of the answer to it with its end."""
    tokenizer = TextTokenizer(base_model)
    template = load_template(FOLDER / f"{template_of(str(base_model))}.jinja", base_model)
    for folder in folders:
        for name, trace in iter_traces(folder):
            if isinstance(trace, BadTrace):
                sys.exit(f"{name}: {trace}")
            last = max(number for number, message in enumerate(trace.messages) if message["role"] == "assistant")
            sample = prove(trace.messages[: last + 1], template, tokenizer)
            for span in sample.answers:
                yield sample.ids[: span.start], sample.ids[span.start : span.end]


def key(prompt: Sequence[int]) -> int:
    """Of a prompt, as the plugin computes it."""
    return int.from_bytes(hashlib.blake2b(np.asarray(prompt, np.int32).tobytes(), digest_size=8).digest())


def pack(found: Sequence[tuple[list[int], list[int]]], out: Path) -> None:
    """Write prompts' hashes and answers, one behind the other."""
    keys = np.array([key(prompt) for prompt, _ in found], np.uint64)
    _, places = np.unique(keys, return_index=True)
    kept = [found[place] for place in sorted(places)]
    np.savez_compressed(
        out,
        keys=np.array([key(prompt) for prompt, _ in kept], np.uint64),
        lengths=np.array([len(answer) for _, answer in kept], np.int32),
        tokens=np.concatenate([np.array(answer, np.int32) for _, answer in kept]),
    )
    print(json.dumps({"answers": len(kept), "tokens": sum(len(answer) for _, answer in kept)}))


class Lookup:
    """vLLM's n-gram proposer, told of a text token by token: the longest n-gram that the text ends with and that stood
    there before, at its first place; the draft is what followed it."""

    def __init__(self, shortest: int, longest: int, drafted: int) -> None:
        self._sizes, self._drafted = range(longest, shortest - 1, -1), drafted
        self._text: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}

    def told(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        for token in tokens:
            for size in self._sizes:  # those that end at the last token: they stand before whatever comes now
                if size <= len(self._text):
                    self._ends.setdefault(tuple(self._text[-size:]), len(self._text))
            self._text.append(token)

    def draft(self) -> list[int]:
        """What may follow."""
        for size in self._sizes:
            if size < len(self._text) and (end := self._ends.get(tuple(self._text[-size:]))) is not None:
                return self._text[end : end + self._drafted]
        return []


def drafts(found: Sequence[tuple[list[int], list[int]]], shortest: int, longest: int, drafted: int) -> dict[str, float]:
    """What drafts of one setting are worth for these answers."""
    count: Counter[str] = Counter()
    for prompt, answer in found:
        lookup = Lookup(shortest, longest, drafted)
        lookup.told(prompt)
        lookup.told(answer[:1])  # the prompt's own step gives it
        place = 1
        while place < len(answer):
            draft = lookup.draft()
            right = 0
            while right < min(len(draft), len(answer) - place) and draft[right] == answer[place + right]:
                right += 1
            taken = min(right + 1, len(answer) - place)
            lookup.told(answer[place : place + taken])
            place += taken
            count.update(steps=1, tokens=taken, drafted=len(draft), right=right, tried=bool(draft))
    return {
        "tokens_a_step": round(count["tokens"] / count["steps"], 3),
        "steps_with_a_draft": round(count["tried"] / count["steps"], 3),
        "drafted_tokens_that_are_right": round(count["right"] / max(1, count["drafted"]), 3),
    }


def main() -> None:
    """Do one of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("drafts", "pack"))
    parser.add_argument("--traces", type=Path, action="append", required=True)
    parser.add_argument("--base-model", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = list(turns(given.traces, given.base_model))
    if given.what == "pack":
        pack(found, given.out)
        return
    for setting in product(*GRID.values()):
        print(json.dumps(dict(zip(GRID, setting, strict=True)) | drafts(found, *setting)), flush=True)


if __name__ == "__main__":
    main()
