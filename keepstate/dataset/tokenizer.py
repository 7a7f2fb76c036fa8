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
from typing import Any

from keepstate.errors import UserError
from keepstate.files import file_hash

PLAIN_TEXT = re.compile(
    r"[\s\u2581]+|</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|blockquote|strong|em|b|i|u|s|sub|sup|code|a|html"
    r"|body|img|span|bbox|ul|ol|li|p|div|iframe|footer|header)>"
)
"""Tokens that Gemma's tokenizer adds for white space and HTML: not special, they are that text and steer nothing."""
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
        self.controls = frozenset(
            token.content for token in added.values() if token.special or not PLAIN_TEXT.fullmatch(token.content)
        )
        """Those of them that steer a conversation and must not stand in its texts."""
        self._special = _any_of(self.specials)
        self._control = _any_of(self.controls)
        first = next((text for text in self.controls if len(self._raw_ids(text)) == 1), "")
        alone = self._raw_ids("a")
        self._behind = first if first and self._raw_ids(first + "a")[1:] != alone else ""
        """Where the tokenizer treats a text's beginning as no other place: what stands before a piece instead."""
        self._cached = lru_cache(maxsize=CACHED_PIECES)(self._encode)

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of the file."""
        return file_hash(self.path)

    def _raw_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.raw.encode_batch_fast([text], add_special_tokens=False)[0].ids)  # no offsets: 13-20 % faster

    def _encode(self, text: str) -> tuple[int, ...]:
        return self._raw_ids(self._behind + text)[bool(self._behind) :]

    def piece(self, text: str) -> tuple[int, ...]:
        """The ids of text without special tokens that stands behind one, as all text in a conversation does."""
        return self._cached(text) if len(text) <= CACHED_CHARS else self._encode(text)

    def split(self, text: str) -> list[str]:
        """Text before, special token, text between, special token, ...: odd places hold special tokens."""
        return self._special.split(text)

    def after_controls(self, text: str) -> str:
        """What of `text` stands behind its last token that nothing can melt into."""
        return self._control.split(text)[-1]

    def ids(self, text: str, *, inside: bool = False) -> list[int]:
        """The ids of `text`, special tokens in it read as such; nothing is added around it.

        Args:
            text: A whole conversation.
            inside: It is a part of one instead, that stands behind a special token.
        """
        found: list[int] = []
        for place, part in enumerate(self.split(text)):
            if place % 2:
                found.append(self.specials[part])
            elif part:
                begins = not place and not inside and self._behind
                found.extend(self._raw_ids(part) if begins else self.piece(part))
        return found

    def spelled_special(self, text: str) -> str | None:
        """The first token that steers a conversation that `text` spells, or None."""
        found = self._control.search(text)
        return found.group() if found else None

    def special_at(self, text: str, place: int) -> str | None:
        """The special token that begins at `place` of `text`, or None."""
        found = self._control.match(text, place)
        return found.group() if found else None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens shown."""
        return str(self.raw.decode(list(ids), skip_special_tokens=False))


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern of one group that finds the longest of `texts` at a place: a tree, since Gemma has 6,415 of them."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for letter in text:
            node = node.setdefault(letter, {})
        node[""] = {}
    return re.compile(f"({_branches(tree)})" if tree else "((?!))")


def _branches(node: dict[str, Any]) -> str:
    ends = "" in node
    ways = [re.escape(letter) + _branches(below) for letter, below in node.items() if letter]
    if not ways:
        return ""
    return f"(?:{'|'.join(ways)})" + ("?" if ends else "")
