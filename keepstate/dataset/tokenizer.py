"""A model's real tokenizer, read from its `tokenizer.json`, without transformers.

Text is split at special tokens first, as the tokenizer itself does, and the pieces between them are tokenised one by
one: the ids are the same, and a piece that comes again (the system prompt of a thousand traces) costs nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from keepstate.errors import UserError
from keepstate.files import file_hash

END_OF_TURN = "<|im_end|>"
CACHED_PIECES = 512
"""Pieces kept: the system prompt and the template's own words. What comes once pushes out what came once."""
CACHED_CHARS = 20_000


class TextTokenizer:
    """Turns text into token ids.

    Args:
        path: A `tokenizer.json`, or the model folder that holds one.

    Raises:
        UserError: There is none, or it is none.
    """

    def __init__(self, path: Path) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one process a core already
        from tokenizers import Tokenizer

        self.path = path / "tokenizer.json" if path.is_dir() else path
        try:
            self.raw = Tokenizer.from_file(str(self.path))
            """The tokenizer itself, of the package `tokenizers`."""
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(
                f"no tokenizer in {path}: {error}",
                "name a model folder or a tokenizer.json; the laptop's: keepstate setup model",
            ) from error
        added = self.raw.get_added_tokens_decoder()
        odd = [token.content for token in added.values() if token.lstrip or token.rstrip or token.single_word]
        if odd:
            raise UserError(
                f"{self.path}: the special tokens {', '.join(odd)} depend on the text around them",
                "keepstate proves parity only for tokenizers whose special tokens stand alone",
            )
        self.specials: dict[str, int] = {token.content: number for number, token in added.items()}
        """Special tokens and every other text that is one token wherever it stands, with their ids."""
        longest_first = sorted(self.specials, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if longest_first else None
        self._cached = lru_cache(maxsize=CACHED_PIECES)(self._encode)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the file."""
        return file_hash(self.path)

    @property
    def end_of_turn(self) -> int:
        """Id of the token that ends an answer: ChatML's.

        Raises:
            UserError: The tokenizer has none.
        """
        if END_OF_TURN not in self.specials:
            raise UserError(f"{self.path} has no {END_OF_TURN}", "keepstate's templates need a ChatML tokenizer")
        return self.specials[END_OF_TURN]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.raw.encode_batch_fast([text], add_special_tokens=False)[0].ids)  # no offsets: 13-20 % faster

    def piece(self, text: str) -> tuple[int, ...]:
        """The ids of text without special tokens."""
        return self._cached(text) if len(text) <= CACHED_CHARS else self._encode(text)

    def split(self, text: str) -> list[str]:
        """Text before, special token, text between, special token, ...: odd places hold special tokens."""
        return self._special.split(text) if self._special else [text]

    def ids(self, text: str) -> list[int]:
        """The ids of `text`, special tokens in it read as such; nothing is added around it."""
        found: list[int] = []
        for place, part in enumerate(self.split(text)):
            if place % 2:
                found.append(self.specials[part])
            elif part:
                found.extend(self.piece(part))
        return found

    def spelled_special(self, text: str) -> str | None:
        """The first special token that `text` spells, or None."""
        found = self._special.search(text) if self._special else None
        return found.group() if found else None

    def special_at(self, text: str, place: int) -> str | None:
        """The special token that begins at `place` of `text`, or None."""
        found = self._special.match(text, place) if self._special else None
        return found.group() if found else None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens shown."""
        return str(self.raw.decode(list(ids), skip_special_tokens=False))
