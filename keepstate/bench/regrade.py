"""Grading recorded episodes anew after the grading of their family changed: no model and no agent's code is run.

    folders = await regrade(Path("runs/bench"))

The recorded tool calls are made again in the family's environment as it is now. Where each gives back what it gave
then, its verdict is the new one. Where one does not, or prompt, goal or end of the episode are others, more than the
grading changed: such an episode is owed, as only playing it again can tell. What is written, and when, is told in
docs/benchmarks.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from keepstate.agents.prompts import tool_docs
from keepstate.agents.recorder import Allowance, jsonable
from keepstate.bench.cells import CELL_FILE, read_cell_file
from keepstate.bench.replay import TasksAtHand, replayable, traces_by_folder
from keepstate.errors import EpisodeFailure, UserError
from keepstate.files import content_hash, parse_json, write_atomic, write_json
from keepstate.play.collect import renew_family_files
from keepstate.processes import alone_in
from keepstate.runtimes.base import TOO_LARGE, ToolGate
from keepstate.tasks.base import Task, Verdict
from keepstate.tasks.families import family, reference_scores
from keepstate.traces.reader import load_trace, read_fault
from keepstate.traces.record import TaskRef, Trace, TraceError
from keepstate.traces.summary import write_summaries
from keepstate.traces.writer import remove_trace, trace_path, verdict_path, write_trace
from keepstate.vocabulary import FinishReason

REGRADED_FILE = "regraded.json"
REGRADED_SCHEMA: Literal["keepstate.regraded.v1"] = "keepstate.regraded.v1"


class RegradedEpisode(TypedDict):
    """A verdict that was replaced."""

    task: str
    """Name of the task: the stem of the episode's files."""
    before: dict[str, Any]
    """The old verdict: `is_solved`, `score`, `metrics`."""
    after: dict[str, Any]
    """The new one."""
    family_before: str | None
    """File and SHA-256 of the family that gave the old one; null where it was keepstate's own."""
    family_after: str | None
    """Of the one that gave the new one."""
    at: str
    """ISO 8601, UTC."""


class RegradedFile(TypedDict):
    """The verdicts of a folder that were replaced, oldest first: nothing of them is lost."""

    schema: Literal["keepstate.regraded.v1"]
    """Names this format."""
    episodes: list[RegradedEpisode]
    """One a replaced verdict; an episode that was graded anew twice has two."""


@dataclass
class FolderRegrade:
    """What came of the traces of one folder."""

    folder: Path
    same_digest: list[str] = field(default_factory=list)
    """Kept: graded by the family as it is now, by its digest."""
    same_verdict: list[str] = field(default_factory=list)
    """Kept: graded anew, with the same verdict."""
    regraded: dict[str, tuple[Verdict, Verdict]] = field(default_factory=dict)
    """Old and new verdict by task."""
    owed: dict[str, str] = field(default_factory=dict)
    """Graded episodes that have to be played again, with the reason."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Graded episodes whose family or task is not at hand, with the command that names it."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that hold no episode graded by keepstate, with the reason."""
    refs: list[TaskRef] = field(default_factory=list)
    """Tasks of the traces."""
    aside: Path | None = None
    """Where those that are owed are put, so that the others can be written; None: they stay."""

    def figures(self) -> dict[str, Any]:
        """What came of it, for programs: names of tasks, or what is said of each."""
        return {
            "folder": str(self.folder),
            "same_digest": self.same_digest,
            "same_verdict": self.same_verdict,
            "regraded": {name: [before.score, after.score] for name, (before, after) in self.regraded.items()},
            "owed": self.owed,
            "unknown": self.unknown,
            "left_out": self.left_out,
            "written": self.written,
        }

    def lines(self) -> Iterator[str]:
        """What came of it, for people."""
        kept = len(self.same_digest) + len(self.same_verdict)
        yield (
            f"{self.folder}: kept {kept} ({len(self.same_digest)} of the same digest, {len(self.same_verdict)} of the"
            f" same verdict), regraded {len(self.regraded)}, owed {len(self.owed)}, unknown {len(self.unknown)}"
        )
        for name, (before, after) in self.regraded.items():
            yield f"  regraded {name}: score {before.score:g} -> {after.score:g}"
        for what, named in (("owed", self.owed), ("unknown", self.unknown)):
            yield from (f"  {what} {name}: {why}" for name, why in named.items())
        if self.owed and self.written:
            yield f"  those owed lie in {self.aside}: the command that recorded them plays them alone"
        elif self.regraded and not self.written:
            yield "  nothing is written here: episodes of two gradings make no result"

    @property
    def written(self) -> bool:
        """Whether what is new is written: only where all that stay are graded, as two gradings make no one result."""
        return not self.unknown and (not self.owed or self.aside is not None)


