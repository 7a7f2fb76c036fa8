"""Answers that a server gave, kept in an SQLite file, so that what was paid for once is not paid for again.

    cache = AnswerCache(Path("data/answers.sqlite"))
    cache.keep(url, request, Kept(body, seconds))
    cache.find(url, request)

An answer is found by the hash of the whole request and the server's address: messages, model, sampling, and the seed,
which is the number of the draw: repeats with another `--seed` stay draws of their own; and by what is known of the
weights that answer. Where nothing is, others under the same name cannot be told: then name another file. Only answers
that could be used are kept, and nothing of a request but its hash: no prompt, no address, no key. Several processes may
share one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstate.errors import UserError
from keepstate.files import content_hash, write_error

APPLICATION = 0x6B737463
"""Written into the file's header (`PRAGMA application_id`): any other database is left alone."""
ANOTHER = "name another file"
HINTS = {
    sqlite3.SQLITE_FULL: "free some space, then repeat the command: what is finished is kept",
    sqlite3.SQLITE_BUSY: "wait for the program that holds it, or name another file",
    sqlite3.SQLITE_CORRUPT: "name another file, or delete it: answers are then asked for again",
}
LOCK_SECONDS = 30.0
"""That another process may hold the file; a write takes less than a millisecond."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it came."""

    body: str
    """Of the response with status 200."""
    seconds: float
    """What it took then."""


class AnswerCache:
    """The file at `path`, made where there is none. Close it with `close`.

    Args:
        path: Of the file.
        served: What is known of the model that answers, beside its name.

    Raises:
        UserError: It is no such file, or cannot be opened; also from every method, where the disk is full.
    """

    def __init__(self, path: Path, served: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._served = {key: value for key, value in (served or {}).items() if value is not None}
        self.found = 0
        """Answers that were found."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        with self._explained():
            self._file = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
            if self._told() != APPLICATION:
                self._make()

    def _told(self) -> int:
        return int(self._file.execute("PRAGMA application_id").fetchone()[0])

    def _make(self) -> None:
        """Make the table where the file is empty: whole or not at all, by one of those who come at once."""
        self._file.execute("BEGIN IMMEDIATE")
        if self._told() != APPLICATION:
            if self._told() or self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._file.close()
                raise UserError(f"{self.path} is a database of another program, no cache of answers", ANOTHER)
            self._file.execute("CREATE TABLE answers (request TEXT PRIMARY KEY, body TEXT, seconds REAL) WITHOUT ROWID")
            self._file.execute(f"PRAGMA application_id = {APPLICATION}")
        self._file.execute("COMMIT")
        with suppress(sqlite3.OperationalError):  # others have it open already: then readers wait for writes
            self._file.execute("PRAGMA journal_mode = WAL")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def find(self, url: str, request: Mapping[str, Any]) -> Kept | None:
        """The answer of the server at `url` to exactly this request; None where there is none."""
        with self._explained():
            row = self._file.execute(
                "SELECT body, seconds FROM answers WHERE request = ?", (self._key(url, request),)
            ).fetchone()
        self.found += row is not None
        return Kept(*row) if row else None

    def keep(self, url: str, request: Mapping[str, Any], answer: Kept) -> None:
        """Keep an answer; the first one of two to the same request stays."""
        row = (self._key(url, request), answer.body, answer.seconds)
        with self._explained():
            self._file.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", row)

    def drop(self, url: str, request: Mapping[str, Any]) -> None:
        """Forget an answer that was found and is none."""
        self.found -= 1
        with self._explained():
            self._file.execute("DELETE FROM answers WHERE request = ?", (self._key(url, request),))

    def _key(self, url: str, request: Mapping[str, Any]) -> str:
        known = {"served": self._served} if self._served else {}
        return content_hash({"url": url, "request": request} | known)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            hint = HINTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, ANOTHER)  # the rest of the code: where
            raise UserError(f"the cache of answers {self.path}: {error}", hint) from error
