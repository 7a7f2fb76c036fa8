"""Playing a family's own scripted teacher in the three runtimes, for `keepstate tasks check`: nothing is recorded.

A teacher that is made of `Family.plan` makes the same calls everywhere by construction; a `Family.script` must show it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from keepstate.errors import UserError
from keepstate.files import canonical_json, first_difference
from keepstate.models.teacher import ScriptedTeacher
from keepstate.play.admission import Admission
from keepstate.play.jobs import Job, play
from keepstate.play.tally import Tally
from keepstate.tasks.base import Task
from keepstate.tasks.checking import MOST_STEPS, broken
from keepstate.tasks.families import told
from keepstate.tasks.family import Family
from keepstate.traces.record import Limits, Trace
from keepstate.vocabulary import AUTO, FinishReason, RuntimeName

LIMITS = Limits(turns=MOST_STEPS)
CONCURRENCY = 8


async def rehearse(family: Family, tasks: Sequence[Task], *, isolation: str = AUTO, allow_unsafe: bool = False) -> str:
    """Prove that the script plays the tasks to their end in every runtime, by the same calls, none of them refused.

    Args:
        family: With a `script` of its own.
        tasks: Of the family; those that the script refuses to play, by a `UserError` or None, are counted.
        isolation: Rung of the sandbox.
        allow_unsafe: Run without a sandbox where there is none.

    Returns:
        What was found, in words.

    Raises:
        UserError: It does not; tells on which task, in which runtime.
    """
    refused = {task.name: why for task in tasks if (why := _refusal(family, task))}
    if len(refused) == len(tasks):
        raise broken(
            family, f"its script plays none of {len(tasks)} tasks: {next(iter(refused.values()), 'none given')}"
        )
    played: dict[str, dict[RuntimeName, Trace]] = defaultdict(dict)
    tally = Tally(family.name, Path(), len(tasks))

    def job(task: Task, runtime: RuntimeName) -> Job:
        def player(_server: str) -> ScriptedTeacher:
            return ScriptedTeacher(task, runtime, tool_calls=LIMITS.most_calls)

        keep = partial(played[task.name].__setitem__, runtime)
        return Job(tally, task, runtime, player, LIMITS.of(runtime), 0, isolation, record=keep)

    async def over(_: Job) -> None:
        return

    jobs = [job(task, runtime) for task in tasks if task.name not in refused for runtime in RuntimeName]
    await play([(Admission(CONCURRENCY), jobs)], allow_unsafe=allow_unsafe, on_over=over)
    scores = [_proven(family, name, traces) for name, traces in played.items()]
    others = f"; it plays none of {len(refused)} others: {next(iter(refused.values()))}" if refused else ""
    runtimes = ", ".join(RuntimeName)
    return (
        f"the script plays {len(scores)} tasks by the same calls in {runtimes}, mean score {fmean(scores):.3f}{others}"
    )


def _refusal(family: Family, task: Task) -> str:
    """Why the script does not play a task; empty where it does."""
    with told(family, "script"):
        try:
            scripts = [family.script(task, name, seed=0, tool_calls=LIMITS.most_calls) for name in RuntimeName]
        except UserError as refusal:
            return refusal.message
    return f"no script for {task.name}" if None in scripts else ""


def _proven(family: Family, name: str, traces: dict[RuntimeName, Trace]) -> float:
    """The score of a task that was played as it should be. A call that is repeated (what was forgotten) counts once.

    Raises:
        UserError: It was not.
    """
    tools, calls = family.environment.bound_tools(), {}
    for runtime in RuntimeName:
        trace = traces[runtime]
        where = f"{name} in {runtime}: its script"
        if trace.failure is not None:
            raise broken(family, f"{where} failed: {trace.failure.message}")
        if trace.finish_reason is not FinishReason.FINISHED:
            raise broken(family, f"{where} did not end the episode: {trace.finish_reason}")
        made = [call for step in trace.steps for call in step.interpreter_result.results]
        if refused := next((call for call in made if call.error is not None), None):
            raise broken(family, f"{where} made a call that is refused: {refused.tool}: {refused.error}")
        filled = ([call.tool, {**tools[call.tool].defaults, **call.arguments}] for call in made)
        calls[runtime] = list(dict.fromkeys(map(canonical_json, filled)))
        first = next(iter(calls))
        if calls[runtime] != calls[first]:
            place = first_difference(calls[runtime], calls[first])
            here, there = ("".join(calls[name][place : place + 1]) or "none" for name in (runtime, first))
            raise broken(family, f"{where} makes other calls than in {first}: {here} instead of {there}")
    return fmean(trace.verdict.score for trace in traces.values() if trace.verdict)
