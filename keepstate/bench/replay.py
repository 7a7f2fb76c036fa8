"""Replaying recorded episodes without a model: every recorded answer is executed again against the real environment.

    folders = await replay([Path("runs/bench")], Contract())

Under the recorded contract the second trace must be the first, byte for byte: a self-test of sandbox, prompts and
environment over whole runs. Under another runtime or cap it tells what would have happened to the very same answers,
not what the model would have said next. Changes no file. See docs/benchmarks.md.
"""

from __future__ import annotations

import os.path
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from keepstate.bench.differences import Effects, FirstDifference, differences, ends_short, kept_steps, pythons_of
from keepstate.errors import UserError
from keepstate.models.base import ContextOverflow, Reply
from keepstate.models.scripted import ScriptedModel
from keepstate.play.admission import Admission
from keepstate.play.engine import Engine
from keepstate.play.jobs import Job, play
from keepstate.play.tally import Tally
from keepstate.tasks.base import Task
from keepstate.tasks.families import family
from keepstate.tasks.generate import make_tasks
from keepstate.traces.reader import load_trace, parse_trace, read_fault, trace_files
from keepstate.traces.record import Cap, Limits, ModelResponseEvent, TaskRef, Trace, TraceError
from keepstate.traces.schema import trace_json
from keepstate.vocabulary import AUTO, RuntimeName

BATCH = 500
"""Episodes read at once: memory stays flat, and a sandbox (0.2 s) is opened once for so many."""
SAMPLED_ID = re.compile(r"(?P<name>.+)-s-?\d+-(?P<index>\d{5,6})")
"""The id of a task that `make_tasks` sampled: its difficulty, rule set, seed and index make it again."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What replaces the recorded contract; None keeps it."""

    runtime: RuntimeName | None = None
    tool_calls: Cap | None = None
    """The cap on tool calls of an action; `none` is no cap."""

    def __str__(self) -> str:
        cap = f"cap {self.tool_calls}" if self.tool_calls else ""
        return ", ".join(filter(None, (self.runtime, cap))) or "as recorded"

    def of(self, trace: Trace, limits: Limits) -> tuple[RuntimeName, Limits]:
        """Runtime and limits in which `trace` is replayed."""
        calls = self.tool_calls or limits.tool_calls
        return self.runtime or trace.runtime, limits.model_copy(update={"tool_calls": calls})

    def changes(self, trace: Trace, limits: Limits) -> bool:
        """Whether that is another contract than the recorded one."""
        runtime, now = self.of(trace, limits)
        return runtime is not trace.runtime or now.tool_calls != limits.tool_calls


