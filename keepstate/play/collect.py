"""Letting a teacher play every task in one or more runtimes, concurrently, and recording it.

`collection.json` beside the traces holds what decides them: see `keepstate.resume`. Tasks are not in it, so that a
collection grows by more of them. A failure of ours that stays one (see `keepstate.play.jobs`) is recorded without a
verdict, and played again next time. Selects nothing: a badly played episode is recorded like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from keepstate.agents.prompts import system_prompt
from keepstate.agents.recorder import sampling_record
from keepstate.files import content_hash, parse_json
from keepstate.models.base import Model, Relay, Reply
from keepstate.models.budget import Budget
from keepstate.play.admission import Pools
from keepstate.play.engine import Engine
from keepstate.play.jobs import Job, play
from keepstate.play.tally import Tally
from keepstate.processes import alone_in
from keepstate.resume import OtherWork, Record, changed_keys
from keepstate.tasks.base import Task
from keepstate.tasks.families import environment_for, family, family_of
from keepstate.traces import BadTrace
from keepstate.traces.record import DEFAULT_LIMITS, Limits, Trace
from keepstate.traces.recorded import Due, finished_others, graded, other_options, read_record
from keepstate.traces.writer import remove_trace
from keepstate.vocabulary import AUTO, RuntimeName

COLLECTION_FILE = "collection.json"
COLLECTION_SCHEMA = "keepstate.collection.v1"
FAMILY_FILE = "family file "
"""Begins the key of a user's family, whose value names its file and SHA-256."""
ELSEWHERE = "--out FOLDER"
"""The option that keeps traces of two teachers."""
BLANK_LINES = re.compile(r"\A\s*[\r\n]")

Teacher = Callable[[Task, RuntimeName], Model]
"""Who plays a task in a runtime: a new scripted teacher each time, or one shared server."""


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What to play, and how."""

    tasks: Sequence[Task]
    runtimes: Sequence[RuntimeName]
    teacher: Teacher
    out: Path
    """Traces of each runtime go to `<out>/<runtime>/`."""
    seed: int = 0
    concurrency: int = 8
    limits: Limits = DEFAULT_LIMITS
    fresh: bool = False
    """Replace what other options made."""
    budget: Budget | None = None
    """What all answers of the teacher together may take, if it is bounded."""
    served: Mapping[str, Any] = field(default_factory=dict)
    """What decides a served teacher's answers beside its name, by key; None where a key is not known."""
    servers: Mapping[str, Model] = field(default_factory=dict)
    """The teacher on each of several servers alike, by base URL; where there are none `teacher` plays by itself."""
    pools: Pools = field(default_factory=Pools)
    """What these hold."""
    max_tokens: int = 0
    """Of an answer, at most."""


async def collect(
    plan: CollectPlan,
    *,
    isolation: str = AUTO,
    allow_unsafe: bool = False,
    engine: Engine | None = None,
    on_progress: Callable[[Sequence[Tally]], None] = lambda _: None,
) -> list[Tally]:
    """Play what is missing.

    Args:
        plan: What to play.
        isolation: Rung of the sandbox.
        allow_unsafe: Run model-written code without a sandbox where there is none.
        engine: The machines that play; this one where None.
        on_progress: Called at the start and after every episode.

    Returns:
        One tally a runtime, in order.

    Raises:
        UserError: Nothing could be played as asked (no sandbox, unknown model, full disk, another process plays there
            now, finished traces of other options lie there, ...).
    """
    tallies = [Tally(str(runtime), plan.out / runtime, len(plan.tasks)) for runtime in plan.runtimes]
    if not plan.tasks:
        return tallies

    async def over(_: Job) -> None:
        on_progress(tallies)

    with ExitStack() as held:
        for tally in tallies:
            held.enter_context(alone_in(tally.folder))
        collections = [_Collection(plan, tally) for tally in tallies]
        jobs = [job for collection in collections for job in collection.owed(isolation)]
        others = {holds: changes for collection in collections for holds, changes in collection.others.items()}
        if others and not plan.fresh:
            raise OtherWork(others, ELSEWHERE)
        on_progress(tallies)
        admission = plan.pools.admission(plan.concurrency, plan.servers, plan.max_tokens, plan.budget)
        await play([(admission, jobs)], allow_unsafe=allow_unsafe, engine=engine, on_over=over)
    return tallies


