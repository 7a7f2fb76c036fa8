"""How an agent used its runtime in one episode: state, imports, redundancy, errors, tokens billed again, seconds.

    told = behaviour(trace)

Each figure has one rule, and None where it cannot be known: docs/behaviour.md. Reads code, never runs it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import fmean

from keepstate.models.base import TokenUsage
from keepstate.state import StateRule
from keepstate.traces.importing import SOURCE
from keepstate.traces.names import BlockNames, count_tokens, read_block
from keepstate.traces.parsing import parse_answer
from keepstate.traces.record import (
    CAP_HIT,
    FORMAT_ERROR,
    MISSING_VARIABLE,
    NO_PYTHON,
    ModelResponseEvent,
    StepEvent,
    Trace,
)
from keepstate.traces.summary import mean, seconds
from keepstate.vocabulary import RuntimeName

MAX_CLASS_CHARS, MOST_CLASSES = 60, 10
"""Of the name of an error's class, which an agent's code may choose, and how many are told apart."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How an agent used its runtime in one episode. An action is a step with code that could be compiled, or calls."""

    actions: int
    """Executed."""
    unread: bool
    """A block that ran could not be read."""
    state_use: float | None
    """Names an action reads that an earlier action defined: the mean over its actions. None in react, and, as the next
    three, where a block that ran could not be read, or nothing was executed."""
    imports: float | None
    """Import statements an action."""
    life: float | None
    """Steps from a name's definition to its last use by a later action, 0 where there is none: the mean over names."""
    redundancy: float | None
    """Share of the code's tokens that define again what the runtime still holds."""
    repeated_calls: float | None
    """Share of answered tool calls that were answered before in the episode, tool and arguments being the same."""
    cap_hits: int
    """Actions that ran into the cap on tool calls."""
    missing_variables: int
    """Steps that ended in one of `MISSING_VARIABLE`."""
    format_errors: Mapping[str, int]
    """Answers without a single action, by `FormatError`; `unknown` where today's parser finds one."""
    other_errors: Mapping[str, int]
    """Steps that ended in another error of the agent's own, by its class."""
    prompt_tokens: int | None
    """Sent, over all calls."""
    cached_tokens: int | None
    """Of these from the server's prefix cache."""
    written_tokens: int | None
    """Answered."""
    billed_again: int | None
    """Of the prompt tokens those that the call before held already and that came from no cache."""
    model_seconds: float | None
    """Waiting for answers: the requests that were answered."""
    sandbox_seconds: float | None
    """Executing actions."""
    other_seconds: float | None
    """The rest of the episode: refusals and retries of the server, waiting for a place in the sandbox, bookkeeping."""


def behaviour(trace: Trace) -> Behaviour:
    """The figures of one episode."""
    ran = [
        step
        for step in trace.steps
        if step.code is not None and step.interpreter_result.error_type not in (FORMAT_ERROR, *NO_PYTHON)
    ]
    state = _State.over(trace, ran) if trace.agent == "codeact" and ran else None
    errors = Counter(step.interpreter_result.error_type for step in trace.steps)
    own = {CAP_HIT, FORMAT_ERROR, None, *MISSING_VARIABLE}
    usage = trace.summary.token_usage
    model, sandbox, other = _seconds(trace)
    return Behaviour(
        actions=len(ran),
        unread=state is None and trace.agent == "codeact" and bool(ran),
        state_use=state.uses / len(ran) if state else None,
        imports=state.imports / len(ran) if state else None,
        life=state.life if state else None,
        redundancy=state.redundancy if state else None,
        repeated_calls=_repeated(trace),
        cap_hits=errors[CAP_HIT],
        missing_variables=sum(errors[name] for name in MISSING_VARIABLE),
        format_errors=Counter(_format_error(trace.runtime, step) for step in trace.steps if step.code is None),
        other_errors=Counter({_short(name): count for name, count in errors.items() if name and name not in own}),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        written_tokens=usage.completion_tokens,
        billed_again=_billed_again([step.token_usage for step in trace.steps]),
        model_seconds=model,
        sandbox_seconds=sandbox,
        other_seconds=other,
    )