@dataclass
class FolderReplay:
    """What came of the traces of one folder. Changes in place, from several threads."""

    folder: Path
    same: int = 0
    """Byte for byte."""
    addresses: int = 0
    """But for memory addresses that the agent's code printed."""
    chance: int = 0
    """Differ after code that read a clock or chance, or a time limit of an action: not repeatable by nature."""
    different: int = 0
    short: int = 0
    """Of all these: ended by the episode's clock or a failure of ours, and compared as far as that."""
    empty: int = 0
    """Nothing was executed: failed by our doing before the first action."""
    other_family: int = 0
    """Traces that another version of their family recorded, by its digest: differences may be of that."""
    other_python: Counter[str] = field(default_factory=Counter)
    """Of these episodes what another Python recorded, by its version: differences may be of that."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Episodes by the kinds of their differences."""
    first: dict[str, FirstDifference] = field(default_factory=dict)
    """By kind."""
    effects: Effects = field(default_factory=Effects)
    """Of those whose contract is another."""
    as_recorded: Effects = field(default_factory=Effects, repr=False)
    """Of the others: what a table shows of them beside `effects`."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Traces that were not replayed, and why."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        changed = {"folder": str(self.folder), "effects": asdict(self.effects), "exposure": self.effects.exposure}
        return told | changed | {"first": {kind: asdict(each) for kind, each in self.first.items()}}

    def lines(self) -> Iterator[str]:
        """What came of it, for people."""
        counts = {
            "the same": self.same,
            "but for addresses": self.addresses,
            "differ by clock or chance": self.chance,
            "differ": self.different,
        }
        if self.tested:
            words = ", ".join(f"{count} {what}" for what, count in counts.items() if count or what == "the same")
            yield f"{self.folder}: {self.tested} episodes replayed: {words}"
        if self.short:
            yield f"  {self.short} had ended by the clock or a failure of ours: compared as far as that"
        if self.empty:
            yield f"  {self.empty} had failed before their first action: nothing to replay"
        if self.other_family:
            yield f"  {self.other_family} were recorded with another version of their family"
        for version, count in sorted(self.other_python.items()):
            yield f"  {count} were recorded by Python {version}, not the one here: some errors have other words there"
        for kind, each in self.first.items():
            yield f"  {kind}: {self.kinds[kind]} episodes, first {each.task}, {each.place}"
            yield f"    recorded {each.recorded}"
            yield f"    replayed {each.replayed}"
            if each.pythons:
                yield "    (by Python {}, and again by {})".format(*each.pythons)
        if self.effects.episodes:
            yield f"{self.folder}: {self.effects.episodes} episodes replayed under another contract"
            yield from self.effects.lines()

    @property
    def tested(self) -> int:
        """Episodes that were repeated under their own contract."""
        return self.same + self.addresses + self.chance + self.different

    @property
    def good(self) -> bool:
        """Whether nothing differs and nothing is left out."""
        return not self.different and not self.left_out

    def compare(self, recorded: Trace, limits: Limits, contract: Contract, again: Trace) -> None:
        """Count a replayed episode."""
        with self._lock:
            if again.failure is not None:
                what = f"failed in the replay ({again.failure.origin}): {again.failure.message}"
                self.left_out.append((recorded.task.name, what))
            elif contract.changes(recorded, limits):
                self.effects.add(recorded, again, limits, contract.of(recorded, limits)[1])
            else:
                self._test(recorded, again)
                self.as_recorded.add(recorded, again, limits, limits)

    def _test(self, recorded: Trace, again: Trace) -> None:
        found = differences(recorded, again)
        if found:  # a trace from a file and one in memory may spell one text in two ways
            found = differences(recorded, parse_trace(trace_json(again)))
        real = [each for each in found if each.kind not in ("addresses", "chance")]
        kinds = {each.kind for each in found}
        if pythons := pythons_of(recorded, again):
            self.other_python[pythons[0]] += 1
        self.short += ends_short(recorded)
        if real:
            self.different += 1
        elif "chance" in kinds:
            self.chance += 1
        elif "addresses" in kinds:
            self.addresses += 1
        else:
            self.same += 1
        for each in found:
            self.kinds[each.kind] += 1
            self.first.setdefault(each.kind, each)


def table(found: Sequence[tuple[Contract, Sequence[FolderReplay]]]) -> Iterator[str]:
    """The same folders under several contracts, for people: for each folder a line a contract, below the record."""
    heads: tuple[str, ...] = ("contract", *Effects.HEADS)
    for place in range(len(found[0][1])):
        folders = [(str(contract), folders[place]) for contract, folders in found]
        rows = [heads]
        for name, folder in folders:
            told = [effects for effects in (folder.effects, folder.as_recorded) if effects.episodes]
            if len(rows) == 1 and told:
                rows.append(("recorded", *told[0].row(0)))
            rows += [(name, *effects.row(1)) for effects in told]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield f"{folders[0][1].folder}:"
        for name, *figures in rows:
            yield "  ".join([f"  {name:{widths[0]}}", *map(str.rjust, figures, widths[1:])])


class TasksAtHand:
    """Finds the task that a trace was played on: among those given, or sampled again from what its id tells.

    Args:
        given: Tasks that the user named.
    """

    def __init__(self, given: Sequence[Task] = ()) -> None:
        self._known = {task.content_hash: task for task in given}
        self._sampled: dict[tuple[str, str, str | None, int], Iterator[Task]] = {}
        self._made: Counter[tuple[str, str, str | None, int]] = Counter()

    def find(self, ref: TaskRef) -> Task:
        """The task.

        Raises:
            UserError: Its family or it itself is not at hand.
        """
        family(ref.family)
        found = SAMPLED_ID.fullmatch(ref.task_id)
        if ref.content_hash not in self._known and found:
            self._sample(ref, found["name"].removeprefix(ref.difficulty).removeprefix("-") or None, int(found["index"]))
        if ref.content_hash not in self._known:
            raise UserError("its task is not at hand", "name the folder of its tasks: --tasks FOLDER")
        return self._known[ref.content_hash]

    def _sample(self, ref: TaskRef, rules: str | None, index: int) -> None:
        key = (ref.family, ref.difficulty, rules, ref.seed)
        if key not in self._sampled:
            self._sampled[key] = make_tasks(*key[:2], 1_000_000, ref.seed, rules=rules)
        for task in islice(self._sampled[key], max(0, index + 1 - self._made[key])):
            self._made[key] += 1
            self._known.setdefault(task.content_hash, task)


async def replay(
    roots: Sequence[Path],
    contract: Contract,
    *,
    tasks: Sequence[Task] = (),
    isolation: str = AUTO,
    allow_unsafe: bool = False,
    concurrency: int = 8,
    engine: Engine | None = None,
    on_progress: Callable[[Sequence[Tally]], None] = lambda _: None,
) -> list[FolderReplay]:
    """Replay every trace below `roots`.

    Args:
        roots: Runs, cells, collections, or any folders of traces.
        contract: What replaces the recorded one.
        tasks: Those that cannot be sampled again from their ids.
        isolation: Rung of the sandbox.
        allow_unsafe: Run the recorded code without a sandbox where there is none.
        concurrency: Episodes at once.
        engine: The machines that play; this one where None.
        on_progress: Called at the start and after every episode.

    Returns:
        One a folder, by path.

    Raises:
        UserError: No such folder or no trace in it, no sandbox, ...
    """
    inside = {folder: traces for root in roots for folder, traces in traces_by_folder(root).items()}
    paths = [path for folder in inside.values() for path in folder]
    found = {folder: FolderReplay(folder) for folder in inside}
    tallies = {folder: Tally(str(folder), folder, len(traces)) for folder, traces in inside.items()}
    at_hand = TasksAtHand(tasks)

    async def over(_: Job) -> None:
        on_progress([*tallies.values()])

    on_progress([*tallies.values()])
    for start in range(0, len(paths), BATCH):
        jobs: list[Job] = []
        for path in map(Path, paths[start : start + BATCH]):
            job = _job(path, contract, at_hand, found[path.parent], tallies[path.parent])
            if job is None:
                tallies[path.parent].total -= 1
            else:
                jobs.append(replace(job, isolation=isolation))
        await play([(Admission(concurrency), jobs)], allow_unsafe=allow_unsafe, engine=engine, on_over=over)
    return [*found.values()]


def traces_by_folder(root: Path) -> dict[Path, list[str]]:
    """The trace files of each folder below `root` that holds any, by path; as text, which takes less memory.

    Raises:
        UserError: No such folder, a folder in it cannot be read, or there is no trace.
    """
    paths, closed = trace_files(root)
    if closed:
        raise UserError(f"cannot read {closed[0].path}: {closed[0].reason}", "make it readable")
    if not paths:
        raise UserError(f"no traces in {root}", "name the folder of a run, a cell or a collection")
    found: dict[Path, list[str]] = {}
    for path in paths:
        found.setdefault(Path(os.path.dirname(path)), []).append(path)
    return found


def _job(path: Path, contract: Contract, at_hand: TasksAtHand, found: FolderReplay, tally: Tally) -> Job | None:
    """The episode to play; None of one that cannot be, which is counted in `found` with the reason."""
    try:
        trace = load_trace(path)
        limits = replayable(trace)
        runtime, now = contract.of(trace, limits)
        if runtime.agent != trace.agent:
            raise TraceError(f"its answers are those of a {trace.agent} agent, which {runtime} does not read")
        if not kept_steps(trace):
            found.empty += 1
            return None
        task = at_hand.find(trace.task)
        found.other_family += trace.versions.get("family") != family(trace.task.family).source
    except (TraceError, OSError) as error:
        found.left_out.append((path.name, read_fault(error)))
    except UserError as error:
        found.left_out.append((path.name, f"{error.message} ({error.hint})"))
    else:
        model = ScriptedModel([*_answers(trace), ContextOverflow()], trace.model)

        record = partial(found.compare, trace, limits, contract)
        return Job(tally, task, runtime, lambda _: model, now, trace.seed, AUTO, record=record)
    return None


def replayable(trace: Trace) -> Limits:
    """The limits of a trace that keepstate recorded.

    Raises:
        TraceError: It was imported: nobody tells the contract and the environment it was played in.
    """
    if "keepstate" not in trace.versions or trace.limits is None:
        raise TraceError("imported: the contract and the environment that it was played in are not recorded")
    return trace.limits


def _answers(trace: Trace) -> Iterator[Reply]:
    """What the model said, without its seconds: the recorded clock cuts nothing in a replay."""
    truncated = {event.turn for event in trace.events if isinstance(event, ModelResponseEvent) and event.truncated}
    for step in kept_steps(trace):
        yield Reply(step.assistant_text, step.token_usage, step.turn in truncated, 0.0)
