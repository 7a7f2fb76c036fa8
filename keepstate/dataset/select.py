"""Choosing rows: the same rules for every arm, each row that is not chosen with its reason. Reads no files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile

from keepstate.dataset.options import Balance, BuildOptions
from keepstate.dataset.scan import Entry
from keepstate.vocabulary import RuntimeName

DUPLICATE = "duplicate"
UNPAIRED = "task missing in another arm"
BALANCED = "over the balance of tokens"


@dataclass(slots=True)
class Choice:
    """The rows of one arm."""

    train: list[Entry] = field(default_factory=list)
    val: list[Entry] = field(default_factory=list)
    left_out: list[tuple[Entry, str]] = field(default_factory=list)


def choose(arms: Mapping[RuntimeName, Sequence[Entry]], options: BuildOptions) -> dict[RuntimeName, Choice]:
    """Choose and order the rows of every arm.

    In this order: equal conversations once, pairing, the split by task, the balance of tokens in the train splits.
    Rows are ordered by a hash of seed, task and content: the same tasks come in the same order in every arm.
    """
    choices = {name: Choice() for name in arms}
    kept = {name: _without_duplicates(arms[name], choices[name]) for name in arms}
    if options.paired:
        common = set.intersection(*({entry.task for entry in entries} for entries in kept.values()))
        for name, entries in kept.items():
            choices[name].left_out += [(entry, UNPAIRED) for entry in entries if entry.task not in common]
            kept[name] = [entry for entry in entries if entry.task in common]
    held_out = _held_out({entry.task for entries in kept.values() for entry in entries}, options)
    for name, entries in kept.items():
        ordered = sorted(entries, key=lambda entry: (_rank(entry.task, options.seed), entry.content))
        choices[name].val = [entry for entry in ordered if entry.task in held_out]
        choices[name].train = [entry for entry in ordered if entry.task not in held_out]
    if options.balance is not Balance.NONE:
        _balance(choices, options.balance)
    return choices


def _rank(task: bytes, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + task).digest()


def _without_duplicates(entries: Sequence[Entry], choice: Choice) -> list[Entry]:
    seen: set[bytes] = set()
    kept = []
    for entry in entries:
        if entry.content in seen:
            choice.left_out.append((entry, DUPLICATE))
        else:
            seen.add(entry.content)
            kept.append(entry)
    return kept


def _held_out(tasks: set[bytes], options: BuildOptions) -> set[bytes]:
    """The tasks of the validation split: at least one where a share is asked for and two tasks exist."""
    if not options.val_fraction or len(tasks) < 2:
        return set()
    count = min(max(1, round(options.val_fraction * len(tasks))), len(tasks) - 1)
    return set(sorted(tasks, key=lambda task: _rank(task, options.seed))[:count])


def _balance(choices: Mapping[RuntimeName, Choice], balance: Balance) -> None:
    """Drop rows from the end of the larger arms until none has more tokens than the smallest."""

    def size(entry: Entry) -> int:
        return entry.trained if balance is Balance.TRAINED else entry.tokens

    budget = min(sum(map(size, choice.train)) for choice in choices.values())
    for choice in choices.values():
        totals = accumulate(map(size, choice.train))
        kept = sum(1 for _ in takewhile(lambda total: total <= budget, totals))  # shorter ones behind would be a bias
        choice.left_out += [(entry, BALANCED) for entry in choice.train[kept:]]
        choice.train = choice.train[:kept]
