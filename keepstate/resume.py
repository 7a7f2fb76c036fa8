"""The one rule of resuming, for `traces collect`, `bench` and `train`.

What decides a result is written down beside it. Asked for the same again, a command goes on where it stopped. Asked for
something else, it refuses and names the keys that differ, with both values: `--fresh` replaces what lies there, another
folder keeps both. Where nothing finished lies, nothing could be lost and nothing is refused. Values are compared, not
digests: a record of an older layout counts as what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from keepstate.errors import UserError
from keepstate.files import content_hash, parse_json, write_json


class OtherWork(UserError):
    """Finished work that other options made lies where a command would put its own.

    Args:
        found: All of it, as `--fresh` would replace it all: each folder and what lies there, with what differs, as
            `changed_keys` has it.
        elsewhere: The option that keeps both.
    """

    def __init__(self, found: Mapping[str, Sequence[str]], elsewhere: str) -> None:
        parts = ["\n  ".join([f"{holds} of other options:", *changes]) for holds, changes in found.items()]
        super().__init__("\n".join(parts), f"keep both: {elsewhere}; or replace what lies there: --fresh")


class RecordFile(TypedDict):
    """What decides the work in a folder."""

    schema: str
    """Names this format: of whose work."""
    digest: str
    """SHA-256 of `decisive`."""
    decisive: Mapping[str, Any]
    """All that decides it, by key. The same command with another value is refused, naming the key and both."""


@dataclass(frozen=True, slots=True)
class Record:
    """What decides the work in a folder, and the file there that tells it."""

    path: Path
    schema: str
    decisive: Mapping[str, Any]
    """JSON values by key; nested mappings are compared key by key."""
    unknown: Collection[str] = ()
    """Keys whose None means "not known", as `changed_keys` has it."""

    def changes(self) -> list[str] | None:
        """What differs from the work that lies there, as `changed_keys` has it; None where no record lies there.

        Raises:
            UserError: A folder lies in its place, which no `--fresh` could replace.
        """
        try:
            before = parse_json(self.path.read_bytes())["decisive"]
            return changed_keys(before, self.decisive, unknown=self.unknown)
        except FileNotFoundError:
            return None
        except IsADirectoryError as error:
            raise UserError(f"{self.path} is a folder, a file belongs there", "move it away") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return [f"{self.path.name} cannot be read, so nobody knows what made it"]

    def write(self) -> None:
        """Write it.

        Raises:
            UserError: The disk is full, or the place cannot be written.
        """
        digest = content_hash(self.decisive)
        file: RecordFile = {"schema": self.schema, "digest": digest, "decisive": self.decisive}
        write_json(self.path, file)


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], *, unknown: Collection[str] = ()) -> list[str]:
    """What two nested mappings differ in, a line a key: `limits.turns: 10 -> 20`, sorted.

    Args:
        before: What was recorded.
        now: What is asked for.
        unknown: Outer keys whose None means "not known": not compared where one side does not know them.
    """
    skipped = [key for key in unknown if before.get(key) is None or now.get(key) is None]
    old, new = (dict(_flat({k: v for k, v in side.items() if k not in skipped})) for side in (before, now))
    return [
        f"{key}: {_short(old.get(key))} -> {_short(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
