"""Whether a node sees the very folders that results belong to: asked before it may write any there.

    with offered(folders) as tokens:    # here: a file in each folder, with a word that nobody guesses
        mark = answered(tokens)         # on the node: reads each, and writes it once more
        look_for(tokens, mark)          # here: what the node wrote is there

Knows nothing of Ray.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from keepstate.errors import UserError
from keepstate.staging import beside, clear_staged, held_file, stage

ANSWER = "shared.json"
HINT = "let all nodes mount it under this path, with leave to write; or leave out --writer nodes"


@dataclass(frozen=True, slots=True)
class Token:
    """What shows that a folder is the same one."""

    path: Path
    word: str

    @property
    def answer(self) -> Path:
        """Beside it a node writes the word once more."""
        return self.path.parent / ANSWER


@contextmanager
def offered(folders: Collection[Path]) -> Iterator[tuple[Token, ...]]:
    """Put a token into each folder, as long as the context lasts. What nodes staged there and nobody placed goes.

    Args:
        folders: Absolute; they are made. Nobody else writes there meanwhile.

    Raises:
        UserError: One cannot be written.
    """
    with ExitStack() as stack:
        tokens = []
        for folder in folders:
            word = secrets.token_hex(16)
            tokens.append(Token(stack.enter_context(held_file(folder / ANSWER, word.encode())), word))
            clear_staged(folder)
            stack.callback(clear_staged, folder)
        yield tuple(tokens)


def answered(tokens: Collection[Token]) -> str:
    """Read every token and write it once more; returns the mark under which it was staged.

    Raises:
        UserError: One is not here, or its folder cannot be written.
    """
    mark = secrets.token_hex(8)
    for token in tokens:
        found = ""
        with suppress(OSError, UnicodeDecodeError):
            found = token.path.read_text()
        if found != token.word:
            raise UserError(f"its {token.path.parent} is not that of the machine where the command was typed", HINT)
        stage(token.answer, token.word.encode(), mark)
    return mark


def look_for(tokens: Collection[Token], mark: str) -> None:
    """See that what a node wrote is here, and remove it.

    Raises:
        UserError: It is not.
    """
    for token in tokens:
        try:
            beside(token.answer, mark).unlink()
        except OSError as error:
            words = f"what it writes into {token.path.parent} does not come to the machine where the command was typed"
            raise UserError(words, HINT) from error