@dataclass(frozen=True, slots=True)
class BehaviourFigures:
    """How the agent of some episodes used its runtime: means over tasks, of what each task's episodes reached.

    Tokens and seconds are null where those of one episode are not known, the others are over the episodes in which they
    are.
    """

    unknown: int
    """Episodes with code that ran and could not be read: in no mean of state use, imports, life and redundancy."""
    actions: float | None
    """Executed in an episode."""
    state_use: float | None
    """Names an action reads that an earlier action defined."""
    imports: float | None
    """Import statements an action."""
    life: float | None
    """Steps from a name's definition to its last use by a later action."""
    redundancy: float | None
    """Share of the code's tokens that define again what the runtime still holds."""
    repeated_calls: float | None
    """Share of answered tool calls that were answered before in the episode."""
    cap_hits: float | None
    """Share of actions that ran into the cap on tool calls."""
    missing_variables: float | None
    """Steps of an episode that ended in a missing variable."""
    format_errors: dict[str, int]
    """Answers without a single action, by kind: their number in all episodes."""
    other_errors: dict[str, int]
    """Steps that ended in another error of the agent's own, by its class, in all episodes: the ten most frequent, and
    the number of the rest under `...`."""
    prompt_tokens: float | None
    """Sent in an episode, over all calls."""
    cached_tokens: float | None
    """Of these from the server's prefix cache."""
    written_tokens: float | None
    """Answered in an episode."""
    billed_again: float | None
    """Of the prompt tokens those that the call before held already and that came from no cache."""
    model_seconds: float | None
    """Waiting for answers, an episode."""
    sandbox_seconds: float | None
    """Executing actions, an episode."""
    other_seconds: float | None
    """The rest of an episode."""


FIGURES: Mapping[str, Callable[[Behaviour], float | None]] = {
    **{name: attrgetter(name) for name in ("actions", "state_use", "imports", "life", "redundancy", "repeated_calls")},
    "cap_hits": lambda each: each.cap_hits / each.actions if each.actions else None,
    "missing_variables": attrgetter("missing_variables"),
    **{name: attrgetter(name) for name in ("prompt_tokens", "cached_tokens", "written_tokens", "billed_again")},
    **{name: attrgetter(name) for name in ("model_seconds", "sandbox_seconds", "other_seconds")},
}
"""What an episode reached of each figure that is a mean."""
_OF_ALL = frozenset(name for name in FIGURES if name.endswith(("_tokens", "_seconds", "billed_again")))


def behaviour_figures(tasks: Collection[Sequence[Behaviour]]) -> BehaviourFigures:
    """The figures of a cell, of the episodes of each task."""
    every = [each for episodes in tasks for each in episodes]
    means: dict[str, float | None] = {}
    for name, figure in FIGURES.items():
        told = [[figure(each) for each in episodes] for episodes in tasks]
        known = told if name in _OF_ALL else [[v for v in values if v is not None] for values in told]
        means[name] = mean([mean(values) for values in known if values])
    return BehaviourFigures(
        unknown=sum(each.unread for each in every),
        format_errors=_most(each.format_errors for each in every),
        other_errors=_most(each.other_errors for each in every),
        **means,
    )


