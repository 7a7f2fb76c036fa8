"""What of keepstate's lies below a folder, from tasks to reports, and how far each is.

    found = look(Path("."))
    found.items, found.closed

Known by the files that keepstate writes first or last into such a folder. Of an episode its verdict is read, not the
trace. Changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from keepstate.bench.cells import CELL_FILE, read_cell_file
from keepstate.dataset.manifest import MANIFEST, read_manifest
from keepstate.errors import UserError
from keepstate.files import parse_json
from keepstate.play.collect import COLLECTION_FILE
from keepstate.processes import is_held
from keepstate.tasks.base import RESEARCH_TASK_SCHEMA, TASK_SCHEMA
from keepstate.traces.writer import TRACE_SUFFIX, verdict_path
from keepstate.train.progress import PROGRESS, Follower
from keepstate.train.result import DONE, read_done
from keepstate.train.run_folder import LOCK
from keepstate.train.trained_for import RUN, as_word

REPORT_FILE = "report.json"
OURS = "keepstate."
"""Begins the schema of a manifest or report of ours: other programs write files of these names, too."""
FOREIGN = {"node_modules", "__pycache__", "site-packages"}
"""Folders that are not looked into, as hidden ones and virtual environments are not."""
HEAD = 400
"""Bytes of a JSON file that tell whether it is a task."""


class Kind(StrEnum):
    """What a folder holds, in the order of the pipeline."""

    TASKS = "tasks"
    """Problems to be played."""
    TRACES = "traces"
    """Recorded episodes: collected, or imported."""
    DATASET = "dataset"
    """Training conversations."""
    TRAINING = "training"
    """An adapter that is not finished."""
    ADAPTER = "adapter"
    """A finished one."""
    CELL = "cell"
    """Episodes of one model in one runtime, of a benchmark."""
    REPORT = "report"
    """Tables, plots and a page of results."""


@dataclass(frozen=True, slots=True)
class Ungraded:
    """An episode that is recorded and not graded."""

    path: str
    """Of its trace."""
    origin: str | None
    """Where the failure of ours arose; None where nothing tells."""
    message: str
    """What happened."""


@dataclass(slots=True)
class Holding:
    """One folder, and what it holds."""

    kind: Kind
    path: Path
    what: str = ""
    """Who and where: `persistent → forget`, a runtime, a base model. Empty where nothing tells."""
    done: int | None = None
    """Tasks, graded episodes, proven or built rows, steps; None where it is not known."""
    total: int | None = None
    """Of how many; None where there is no end, or it is not known."""
    running: bool = False
    """Whether a command trains, or evaluates its checkpoints, there now."""
    solved: int | None = None
    """Of the graded episodes; None of what holds none."""
    ungraded: Sequence[Ungraded] = ()
    """Episodes that are recorded and not graded."""
    problem: str = ""
    """Why it could not be read."""
    bytes: int = 0
    """Of all files in it, and in folders below that hold nothing else."""
    changed: float = 0.0
    """When one of them was last written, in seconds since 1970."""


@dataclass(slots=True)
class Inventory:
    """What was found."""

    items: list[Holding] = field(default_factory=list)
    """In the order of the pipeline, then by path."""
    closed: list[str] = field(default_factory=list)
    """Folders that could not be read, with reasons."""


def look(root: Path) -> Inventory:
    """Look below `root`, and at it. Links to other folders are not followed.

    Raises:
        UserError: There is no such folder.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "is not there"
        raise UserError(f"{root} {what}: a folder is needed", "all below this one: keepstate ls .")
    found = Inventory()
    owners: dict[Path, Holding] = {}
    for folder, files in folders(root, found.closed):
        owner = _holding(folder, [entry.name for entry in files])
        if owner is not None:
            found.items.append(owner)
        elif (owner := owners.get(folder.parent)) is None:
            continue
        owners[folder] = owner
        for entry in files:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # a file that was being written
                continue
            owner.bytes += status.st_size
            owner.changed = max(owner.changed, status.st_mtime)
    order = list(Kind)
    found.items.sort(key=lambda item: (order.index(item.kind), item.path))
    return found


def folders(root: Path, closed: list[str]) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """Every folder from `root` on, outer ones first, with the files in it; not those of other programs.

    Args:
        root: Where to begin.
        closed: Takes the folders that cannot be read, with reasons.
    """
    try:
        with os.scandir(root) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        closed.append(f"{root}: {error.strerror or error}")
        return
    yield root, [entry for entry in there if not entry.is_dir(follow_symlinks=False)]
    for entry in there:
        if not entry.is_dir(follow_symlinks=False):
            continue
        foreign = entry.name in FOREIGN or entry.name.startswith(".")
        if not foreign and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
            yield from folders(root / entry.name, closed)


