"""How a replayed episode differs from the recorded one: the first difference of each kind, and what a contract changes.

Times, durations, versions and names of runs are not compared. Plays nothing: see `keepstate.bench.replay`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from keepstate.agents.episode import CLOCK_CUT
from keepstate.files import first_difference
from keepstate.runtimes.base import FREE_TOOLS, ToolCallLimit
from keepstate.traces.observations import ADDRESS
from keepstate.traces.record import Limits, StepEvent, Trace
from keepstate.vocabulary import FinishReason

CHANCE = re.compile(
    r"^[ \t]*(?:from|import)\b[^\n#]*\b(?:random|secrets|time|datetime|uuid)\b"
    r"|__import__\(['\"](?:random|secrets|time|datetime|uuid)['\"]\)|\bid\(",
    re.MULTILINE,
)
"""Code that reads a clock, chance or an address: what it shows is another every time."""
TIME_LIMIT = "TimeLimit"
AROUND = 60
"""Characters shown before the first one that differs; twice as many after it."""


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """Where a replayed episode is not the recorded one: the first place of its kind."""

    task: str
    kind: str
    """`prompt`, `goal`, `step`, `end`, `addresses` or `chance`: see `differences`."""
    place: str
    """In words, with the turn (counted from 0, as in the trace)."""
    recorded: str
    """What stands there, cut around the first character that differs; JSON text."""
    replayed: str
    pythons: tuple[str, str] | None = None
    """Versions of Python that recorded and replayed, where these are two: they tell some errors in other words."""


@dataclass(slots=True)
class Effects:
    """What another contract does to recorded answers, over the episodes of a folder."""

    HEADS: ClassVar = ("episodes", "unchanged", "E_c", "calls beyond", "missing", "solved", "score %")
    """Of a `row`."""

    episodes: int = 0
    unchanged: int = 0
    """Every observation, the end and the verdict stay as recorded."""
    actions: int = 0
    """Executed in the replay."""
    left: int = 0
    """Answers that were not executed, as the episode had ended before."""
    cut: list[int] = field(default_factory=lambda: [0, 0])
    """Actions that ran into the cap: recorded, replayed."""
    exposed: int = 0
    """Episodes with an action that runs into the cap of the replay: over `episodes` the exposure E_c."""
    beyond: int = 0
    """Tool calls that actions made, in either, beyond the lower of both caps."""
    at_least: bool = False
    """An action was cut under the higher cap too, so there are more."""
    missing: list[int] = field(default_factory=lambda: [0, 0])
    """Episodes with a missing variable: recorded, replayed."""
    graded: int = 0
    """Episodes with a verdict in both; the next two are sums over them."""
    solved: list[int] = field(default_factory=lambda: [0, 0])
    score: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def exposure(self) -> float | None:
        """E_c: the share of episodes in which the very same answers run into the cap c; None of no episode."""
        return self.exposed / self.episodes if self.episodes else None

    def lines(self) -> Iterator[str]:
        """The figures, for people."""
        pairs = {"actions that ran into the cap": self.cut, "episodes with a missing variable": self.missing}
        yield f"  unchanged {self.unchanged}; {self.actions} actions, {self.left} answers left as the end came earlier"
        yield f"  exposure {self.exposed}/{self.episodes} episodes with an action beyond the cap"
        if self.beyond:
            yield f"  tool calls beyond the lower cap: {'at least ' if self.at_least else ''}{self.beyond}"
        for what, (before, after) in pairs.items():
            yield f"  {what}: {before} recorded, {after} replayed"
        if self.graded:
            means = [f"{100 * score / self.graded:.1f} %" for score in self.score]
            yield f"  solved: {self.solved[0]} -> {self.solved[1]}, score {means[0]} -> {means[1]} (the same answers)"

    def row(self, place: int) -> tuple[str, ...]:
        """The figures below `HEADS`, as text.

        Args:
            place: 0 for what was recorded, 1 for the replay; what says nothing of the record is "-" there.
        """
        of_both = [f"{self.missing[place]}", "-", "-"]
        if self.graded:
            of_both[1:] = [f"{self.solved[place]}", f"{100 * self.score[place] / self.graded:.1f}"]
        if place == 0:
            return f"{self.episodes}", "-", "-", "-", *of_both
        beyond = f"{'>= ' if self.at_least else ''}{self.beyond}"
        return f"{self.episodes}", f"{self.unchanged}", f"{self.exposure:.3f}", beyond, *of_both

    def add(self, recorded: Trace, again: Trace, limits: Limits, now: Limits) -> None:
        """Count an episode that was recorded under `limits` and replayed under `now`."""
        both = (recorded, again)
        caps = [_cut_steps(trace) for trace in both]
        lower, higher = sorted((limits.most_calls, now.most_calls))
        self.episodes += 1
        self.unchanged += not [each for each in differences(recorded, again) if each.kind != "prompt"]
        self.actions += len(again.steps)
        self.left += max(0, len(recorded.steps) - len(again.steps))
        self.exposed += bool(caps[1])
        if lower < higher:
            calls = [[_counted(step) for step in trace.steps] for trace in both]
            longest = max(map(len, calls))
            made = [max(pair) for pair in zip(*(each + [0] * (longest - len(each)) for each in calls), strict=True)]
            self.beyond += sum(max(0, count - lower) for count in made)
            self.at_least |= bool(caps[0] if limits.most_calls == higher else caps[1])
        for place, trace in enumerate(both):
            self.cut[place] += caps[place]
            self.missing[place] += trace.missed_variable
        if recorded.verdict and again.verdict:
            self.graded += 1
            for place, verdict in enumerate((recorded.verdict, again.verdict)):
                self.solved[place] += verdict.is_solved
                self.score[place] += verdict.score


def kept_steps(trace: Trace) -> tuple[StepEvent, ...]:
    """The steps that can be repeated: all but one that the episode's clock cut, after which nothing came."""
    steps = trace.steps
    return steps[:-1] if steps and steps[-1].interpreter_result.error_type == CLOCK_CUT else steps


