"""The scripted teacher of Opaque Knapsack: as good as its inspections allow, in any runtime, to be learnt from.

It knows what an agent is told (the public part of a strict task) and what it reads in the observations; the plan is the
exact best packing of what its inspections bought. Its decisions (exploration order, batches, wording) are keyed by the
task's content and the teacher's seed, never by the runtime, so traces of one task in three runtimes are paired: the
same inspections and the same takes in the same order. Only how state is carried differs: in variables (persistent),
printed and pasted as literals (forget), in thoughts (react). It asks no model and does not play the paper rules.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from keepstate.errors import UserError
from keepstate.tasks.base import Task
from keepstate.tasks.families.knapsack import teacher_text as text
from keepstate.tasks.families.knapsack.content import RuleSet
from keepstate.tasks.plan import codeact, react
from keepstate.vocabulary import RuntimeName

Message = Mapping[str, Any]
MAX_BATCH = 20
"""Most inspections in one action."""

Option = TypeVar("Option")


@dataclass(frozen=True, slots=True)
class Decisions:
    """Everything the teacher decides before it sees anything."""

    bounds: tuple[tuple[int, int], ...]
    """First and one past the last inspection of each batch, counted in the order of exploration."""
    style: text.Style


def decide(task_hash: str, seed: int, budget: int, max_batch: int) -> Decisions:
    """The decisions for one task: the same in every runtime.

    Args:
        task_hash: Content hash of the task.
        seed: The teacher's seed: another one plays the same task differently.
        budget: Inspections to spend, >= 1.
        max_batch: Most inspections in one action, >= 1.
    """

    def pick(name: str, options: Sequence[Option]) -> Option:
        digest = hashlib.sha256(f"{task_hash}:{seed}:{name}".encode()).digest()
        return options[int.from_bytes(digest[:8]) % len(options)]

    count = min(budget, max(2, -(-budget // max_batch)))
    edges = [budget * step // count for step in range(count + 1)]
    if count > 1:
        moved = edges[1] + pick("edge", (-2, -1, 0, 0, 1, 2))
        if 0 < moved <= max_batch and 0 < edges[2] - moved <= max_batch:
            edges[1] = moved
    style = text.Style(
        start=pick("start", text.START),
        more=tuple(pick(f"more {turn}", text.MORE) for turn in range(1, count)),
        plan=pick("plan", text.PLAN),
        restate=pick("restate", text.RESTATE),
        name=pick("name", text.NAMES),
        order=pick("order", ("listed", "listed", *text.ORDERS)),
    )
    return Decisions(tuple(itertools.pairwise(edges)), style)


class KnapsackTeacher:
    """The scripted answers for one task in one runtime.

    Args:
        task: A knapsack task under the strict rules; only its public part is kept.
        runtime: Whose format and whose memory the answers assume.
        seed: Varies the decisions.
        tool_calls: The cap on tool calls per action that the episode will have.

    Raises:
        UserError: The task is none that this teacher plays.
    """

    def __init__(self, task: Task, runtime: RuntimeName, *, seed: int = 0, tool_calls: int = 25) -> None:
        if task.public.get("rules") != RuleSet.STRICT:
            raise UserError(
                f"the scripted teacher does not play {task.name}: it plays knapsack under the strict rules",
                "make such tasks with: keepstate tasks generate --rules strict, or use --teacher llm",
            )
        self._runtime = runtime
        self._goal = text.Goal(task.public["capacity"], tuple(task.public["allowed_classes"]))
        max_batch = max(1, min(MAX_BATCH, tool_calls - 1))
        self._decided = decide(task.content_hash, seed, task.public["inspect_budget"], max_batch)

    def answer(self, messages: Sequence[Message], turn: int) -> str:
        """The next answer.

        Raises:
            ValueError: The last observation is none that the teacher's own actions can lead to; other errors too.
        """
        return self._react(messages, turn) if self._runtime is RuntimeName.REACT else self._codeact(messages, turn)

    def _codeact(self, messages: Sequence[Message], turn: int) -> str:
        goal, style, bounds = self._goal, self._decided.style, self._decided.bounds
        forgets = self._runtime is not RuntimeName.PERSISTENT  # what is stated anew runs under every rule
        printed = [_output(message) for message in messages[3::2]]
        code: list[str] = []
        thought = self._words(turn)
        if turn < len(bounds):
            if turn == 0 or forgets:
                code += [text.setup_code(style), text.known_code(style, ())]
            code += [text.inspect_code(goal, style, *bounds[turn]), text.report_code(style, whole=forgets)]
        else:
            if forgets:
                thought = f"{thought} {style.restate}"
                code += [text.known_code(style, [ast.literal_eval(batch) for batch in printed])]
            code += [text.pack_code(goal, style)]
        return codeact(thought, "\n".join(code))

    def _react(self, messages: Sequence[Message], turn: int) -> str:
        goal, bounds = self._goal, self._decided.bounds
        if turn == 0:
            return react("I need the item ids first.", [("list_items", {})])
        ids, known, last_seen = self._learnt(messages)
        thought = self._words(turn - 1)
        if last_seen:
            thought = f"{text.seen_words(last_seen, goal.allowed)}. {thought}"
        if turn <= len(bounds):
            first, last = bounds[turn - 1]
            return react(thought, [("inspect", {"item_id": item}) for item in ids[first:last]])
        pack = text.best_packing(known, goal.capacity)
        takes: list[tuple[str, dict[str, Any]]] = [("take_item", {"item_id": item}) for item in pack]
        return react(f"{thought} Best: {text.packing_words(known, pack)}.", [*takes, ("finish", {})])

    def _words(self, step: int) -> str:
        """What a turn's thought says of the plan; the step after the last batch is the packing."""
        batches, style = [text.batch_words(*bounds) for bounds in self._decided.bounds], self._decided.style
        if step == 0:
            budget = self._decided.bounds[-1][1]
            return style.start.format(budget=budget, first=batches[0], rest=", ".join(batches[1:]))
        if step == len(batches):
            return style.plan.format(capacity=self._goal.capacity)
        return style.more[step - 1].format(batch=batches[step])

    def _learnt(self, messages: Sequence[Message]) -> tuple[list[str], text.Known, text.Seen]:
        """From the conversation alone: ids in the order of exploration, usable items, what the last action showed."""
        ids: list[str] = []
        known: dict[str, tuple[int, int]] = {}
        seen: dict[str, tuple[str, int, int]] = {}
        for results in _results(messages):
            seen = {}
            for tool, arguments, result in results:
                value = json.loads(result)
                if tool == "list_items":
                    places = text.ORDERS[self._decided.style.order]
                    ids = value[places:] + value[:places]
                else:
                    seen[arguments["item_id"]] = value["class"], value["value"], value["weight"]
            known.update({item: (v, w) for item, (class_, v, w) in seen.items() if class_ in self._goal.allowed})
        return ids, known, seen


def _output(message: Message) -> str:
    """What a CodeAct block printed; a block that failed is not one of ours."""
    observation = json.loads(message["content"])
    if observation.get("error"):
        raise ValueError("its code failed")
    output: str = observation["output"]
    return output.strip()


def _results(messages: Sequence[Message]) -> Iterator[list[tuple[str, dict[str, Any], str]]]:
    """For each action of a ReAct conversation: its tool calls with their results."""
    for answer, observation in zip(messages[2::2], messages[3::2], strict=True):
        calls = json.loads(answer["content"].partition("\nAction: ")[2])
        lines = observation["content"].split("\n")
        yield [
            (call["tool"], call["args"], line.removeprefix(f"Observation: [{call['tool']}] "))
            for call, line in zip(calls, lines, strict=True)
        ]