def renew_family_files(folder: Path, families: Iterable[str]) -> None:
    """Let the record of a collection name the files of these families as they are now: they graded all that lies there.

    Raises:
        UserError: It cannot be written.
    """
    try:
        decisive = parse_json((folder / COLLECTION_FILE).read_bytes())["decisive"]
        now = {key: family(name).source for name in families if (key := FAMILY_FILE + name) in decisive}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # none, or one that collecting itself names as broken
    if any(decisive[key] != source for key, source in now.items()):
        Record(folder / COLLECTION_FILE, COLLECTION_SCHEMA, decisive | now).write()


class _Collection:
    """The traces of one runtime, and what decides them."""

    def __init__(self, plan: CollectPlan, tally: Tally) -> None:
        self._plan, self._tally = plan, tally
        self._runtime = RuntimeName(tally.name)
        self._limits = plan.limits.of(self._runtime)
        self._record = Record(tally.folder / COLLECTION_FILE, COLLECTION_SCHEMA, self._decisive(), plan.served.keys())
        self.others: dict[str, Sequence[str]] = {}
        """Finished traces of other options that lie there, in words, and what differs; known once all is `owed`."""

    def _decisive(self) -> dict[str, Any]:
        models = [self._plan.teacher(task, self._runtime) for task in self._plan.tasks]  # says so if it cannot play one
        families = {task.family: task for task in self._plan.tasks}
        prompts = {
            family: system_prompt(self._runtime, environment_for(task).tools, tool_calls=self._limits.tool_calls)
            for family, task in families.items()
        }
        sources = {name: family_of(task).source for name, task in families.items()}
        return {
            "model": models[0].name,
            "runtime": str(self._runtime),
            "family": "+".join(sorted(families)),
            "seed": self._plan.seed,
            "limits": self._limits.model_dump(),
            "sampling": sampling_record(models[0]),
            "prompt": content_hash(prompts),
            **{FAMILY_FILE + name: source for name, source in sources.items() if source},
            **self._plan.served,
        }

    def owed(self, isolation: str) -> Iterator[Job]:
        """Episodes to play; those that lie recorded are counted instead."""
        folder = self._tally.folder
        begin = cache(self._begin)
        making_way = dict(self._made_by_others())
        if making_way:
            self.others[f"{folder} holds {len(making_way)} finished traces"] = next(iter(making_way.values()))
        for task in self._plan.tasks:
            due = Due(folder, task.name, task.content_hash, self._record.decisive)
            trace = None if due.path in making_way else read_record(due, mend=True)
            if isinstance(trace, BadTrace):
                self._tally.replaced.append(trace)
            elif trace is not None and trace.verdict is not None:
                self._tally.keep(trace.verdict)
                continue
            player = partial(self._player, task)
            yield Job(self._tally, task, self._runtime, player, self._limits, self._plan.seed, isolation, begin)
        self.others |= finished_others(folder, self._tally.replaced)

    def _player(self, task: Task, server: str) -> Model:
        teacher = self._plan.servers.get(server) or self._plan.teacher(task, self._runtime)
        return Trainable(teacher, self._tally)

    def _made_by_others(self) -> Iterator[tuple[Path, list[str]]]:
        """Finished traces of other options: by their record; those of older versions have none, and tell themselves."""
        changes = self._record.changes()
        if changes == []:
            return
        for path, trace in graded(self._tally.folder):
            if trace is not None and trace.limits is None:
                continue  # imported: no teacher's
            if differs := changes or (trace and self._told_otherwise(trace)):
                yield path, differs

    def _told_otherwise(self, trace: Trace) -> list[str]:
        asked = self._record.decisive
        same = trace.task.family in asked["family"].split("+")
        family = [] if same else changed_keys({"family": trace.task.family}, {"family": asked["family"]})
        return family + other_options(trace, asked)

    def _begin(self) -> None:
        """Before the first trace is written: what other options made goes, their record last, and ours is written."""
        for path, _ in list(self._made_by_others()):
            remove_trace(path)
        if self._record.changes() != []:
            self._record.write()


class Trainable(Relay):
    """A teacher without the blank lines before its answers, in what is recorded and in what it is sent back.

    Reasoning parsers of servers leave them there. No template gives them back token for token, as they melt with its
    own newline, so no data set could be made of what is collected with them.
    """

    def __init__(self, teacher: Model, tally: Tally) -> None:
        super().__init__(teacher)
        self._tally = tally

    def passed(self, reply: Reply) -> Reply:
        """The answer without them."""
        text = BLANK_LINES.sub("", reply.text)
        if text == reply.text:
            return reply
        self._tally.trimmed += 1
        return replace(reply, text=text)
