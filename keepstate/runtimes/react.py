"""The runtime without an interpreter: an action is a JSON list of tool calls, run in order by the host.

    [{"tool": "inspect", "args": {"item_id": "item_1"}}, {"tool": "finish"}]

The whole list is checked before its first call. Executes no code, so there is nothing to isolate.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

from keepstate.files import parse_json
from keepstate.runtimes.base import ToolCallLimit, ToolGate
from keepstate.traces.record import ActionResult
from keepstate.vocabulary import Rung, RuntimeName

ACTION_FORMAT = "ActionFormat"
"""The `error_type` of an action that is no list of tool calls."""
SHAPE = 'Write a JSON list: [{"tool": "name", "args": {"parameter": "value"}}].'


class ReactRuntime:
    """Runs tool calls.

    Args:
        gate: Where they go.
    """

    name = RuntimeName.REACT
    rung = Rung.NONE

    def __init__(self, gate: ToolGate) -> None:
        self._gate = gate

    async def execute(self, action: str) -> ActionResult:
        """Run the calls of one action until the episode is over or the cap is reached.

        Raises:
            EpisodeFailure: The environment failed (origin task).
        """
        started = time.monotonic()
        self._gate.start_action()
        error = kind = None
        try:
            for tool, arguments in _calls(action):
                record = self._gate.call(tool, arguments)
                if isinstance(record, asyncio.Future):
                    await asyncio.shield(record)
                if self._gate.environment.finished:
                    break
        except ToolCallLimit as limit:
            error, kind = f"{limit}; the calls after that were not run", ToolCallLimit.__name__
        except _NotCalls as problem:
            error, kind = f"No tool was called: {problem}. {SHAPE}", ACTION_FORMAT
        return ActionResult(
            output="",
            error=error,
            error_type=kind,
            globals=None,
            results=tuple(self._gate.calls),
            seconds=time.monotonic() - started,
        )

    async def branch(self, gate: ToolGate) -> ReactRuntime:
        """Another one; it has no state of its own."""
        return ReactRuntime(gate)

    async def close(self) -> None:
        """Nothing is open."""


class _NotCalls(Exception):
    """The action is no list of tool calls; the text says why."""


def _calls(action: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        calls = parse_json(action, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise _NotCalls(f"the action is not valid JSON ({reason})") from None
    if not isinstance(calls, list):
        raise _NotCalls("the action is not a list")
    return [_call(number, call) for number, call in enumerate(calls, 1)]


def _call(number: int, call: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(call, dict):
        raise _NotCalls(f"call {number} is not an object")
    unknown = sorted(call.keys() - {"tool", "args"})
    if unknown:
        raise _NotCalls(f"call {number} has the key {unknown[0]!r}; only tool and args are allowed")
    tool, arguments = call.get("tool"), call.get("args", {})
    if not isinstance(tool, str):
        raise _NotCalls(f"call {number} has no tool name")
    if not isinstance(arguments, dict):
        raise _NotCalls(f"the args of call {number} are not an object")
    return tool, arguments


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: of two values for one, nobody knows which was meant."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _NotCalls(f"an object has the key {twice[:40]!r} twice")
    return made