async def regrade(root: Path, *, tasks: Sequence[Task] = (), owed_to: Path | None = None) -> list[FolderRegrade]:
    """Grade every trace below `root` anew whose family is not the one that graded it.

    Args:
        root: A run, a cell, a collection, or any folder of traces.
        tasks: Those that cannot be sampled again from their ids.
        owed_to: Where to put what is owed, under its path below `root`; None leaves it, and its whole folder unwritten.

    Returns:
        One a folder, by path.

    Raises:
        UserError: No such folder, no trace in it, it cannot be written, `owed_to` lies in `root` or holds other files.
    """
    if owed_to is not None:
        _require_outside(owed_to, root)
    at_hand = TasksAtHand(tasks)
    done = []
    for folder, paths in traces_by_folder(root).items():
        with alone_in(folder):
            found = FolderRegrade(folder, aside=owed_to and owed_to / folder.relative_to(root))
            for path in map(Path, paths):
                await _look(path, at_hand, found)
            if found.written:
                _set_aside(found)
                _write(found, at_hand)
            done.append(found)
    return done


async def _look(path: Path, at_hand: TasksAtHand, found: FolderRegrade) -> None:
    """Grade one trace, and note in `found` what comes of it."""
    try:
        trace = load_trace(path)
        replayable(trace)
        if trace.verdict is None:
            raise TraceError("it was not graded: the command that recorded it plays it again")
        name = trace.task.name
        digest = family(trace.task.family).source
        found.refs.append(trace.task)
        if digest is not None and trace.versions.get("family") == digest:
            found.same_digest.append(name)
            return
        verdict = await _graded(trace, at_hand.find(trace.task))
    except (TraceError, OSError) as error:
        found.left_out[path.name] = read_fault(error)
    except UserError as error:
        found.unknown[name] = f"{error.message} ({error.hint})"
    except (EpisodeFailure, _Changed) as reason:
        found.owed[name] = str(reason)
    else:
        if verdict == trace.verdict:
            found.same_verdict.append(name)
        else:
            found.regraded[name] = trace.verdict, verdict


class _Changed(Exception):
    """More than the grading is another now; the text says what."""


async def _graded(trace: Trace, task: Task) -> Verdict:
    """The verdict of the recorded tool calls.

    Raises:
        _Changed: The environment does not do with them what it did.
        EpisodeFailure: It failed.
    """
    gate = await ToolGate.open(task, 2**53)
    said = [message["content"] for message in trace.messages[:2]]
    if said[1:] != [gate.environment.goal] or tool_docs(gate.environment.tools) not in said[0]:
        raise _Changed("goal or tools are told in other words now")
    for step in trace.steps:
        gate.start_action()
        for call in step.interpreter_result.results:
            if call.error == TOO_LARGE:
                continue  # it was not made
            made = gate.call(call.tool, call.arguments)
            now = await made if isinstance(made, asyncio.Future) else made
            if (jsonable(now.output, Allowance()), now.error) != (call.output, call.error):
                raise _Changed(f"turn {step.turn}: {call.tool} does not give back what it gave")
    if gate.environment.finished != (trace.finish_reason is FinishReason.FINISHED):
        raise _Changed("the episode does not end where it ended")
    return await gate.verdict()


