"""What may be chosen when a data set is built, and what it says about itself: `manifest.json`, `keepstate.dataset.v1`.

Everything that was read is in exactly one count: a row of a split, or left out for a reason. Reads and writes this
file, and compares the data files with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import Field, ValidationError, model_validator
from typing_extensions import TypedDict

from keepstate.closed import Closed, explain
from keepstate.errors import UserError
from keepstate.files import file_hash, write_json
from keepstate.vocabulary import MIXED, RuntimeName

MANIFEST = "manifest.json"
TEMPLATE = "chat_template.jinja"
INDEX = "index.jsonl"
"""One line a row of the data: split, trace, task, hash, tokens."""
LEFT_OUT = "left_out.jsonl"
"""One line a file that is in no split: its path, the reason, the detail."""


class Length(StrEnum):
    """What happens to a conversation longer than `max_tokens`."""

    DROP = "drop"
    """It is left out."""
    CUT = "cut"
    """After the last answer that fits, so that system, goal and whole turns stay; marked in the index."""
    RAISE = "raise"
    """The build stops and names it."""


class Balance(StrEnum):
    """What is made equal over the arms that are built together."""

    NONE = "none"
    """Nothing."""
    TRAINED = "trained"
    """Trained tokens of the train split: no arm has more than the smallest."""
    TOTAL = "total"
    """All tokens of the train split."""


class TrainTurns(StrEnum):
    """Which answers of a conversation are trained; the others stay as context."""

    ALL = "all"
    """Every one."""
    LAST = "last"
    """Of the row."""
    CLEAN = "clean"
    """Not those whose action ended in an error or a cap."""


class BuildOptions(Closed):
    """Which traces become rows; recorded in the manifest as given."""

    max_tokens: int = Field(default=16_384, gt=0)
    """The training context."""
    length: Length = Length.DROP
    """What happens to a longer conversation."""
    solved: bool = False
    """Only traces whose task was solved."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """Only traces with such a score or a better one."""
    finished: bool = True
    """Only episodes that the agent itself ended."""
    failed: bool = False
    """Also episodes that a failure of ours ended (they are not graded)."""
    train_turns: TrainTurns = Field(default=TrainTurns.ALL, exclude_if=lambda choice: choice is TrainTurns.ALL)
    """Which answers are trained; not written where all are."""
    strip_empty_think: bool = Field(default=False, exclude_if=lambda strip: not strip)
    """Leave empty think blocks before answers out, which the template writes again."""
    paired: bool = False
    """Only tasks that every arm has."""
    balance: Balance = Balance.NONE
    """What is made equal over the arms."""
    val_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Of the tasks."""
    seed: int = 0
    """Decides which tasks are held out, and the order of rows."""


class RowCount(Closed):
    """Rows, and what is in them."""

    rows: int
    """Conversations."""
    tasks: int
    """Different ones."""
    turns: int
    """Answers in all rows."""
    tokens: int
    """Of all rows."""
    trained_tokens: int
    """Tokens of answers and their end-of-turn tokens."""
    longest: int
    """Tokens of the longest row."""


class SplitCount(RowCount):
    """One split."""

    sha256: str
    """Of its JSONL file."""


class RowOrigin(TypedDict):
    """Where a row comes from."""

    path: str
    """The trace, as its folder was given to the build."""
    task: str
    """`<family>-<task_id>`."""
    shortened: Sequence[str]
    """Why the row holds less than its trace; empty where it holds all."""
    masked: NotRequired[dict[str, int]]
    """Answers that stand in the row and are not trained, by reason."""
    source: NotRequired[str]
    """File and line that an imported trace came from."""
    runtime: NotRequired[RuntimeName]
    """Of the trace, in data of several runtimes."""


class IndexLine(RowOrigin):
    """One row of the data, a line of `index.jsonl`."""

    split: str
    """`train` or `val`."""
    row: int
    """Line of the split's file, counted from 0."""
    content_hash: str
    """Of the conversation: half a SHA-256."""
    turns: int
    """Answers."""
    tokens: int
    """Of the whole row."""
    trained_tokens: int
    """Tokens of answers and their end-of-turn tokens."""


class Source(Closed):
    """A file that the data depends on."""

    name: str
    """A built-in template's name, or the path as it was given."""
    sha256: str
    """Of its content."""


class ProvenRows(Closed):
    """What was proven of one runtime."""

    rows: int
    """Rows."""
    turns: int
    """Answers in them."""
    tokens: int
    """Of all rows."""
    trained_tokens: int
    """Tokens of answers and their end-of-turn tokens."""