def _most(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums, of the most frequent names: an agent's code can raise errors of any name."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    first = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in first[MOST_CLASSES:])
    return dict(first[:MOST_CLASSES]) | ({"...": rest} if rest else {})


@dataclass(slots=True)
class _State:
    """The names of an episode while its blocks are read in order."""

    rule: StateRule
    served: int = 0
    """Actions of the interpreter, as far as nobody tells what it holds."""
    defined: set[str] = field(default_factory=set)
    """By earlier actions, whether or not the runtime kept it."""
    held: set[str] = field(default_factory=set)
    """What the runtime holds."""
    functions: set[str] = field(default_factory=set)
    """Source of functions and classes that were defined."""
    alive: dict[str, tuple[int, int]] = field(default_factory=dict)
    """When each name was defined and last used, in turns."""
    lives: list[int] = field(default_factory=list)
    uses: int = 0
    imports: int = 0
    tokens: int = 0
    defined_again: int = 0
    """Tokens."""

    @classmethod
    def over(cls, trace: Trace, ran: list[StepEvent]) -> _State | None:
        """What came of the blocks that ran; None where one of them cannot be read."""
        state = cls(StateRule.of(trace.runtime))
        silent = SOURCE in trace.versions or not state.rule.announced
        for step in ran:
            block = read_block(step.code or "")
            if block is None:
                return None
            result = step.interpreter_result
            told = None if silent or result.globals is None else frozenset(result.globals)
            state.add(step, block, told)
        return state

    def add(self, step: StepEvent, block: BlockNames, told: frozenset[str] | None) -> None:
        """Take in a block, and what the runtime told it holds afterwards (None: it told nothing)."""
        used = {name for name in block.reads if name in self.defined}
        self.uses += len(used)
        self.imports += block.imports
        self.tokens += count_tokens(step.code or "")
        self._count_again(block)
        for name in used:
            self.alive[name] = self.alive[name][0], step.turn
        bound = {name for name in block.bound if name[:1] != "_"}
        if told and step.interpreter_result.error_type:  # it may have failed before it defined all of them
            bound &= told
        for name in (told or frozenset()) - self.defined:  # by exec or a star import
            bound.add(name)
        for name in block.deleted | (bound - used):
            self._end(name)
        self.alive |= {name: (step.turn, step.turn) for name in bound if name not in self.alive}
        self.defined = (self.defined - block.deleted) | bound
        self.held = self._kept(step, block.deleted, bound) if told is None else set(told)

    def _kept(self, step: StepEvent, deleted: frozenset[str], bound: set[str]) -> set[str]:
        """What the runtime's rule leaves, where nobody tells."""
        self.served += 1
        if self.rule.keeps(self.served, cut=step.interpreter_result.error_type == CAP_HIT):
            return (self.held - deleted) | bound
        self.served = 0
        return set()

    def _count_again(self, block: BlockNames) -> None:
        again: set[str] = set()
        for each in block.definitions:
            same = not each.verbatim or each.text in self.functions
            if each.names and same and self.held.issuperset(each.names) and again.issuperset(each.reads):
                self.defined_again += count_tokens(each.text)
                again.update(each.names)
        self.functions.update(each.text for each in block.definitions if each.verbatim)

    def _end(self, name: str) -> None:
        if name in self.alive:
            first, last = self.alive.pop(name)
            self.lives.append(last - first)

    @property
    def life(self) -> float | None:
        lives = [*self.lives, *(last - first for first, last in self.alive.values())]
        return fmean(lives) if lives else None

    @property
    def redundancy(self) -> float | None:
        return self.defined_again / self.tokens if self.tokens else None


def _format_error(runtime: RuntimeName, step: StepEvent) -> str:
    return str(parse_answer(runtime, step.assistant_text).kind or "unknown")


def _short(name: str) -> str:
    name = name if name.isprintable() else ascii(name)[1:-1]
    return name if len(name) <= MAX_CLASS_CHARS else f"{name[:MAX_CLASS_CHARS]}…"


def _repeated(trace: Trace) -> float | None:
    """None where no call was answered, or calls are not recorded."""
    answered = [
        (call.tool, repr(sorted(call.arguments.items())))
        for step in trace.steps
        for call in step.interpreter_result.results
        if call.error is None
    ]
    return (len(answered) - len(set(answered))) / len(answered) if answered else None


def _billed_again(usages: list[TokenUsage]) -> int | None:
    """None where a count is not known, or the server never says what came from its cache."""
    if all(usage.cached_tokens is None for usage in usages):
        return None
    again = 0
    for before, now in itertools.pairwise(usages):
        if before.total_tokens is None or now.prompt_tokens is None:
            return None
        again += max(0, min(before.total_tokens, now.prompt_tokens) - (now.cached_tokens or 0))
    return again


def _seconds(trace: Trace) -> tuple[float | None, float | None, float | None]:
    """Of the model, the sandbox and the rest; imported traces do not tell them."""
    if SOURCE in trace.versions:
        return None, None, None
    model = sum(event.seconds for event in trace.events if isinstance(event, ModelResponseEvent))
    sandbox = sum(step.interpreter_result.seconds for step in trace.steps)
    whole = seconds(trace)
    return model, sandbox, None if whole is None else max(0.0, whole - model - sandbox)