def _require_outside(owed_to: Path, root: Path) -> None:
    if owed_to.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{owed_to} lies in {root}, where it would count as results", "name a folder outside of it")


def _set_aside(found: FolderRegrade) -> None:
    """Move what is owed out of the folder, byte for byte: each copy is whole before the original goes."""
    for name in found.owed:
        paths = [path for of in (trace_path, verdict_path) if (path := of(found.folder, name)).exists()]
        for path in paths:
            assert found.aside is not None
            copy, content = found.aside / path.name, path.read_bytes()
            if copy.exists() and copy.read_bytes() != content:
                raise UserError(f"{copy} is there already, of another episode", "name another folder: --owed-to FOLDER")
            write_atomic(copy, content)
        remove_trace(paths[0])
    found.refs = [ref for ref in found.refs if ref.name not in found.owed]


def _write(found: FolderRegrade, at_hand: TasksAtHand) -> None:
    """Write what is new: the old verdicts first, then each trace with its verdict, `cell.json` or
    `collection.json`, and the summaries.

    A run that is killed in between has lost nothing; repeated, it finds those that it had written by their digest.
    """
    _keep_old(found)
    for name in found.regraded:
        trace = load_trace(trace_path(found.folder, name))
        versions = {key: value for key, value in trace.versions.items() if key != "family"}
        if digest := family(trace.task.family).source:
            versions["family"] = digest
        write_trace(found.folder, trace.model_copy(update={"verdict": found.regraded[name][1], "versions": versions}))
    changed = bool(found.regraded) | _renew_cell(found, at_hand)
    renew_family_files(found.folder, {ref.family for ref in found.refs})
    if changed and list(found.folder.glob("summary_*.json")):
        write_summaries(found.folder)


def _keep_old(found: FolderRegrade) -> None:
    """Add the verdicts that are about to be replaced to `regraded.json`."""
    if not found.regraded:
        return
    path = found.folder / REGRADED_FILE
    try:
        kept: list[RegradedEpisode] = parse_json(path.read_bytes())["episodes"]
    except FileNotFoundError:
        kept = []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a {REGRADED_SCHEMA} file: {error}", "move it away: it holds old verdicts"
        ) from error
    for name, (before, after) in found.regraded.items():
        trace = load_trace(trace_path(found.folder, name))
        episode: RegradedEpisode = {
            "task": name,
            "before": before.model_dump(),
            "after": after.model_dump(),
            "family_before": trace.versions.get("family"),
            "family_after": family(trace.task.family).source,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if not any(episode == each | {"at": episode["at"]} for each in kept):  # a killed run wrote it
            kept.append(episode)
    file: RegradedFile = {"schema": REGRADED_SCHEMA, "episodes": kept}
    write_json(path, file)


def _renew_cell(found: FolderRegrade, at_hand: TasksAtHand) -> bool:
    """Let `cell.json` name the family that now graded every episode, and its references; whether it did not before."""
    path = found.folder / CELL_FILE
    if not path.exists() or not found.refs:
        return False
    cell = read_cell_file(path)
    graded_by = family(cell.family)
    if graded_by.source is None or cell.config.get("family") == graded_by.source:
        return False
    config = cell.config | {"family": graded_by.source}
    remark = f"verdicts are those of {graded_by.source}; replaced ones are in {REGRADED_FILE}"
    scores = {ref.name: reference_scores(at_hand.find(ref)) for ref in found.refs}  # a run writes those of others anew
    tasks = {name: {"hash": entry.hash, **scores.get(name, entry.references)} for name, entry in cell.tasks.items()}
    told = {"config": config, "digest": content_hash(config), "policies": dict(graded_by.policies), "tasks": tasks}
    whole = cell.model_dump(mode="json", by_alias=True) | told | {"remarks": [*cell.remarks, remark]}
    write_json(path, type(cell).model_validate(whole).model_dump(mode="json", by_alias=True))
    return True
