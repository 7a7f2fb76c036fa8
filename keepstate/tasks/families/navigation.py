"""Navigation: walk an opaque graph with cycles to a named node, seeing only the neighbours of where one is.

Score = shortest path / moves made, where the goal is reached within the step limit, else 0. The goal ends the episode,
and so does the last move.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Self

from pydantic import Field, model_validator

from keepstate.closed import Closed
from keepstate.tasks.base import Environment, Task, TaskContent, Verdict
from keepstate.tasks.dice import Dice
from keepstate.tasks.family import Family, Instance
from keepstate.tasks.plan import Move, Step
from keepstate.tasks.tools import ToolError, echo, tool

Graph = Mapping[str, Sequence[str]]
"""Neighbours of every node, in the order in which `scan` tells them."""
MAX_ATTEMPTS = 1_000
MAX_MOVES = 20
"""Of the teacher in one action."""


class NavigationParameters(Closed):
    """What is drawn uniformly, and from where; ranges include both ends."""

    horizon: tuple[int, int]
    """Moves of the shortest path."""
    extra_nodes: tuple[int, int]
    """Beside those of the path."""
    extra_edges: tuple[float, float]
    """As a share of all nodes; they close cycles and shorten nothing."""
    step_factor: float
    """Step limit / shortest path."""


class WalkPublic(Closed):
    """What the goal tells."""

    start: str
    goal: str
    step_limit: int = Field(ge=1)


class WalkPrivate(Closed):
    """The graph."""

    graph: dict[str, tuple[str, ...]]


class WalkReference(Closed):
    """A shortest path, both ends included."""

    path: tuple[str, ...] = Field(min_length=2)


class WalkContent(TaskContent):
    """A whole instance, checked for agreement with itself."""

    public: WalkPublic
    private: WalkPrivate
    reference: WalkReference

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        graph, path = self.private.graph, self.reference.path
        if any(node not in graph.get(other, ()) for node, near in graph.items() for other in near):
            raise ValueError("private.graph has an edge that does not lead back")
        if not {self.public.start, self.public.goal} <= graph.keys():
            raise ValueError("public.start or public.goal is no node of the graph")
        if (path[0], path[-1]) != (self.public.start, self.public.goal):
            raise ValueError("reference.path does not lead from public.start to public.goal")
        if any(after not in graph[before] for before, after in pairwise(path)):
            raise ValueError("reference.path leaves the graph")
        if len(path) != len(shortest(graph, self.public.start, self.public.goal)):
            raise ValueError("reference.path is not the shortest")
        return self


def shortest(graph: Graph, start: str, *goals: str) -> list[str]:
    """A shortest path from `start` to the nearest of `goals`, both ends included; empty where there is none."""
    before: dict[str, str | None] = {start: None}
    ahead = deque([start])
    while ahead:
        node = ahead.popleft()
        if node in goals:
            path = [node]
            while (earlier := before[path[-1]]) is not None:
                path.append(earlier)
            return path[::-1]
        for near in graph.get(node, ()):
            if near not in before:
                before[near] = node
                ahead.append(near)
    return []


def next_moves(known: Graph, here: str, goal: str) -> list[str]:
    """The moves of an explorer: to the goal, if it was seen, else to the nearest node that he has not been to.

    Args:
        known: Neighbours of the nodes that he has been to.
        here: Where he is.
        goal: Where he wants to.
    """
    seen = {near for told in known.values() for near in told}
    return shortest(known, here, *({goal} & seen or seen - known.keys()))[1:]


class NavigationEnvironment(Environment):
    """Where the agent is, and how many moves it made.

    Raises:
        UserError: The task's content is not valid.
    """

    in_memory = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        content = WalkContent.of(task)
        self._public, self._graph = content.public, content.private.graph
        self._best = len(content.reference.path) - 1
        self._here, self._moves = self._public.start, 0
        self.goal = (
            f"Walk through a graph to the node {self._public.goal}. You see only the neighbours of where you are.\n"
            f"You start at {self._public.start}. The graph has cycles.\n"
            f"You may make {self._public.step_limit} moves; fewer score more. Looking around is free.\n"
            "The task ends when you reach the node, or with the last move."
        )

    @tool
    def scan(self) -> str:
        """JSON with the "node" you are at and its "neighbors"."""
        return json.dumps({"node": self._here, "neighbors": self._graph[self._here]}, separators=(",", ":"))

    @tool
    def move(self, node_id: str) -> None:
        """Go to a neighbour of the node you are at. Costs one move."""
        if node_id not in self._graph[self._here]:
            raise ToolError(f"{echo(node_id)} is no neighbour of {self._here}")
        self._here = node_id
        self._moves += 1
        self.finished = node_id == self._public.goal or self._moves >= self._public.step_limit

    def verdict(self) -> Verdict:
        """Shortest path / moves, if the goal was reached."""
        reached = self._here == self._public.goal
        return Verdict(
            is_solved=reached and self._moves == self._best,
            score=self._best / self._moves if reached else 0.0,
            metrics={"reached": float(reached), "moves": self._moves, "shortest": self._best},
        )


class Navigation(Family):
    """The family."""

    name = "navigation"
    environment = NavigationEnvironment
    difficulties = MappingProxyType(
        {
            "mini": NavigationParameters(horizon=(3, 5), extra_nodes=(1, 4), extra_edges=(0.1, 0.3), step_factor=2.5),
            "easy": NavigationParameters(horizon=(5, 10), extra_nodes=(0, 6), extra_edges=(0.05, 0.2), step_factor=2.2),
            "medium": NavigationParameters(
                horizon=(15, 25), extra_nodes=(10, 20), extra_edges=(0.1, 0.3), step_factor=3.0
            ),
            "hard": NavigationParameters(
                horizon=(30, 50), extra_nodes=(15, 35), extra_edges=(0.25, 0.55), step_factor=3.2
            ),
        }
    )
    policies = MappingProxyType(
        {
            "blind": "goes to any neighbour, without memory: the floor",
            "explore": "goes to the nearest node that it has not been to",
            "oracle": "knows the graph: the shortest path",
        }
    )

    def sample(self, dice: Dice, parameters: NavigationParameters, rules: str | None) -> Instance:
        """Draw graphs until one has a cycle.

        Raises:
            RuntimeError: `MAX_ATTEMPTS` have none.
        """
        for _ in range(MAX_ATTEMPTS):
            if instance := _attempt(dice, parameters):
                return instance
        raise RuntimeError(f"no graph among {MAX_ATTEMPTS} has a cycle: {parameters!r}")

    def gold(self, task: Task) -> Sequence[Move]:
        """Walk the shortest path."""
        return [Move("move", {"node_id": node}) for node in WalkContent.of(task).reference.path[1:]]

    def reference_scores(self, task: Task) -> dict[str, float]:
        """Scores of the policies."""
        content = WalkContent.of(task)
        blind = _walk(content, Dice(f"{task.content_hash}:blind"))
        return {
            "blind": self.score(task, blind),
            "explore": self.score(task, _explored(content)),
            "oracle": self.score(task, self.gold(task)),
        }

    def plan(self, task: Task, dice: Dice) -> Generator[Step, list[Any], None]:
        """Explore: look around, and go on to the nearest node that is new."""
        goal, known = task.public["goal"], {}
        words = dice.choice(("Now to {}.", "I go to {}.", "Next {}."))
        said = yield Step("First I look around.", [Move("scan")])
        while True:
            told = json.loads(said[-1])
            here, known[told["node"]] = told["node"], told["neighbors"]
            moves = next_moves(known, here, goal)
            thought = f"I am at {here}, {len(known)} nodes seen. {words.format(moves[-1])}"
            for first in range(0, len(moves), MAX_MOVES):
                part = moves[first : first + MAX_MOVES]
                last = [Move("scan")] if part[-1] == moves[-1] != goal else []
                said = yield Step(thought, [*(Move("move", {"node_id": node}) for node in part), *last])


def _attempt(dice: Dice, parameters: NavigationParameters) -> Instance | None:
    length = dice.randint(*parameters.horizon)
    count = length + 1 + dice.randint(*parameters.extra_nodes)
    names = [f"node_{dice.getrandbits(32):08x}" for _ in range(count)]
    if len(set(names)) < count:
        return None
    near: list[list[int]] = [[] for _ in range(count)]
    depth = list(range(length + 1))
    for node in range(1, count):
        other = node - 1 if node <= length else dice.randint(0, node - 1)
        depth += [depth[other] + 1] if node > length else []
        near[node].append(other)
        near[other].append(node)
    low, high = parameters.extra_edges
    wanted = max(1, round((low + (high - low) * dice.random()) * count))
    pairs = [
        (one, other)
        for one in range(count)
        for other in range(one)
        if abs(depth[one] - depth[other]) <= 1 and other not in near[one]  # so no way from the start becomes shorter
    ]
    if not pairs:
        return None
    for one, other in dice.sample(pairs, min(wanted, len(pairs))):
        near[one].append(other)
        near[other].append(one)
    for told in near:
        dice.shuffle(told)
    order = list(range(count))
    dice.shuffle(order)
    return Instance(
        public={
            "start": names[0],
            "goal": names[length],
            "step_limit": math.ceil(parameters.step_factor * length),
        },
        private={"graph": {names[node]: [names[other] for other in near[node]] for node in order}},
        reference={"path": names[: length + 1]},
    )


def _walk(content: WalkContent, dice: Dice) -> list[Move]:
    """A random walk of as many moves as there may be, or to the goal."""
    here = content.public.start
    moves: list[Move] = []
    while here != content.public.goal and len(moves) < content.public.step_limit:
        here = dice.choice(content.private.graph[here])
        moves.append(Move("move", {"node_id": here}))
    return moves


def _explored(content: WalkContent) -> list[Move]:
    """The explorer's moves."""
    graph, goal, here = content.private.graph, content.public.goal, content.public.start
    known = {here: graph[here]}
    moves: list[Move] = []
    while here != goal and len(moves) < content.public.step_limit:
        ahead = next_moves(known, here, goal)
        moves += [Move("move", {"node_id": node}) for node in ahead]
        here = ahead[-1]
        known[here] = graph[here]
    return moves[: content.public.step_limit]