def pythons_of(recorded: Trace, again: Trace) -> tuple[str, str] | None:
    """Versions of Python of record and replay, where they are known and two."""
    one, other = (trace.versions.get("python", "") for trace in (recorded, again))
    return (one, other) if one and other and one != other else None


def ends_short(trace: Trace) -> bool:
    """Whether a trace ended by what cannot be repeated, so that its end is not compared."""
    ended = trace.finish_reason in (FinishReason.TIME_LIMIT, FinishReason.FAILED)
    return ended or len(kept_steps(trace)) < len(trace.steps)


def _cut_steps(trace: Trace) -> int:
    return sum(step.interpreter_result.error_type == ToolCallLimit.__name__ for step in trace.steps)


def _counted(step: StepEvent) -> int:
    """Tool calls of an action that count against the cap."""
    return sum(call.tool not in FREE_TOOLS for call in step.interpreter_result.results)


def differences(recorded: Trace, again: Trace) -> list[FirstDifference]:
    """The first difference of each kind, in the order of the episode; none where both are the same.

    Kinds are `prompt`, `goal`, `step`, `end`, and what is by nature not repeatable: `addresses` (two texts that are
    equal but for hexadecimal addresses) and `chance` (a step after code that read a clock, chance or an address, or
    that ran into the time limit of an action; nothing after it is compared). Times, durations and versions are not.
    """
    found: dict[str, FirstDifference] = {}

    def differ(kind: str, place: str, one: object, other: object) -> None:
        one, other = (each if isinstance(each, str) else json.dumps(each) for each in (one, other))
        texts = _around(str(one), str(other))
        found.setdefault(kind, FirstDifference(recorded.task.name, kind, place, *texts, pythons_of(recorded, again)))

    for kind, sent, sent_again in zip(("prompt", "goal"), recorded.messages, again.messages, strict=False):
        if sent != sent_again:
            differ(kind, "system prompt" if kind == "prompt" else "goal", sent["content"], sent_again["content"])
    by_chance = False
    for step, repeated in zip(kept_steps(recorded), again.steps, strict=False):
        pair = (step, repeated)
        if step.observation is None and recorded.finish_reason is again.finish_reason is FinishReason.FINISHED:
            pair = (_until_finished(*pair), repeated)
        by_chance |= bool(CHANCE.search(step.code or ""))
        by_chance |= any(each.interpreter_result.error_type == TIME_LIMIT for each in pair)
        for what, one, other in _parts(*pair):
            if one != other and ADDRESS.sub("0x", one) == ADDRESS.sub("0x", other):
                differ("addresses", f"turn {step.turn}, {what}", one, other)
            elif one != other:
                differ("chance" if by_chance else "step", f"turn {step.turn}, {what}", one, other)
        if found.keys() & {"chance", "step"}:
            return [*found.values()]
    if not ends_short(recorded):
        for what in ("finish_reason", "verdict"):
            ends = [_plain(getattr(trace, what)) for trace in (recorded, again)]
            if ends[0] != ends[1]:
                differ("chance" if by_chance else "end", what.replace("_", " "), *ends)
    return [*found.values()]


def _until_finished(step: StepEvent, again: StepEvent) -> StepEvent:
    """The step that ended the episode, without what older traces say of the time after that call.

    There a block had .3 s to end: whether its last prints, names and errors are on record depended on the load.
    """
    one, other = step.interpreter_result, again.interpreter_result
    known = {"output": one.output[: len(other.output)], "results": one.results[: len(other.results)]}
    known |= {key: getattr(other, key) for key in ("error", "error_type", "globals", "state_lost")}
    return step.model_copy(update={"interpreter_result": one.model_copy(update=known)})


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump() if dump else value


def _parts(step: StepEvent, again: StepEvent) -> Iterator[tuple[str, str, str]]:
    """What is compared of a step: name and both texts; nothing where all is equal."""
    one, other = step.interpreter_result, again.interpreter_result
    if (step.code, step.observation, one.model_copy(update={"seconds": other.seconds})) == (
        again.code,
        again.observation,
        other,
    ):
        return
    yield "action", step.code or "", again.code or ""
    yield "observation", step.observation or "", again.observation or ""
    first, second = (result.model_dump(mode="json", exclude={"seconds"}) for result in (one, other))
    for key, value in first.items():
        yield key, json.dumps(value), json.dumps(second[key])


def _around(one: str, other: str) -> tuple[str, str]:
    """Both texts, cut to a window around the first character that differs."""
    start = max(0, first_difference(one, other) - AROUND)

    def cut(text: str) -> str:
        end = start + 3 * AROUND
        return f"{'...' if start else ''}{json.dumps(text[start:end])}{'...' if end < len(text) else ''}"

    return cut(one), cut(other)