def _holding(folder: Path, names: Sequence[str]) -> Holding | None:
    """What `folder` holds, by the names of its files; None where it is nothing of keepstate's."""
    for marker, reader in READERS.items():
        if marker in names:
            try:
                return reader(folder, names)
            except UserError as error:
                return Holding(KINDS[marker], folder, problem=error.message)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                return Holding(KINDS[marker], folder, problem=f"{marker} cannot be read: {error}")
    if any(name.endswith(TRACE_SUFFIX) for name in names):
        return _episodes(Kind.TRACES, folder, names, what="imported", total=None)
    tasks = [name for name in names if name.endswith(".json")]
    if tasks and _is_task(folder / tasks[0]):
        return Holding(Kind.TASKS, folder, what=tasks[0].partition("-")[0], done=len(tasks))
    return None


def _is_task(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    return any(schema.encode() in head for schema in (TASK_SCHEMA, RESEARCH_TASK_SCHEMA))


def _cell(folder: Path, names: Sequence[str]) -> Holding:
    record = read_cell_file(folder / CELL_FILE)
    return _episodes(Kind.CELL, folder, names, f"{record.adapter} → {record.runtime}", len(record.tasks))


def _collection(folder: Path, names: Sequence[str]) -> Holding:
    decisive = parse_json((folder / COLLECTION_FILE).read_bytes())["decisive"]
    return _episodes(Kind.TRACES, folder, names, f"{decisive['model']} → {decisive['runtime']}", None)


def _episodes(kind: Kind, folder: Path, names: Sequence[str], what: str, total: int | None) -> Holding:
    """A folder of traces, by the verdicts beside them."""
    ungraded: list[Ungraded] = []
    graded = solved = 0
    for name in names:
        if not name.endswith(TRACE_SUFFIX) or name.startswith("."):
            continue
        try:
            verdict = parse_json(verdict_path(folder, name.removesuffix(TRACE_SUFFIX)).read_bytes())
            result = verdict["result"]
            if result["score"] is None:
                ungraded.append(Ungraded(str(folder / name), verdict["origin"], str(verdict["error"])))
            else:
                graded += 1
                solved += bool(result["is_solved"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            ungraded.append(Ungraded(str(folder / name), None, "no verdict lies beside it"))
    return Holding(kind, folder, what, graded, total, solved=solved, ungraded=ungraded)


def _is_ours(path: Path) -> bool:
    value = parse_json(path.read_bytes())
    return isinstance(value, dict) and str(value.get("schema")).startswith(OURS)


def _dataset(folder: Path, names: Sequence[str]) -> Holding | None:
    if not _is_ours(folder / MANIFEST):
        return None
    manifest = read_manifest(folder)
    proof = manifest.certificate
    what = f"{as_word(manifest.runtimes)}, {'proven' if proof else 'not proven'}"
    return Holding(Kind.DATASET, folder, what, manifest.rows)


def _adapter(folder: Path, names: Sequence[str]) -> Holding:
    done = read_done(folder)
    if done is None:
        raise ValueError(f"{DONE} is none, or its weights are gone")
    what = f"{as_word(done.trained_for.runtimes)} of {done.base_model}"
    return Holding(Kind.ADAPTER, folder, what, done.steps, done.steps, is_held(folder / LOCK))


def _training(folder: Path, names: Sequence[str]) -> Holding:
    runtime = str(parse_json((folder / RUN).read_bytes())["decisive"].get("runtime") or "")
    progress = Follower(folder / PROGRESS).look()
    step, steps = (progress.step, progress.steps) if progress else (None, None)
    return Holding(Kind.TRAINING, folder, runtime, step, steps, is_held(folder / LOCK))


def _report(folder: Path, names: Sequence[str]) -> Holding | None:
    return Holding(Kind.REPORT, folder) if _is_ours(folder / REPORT_FILE) else None


READERS: dict[str, Callable[[Path, Sequence[str]], Holding | None]] = {
    CELL_FILE: _cell,
    COLLECTION_FILE: _collection,
    MANIFEST: _dataset,
    DONE: _adapter,
    RUN: _training,
    REPORT_FILE: _report,
}
"""By the file that tells what a folder is; the first that is there decides."""
_KINDS = (Kind.CELL, Kind.TRACES, Kind.DATASET, Kind.ADAPTER, Kind.TRAINING, Kind.REPORT)
KINDS = dict(zip(READERS, _KINDS, strict=True))
"""What a folder with such a file is, also where the file cannot be read."""