class Certificate(Closed):
    """The last successful `keepstate dataset check`: what was proven, by what."""

    data_sha256: dict[str, str]
    """Of the JSONL files that were checked, by split. Another file, no certificate."""
    rows: int
    """Rows that were proven: all."""
    turns: int
    """Answers in them, each proven with what was sent before it."""
    tokens: int
    """Of all rows."""
    trained_tokens: int
    """Tokens of answers and their end-of-turn tokens."""
    unrecorded: int = 0
    """Rows of imported traces, which hold no record of what was sent: proven as rendered, not as sent."""
    by_runtime: dict[RuntimeName, ProvenRows] = Field(default={}, exclude_if=lambda counts: not counts)
    """What of this is of each runtime, in data of several."""
    axolotl: str | None
    """Version of Axolotl whose own tokenisation was compared."""
    server: str | None
    """The server whose prompt tokens were compared; None where the template and tokenizer on disk stood for it."""
    checked_at: str
    """ISO 8601, UTC."""


class Manifest(Closed):
    """One data set."""

    schema_: Literal["keepstate.dataset.v1"] = Field(default="keepstate.dataset.v1", alias="schema")
    """Names this format."""
    keepstate: str
    """Version that built it."""
    runtimes: tuple[RuntimeName, ...] = Field(min_length=1)
    """Those of the traces in it."""
    template: Source
    """The chat template that rows were rendered with; `chat_template.jinja` beside this file."""
    tokenizer: Source
    """The `tokenizer.json` that they were proven with."""
    options: dict[str, Any]
    """As given and as defaulted."""
    read: int
    """Traces found."""
    splits: dict[str, SplitCount]
    """`train` and `val`."""
    by_runtime: dict[RuntimeName, dict[str, RowCount]] = Field(default={}, exclude_if=lambda counts: not counts)
    """What of each split is of each runtime, in data of several. A task is in the same split in all of them."""
    left_out: dict[str, int]
    """Traces in no split, by reason; `left_out.jsonl` names each."""
    shortened: dict[str, int]
    """Rows that hold less than their trace, by reason."""
    masked: dict[str, int] = Field(default={}, exclude_if=lambda counts: not counts)
    """Answers that stand in a row and are not trained, by reason."""
    certificate: Certificate | None = None
    """Null until a `keepstate dataset check` proved every row, and after one that did not."""

    @model_validator(mode="before")
    @classmethod
    def _as_older_versions_wrote(cls, raw: Any) -> Any:
        """They had the data of one runtime."""
        if not isinstance(raw, dict) or "runtime" not in raw or "runtimes" in raw:
            return raw
        return {key: value for key, value in raw.items() if key != "runtime"} | {"runtimes": (raw["runtime"],)}

    @property
    def arm(self) -> str:
        """What the data is called, and the adapter that is trained on it: its runtime, or `mixed`."""
        return MIXED if len(self.runtimes) > 1 else str(self.runtimes[0])

    @property
    def train_turns(self) -> TrainTurns:
        """Which answers were asked to be trained."""
        return TrainTurns(self.options.get("train_turns", TrainTurns.ALL))

    @property
    def trains_by_turn(self) -> bool:
        """Whether rows say of each answer if it is trained; of all answers of one that does not say, they are."""
        return bool(self.masked) or self.train_turns is not TrainTurns.ALL

    @property
    def rows(self) -> int:
        """Rows of all splits."""
        return sum(split.rows for split in self.splits.values())

    @property
    def data_sha256(self) -> dict[str, str]:
        """Of the JSONL files, by split."""
        return {name: split.sha256 for name, split in self.splits.items()}

    def changed_files(self, folder: Path) -> list[Path]:
        """The data files in `folder` that are missing or not those that this manifest names."""
        paths = {folder / f"{name}.jsonl": sha256 for name, sha256 in self.data_sha256.items()}
        return [path for path, sha256 in paths.items() if not path.is_file() or file_hash(path) != sha256]

    def words(self, folder: Path) -> list[str]:
        """Lines for people: what the data set in `folder` holds and what it does not."""
        lines = [f"{folder}: {self.rows} rows of {self.read} traces"]
        for name, split in self.splits.items():
            lines.append(
                f"  {name:5}  {split.rows} rows, {split.tasks} tasks, {split.turns} turns, {split.tokens:,} tokens "
                f"({split.trained_tokens:,} trained), longest {split.longest:,}"
            )
        for runtime, shares in self.by_runtime.items():
            each = ", ".join(f"{count.rows} rows ({count.tokens:,} tokens) in {name}" for name, count in shares.items())
            lines.append(f"  of {runtime}: {each}")
        for title, counts in (("left out", self.left_out), ("shortened", self.shortened)):
            lines += [f"  {title}: {reason}: {count}" for reason, count in counts.items()]
        lines += [f"  turns not trained: {reason}: {count:,}" for reason, count in self.masked.items()]
        return lines

    def write(self, folder: Path) -> Path:
        """Write `manifest.json` into `folder` and return its path."""
        path = folder / MANIFEST
        write_json(path, self.model_dump(mode="json", by_alias=True))
        return path


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the data set in `folder`.

    Raises:
        UserError: There is none, or it is none.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else explain(error, Manifest).message
        raise UserError(
            f"no data set in {folder}: {path.name}: {reason}", "build one: keepstate dataset build"
        ) from error
