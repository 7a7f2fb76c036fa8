"""Random numbers for sampling tasks: the same on every machine, Python and numpy.

numpy keeps the raw stream of a bit generator across versions, but not what `Generator` makes of it (NEP 19), and Python
keeps `random()` but not `choice` and `shuffle`; so these are made here, by integer arithmetic.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import MutableSequence, Sequence
from typing import Any, TypeVar

import numpy as np

Item = TypeVar("Item")


class Dice(random.Random):
    """A `random.Random` whose numbers will stay the same. Not for secrets.

    Args:
        key: What seeds it: another key has nothing in common with this one.
    """

    def __init__(self, key: str) -> None:
        digest = hashlib.sha256(key.encode()).digest()
        words = np.frombuffer(digest, ">u4")[::-1].astype(np.uint32)  # those of the number: as a number it takes longer
        while not words[-1]:
            words = words[:-1]
        self.bits = np.random.PCG64(words)
        """The raw 64-bit stream, as the digest seeds it as a number."""
        super().__init__()

    def seed(self, a: Any = None, version: int = 2) -> None:
        """Nothing: the key is the seed."""

    def random(self) -> float:
        """In [0, 1)."""
        return (int(self.bits.random_raw()) >> 11) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        """An integer of `k` bits."""
        words = -(-k // 64)
        value = 0
        for _ in range(words):
            value = value << 64 | int(self.bits.random_raw())
        return value >> (64 * words - k)

    def randint(self, a: int, b: int) -> int:
        """Between `a` and `b`, both included.

        Raises:
            ValueError: There is none.
        """
        if b < a:
            raise ValueError(f"no integer lies between {a} and {b}")
        bits = 64 + (b - a).bit_length()  # so that none is likelier than another by more than 2**-64
        return a + (self.getrandbits(bits) * (b - a + 1) >> bits)

    def choice(self, seq: Sequence[Item]) -> Item:  # type: ignore[override]
        """One of them.

        Raises:
            IndexError: There is none.
        """
        if not seq:
            raise IndexError("nothing to choose from")
        return seq[self.randint(0, len(seq) - 1)]

    def shuffle(self, x: MutableSequence[Any]) -> None:
        """Shuffle in place (Fisher-Yates)."""
        for place in range(len(x) - 1, 0, -1):
            other = self.randint(0, place)
            x[place], x[other] = x[other], x[place]

    def sample(self, population: Sequence[Item], k: int) -> list[Item]:  # type: ignore[override]
        """`k` different ones, in random order.

        Raises:
            ValueError: There are fewer.
        """
        if not 0 <= k <= len(population):
            raise ValueError(f"cannot choose {k} of {len(population)}")
        order = list(population)
        self.shuffle(order)
        return order[:k]
