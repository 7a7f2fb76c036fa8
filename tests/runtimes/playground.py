"""What the tests of the runtimes share: a toy environment with a secret, opened runtimes, rungs, known differences."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from keepstate.runtimes import Sandbox, open_runtime
from keepstate.runtimes.base import Runtime, ToolGate
from keepstate.tasks.base import Environment, Verdict
from keepstate.tasks.tools import Parameter, Tool, ToolError
from keepstate.traces.record import ActionResult, Limits
from keepstate.vocabulary import Rung, RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName
CODEACT = (PERSISTENT, FORGET)
REAL_RUNGS = (Rung.NAMESPACES, Rung.LANDLOCK, Rung.SECCOMP)
RUNGS = (*REAL_RUNGS, Rung.PROCESS)
LIMITS = Limits(tool_calls=25, action_seconds=10)

DIFFERENCES: dict[Rung, dict[str, str]] = {
    Rung.NAMESPACES: {},
    Rung.LANDLOCK: {"files": "no folder to write to: nothing would bound what is written there"},
    Rung.SECCOMP: {
        "files": "no file can be opened",
        "late_import": "only modules that were loaded before can be imported",
    },
    Rung.PROCESS: {"files": "files are the host's own and stay"},
}
"""What a rung cannot do that the contract asks for, by the name of the feature. A test that needs it must then fail."""

NAME = Parameter(name="value", type="str")


class Toolbox(Environment):
    """Tools that echo, add, refuse and finish; holds a secret that no tool tells."""

    tools = (
        Tool(name="echo", description="The value itself.", parameters=(NAME,), returns="str"),
        Tool(
            name="add",
            description="Sum.",
            parameters=(Parameter(name="a", type="int"), Parameter(name="b", type="int")),
            returns="int",
        ),
        Tool(name="refuse", description="Refuses.", parameters=(NAME,)),
        Tool(
            name="repeat",
            description="Many letters.",
            parameters=(Parameter(name="count", type="int"),),
            returns="str",
        ),
        Tool(name="nothing", description="Returns nothing."),
        Tool(name="finish", description="End."),
    )
    goal = "Use the tools."

    def __init__(self, secret: str = "") -> None:
        self.secret = secret
        self.over = False
        self.log: list[tuple[str, dict[str, Any]]] = []

    @property
    def finished(self) -> bool:
        return self.over

    def call(self, tool: str, arguments: dict[str, Any]) -> Any:
        names = {t.name: [p.name for p in t.parameters] for t in self.tools}
        if not isinstance(tool, str) or tool not in names:
            raise ToolError(f"unknown tool {str(tool)[:40]!r}")
        if sorted(arguments) != sorted(names[tool]):
            raise ToolError(f"{tool} takes {names[tool]}")
        self.log.append((tool, arguments))
        if tool == "refuse":
            raise ToolError(f"refused: {arguments['value']}")
        if tool == "add":
            if not all(type(value) is int for value in arguments.values()):
                raise ToolError("add takes two int")
            return arguments["a"] + arguments["b"]
        if tool == "repeat":
            return "x" * min(int(arguments["count"]), 10**6)
        self.over = tool == "finish"
        return arguments.get("value")

    def verdict(self) -> Verdict:
        return Verdict(is_solved=self.over, score=float(self.over))


class Session:
    """One opened runtime with its environment."""

    def __init__(self, runtime: Runtime, gate: ToolGate, environment: Toolbox) -> None:
        self.runtime = runtime
        self.gate = gate
        self.environment = environment

    async def run(self, action: str) -> ActionResult:
        """Execute one action."""
        return await self.runtime.execute(action)

    async def output(self, action: str) -> str:
        """What an action that must succeed prints."""
        result = await self.run(action)
        assert result.error is None, result.error
        return result.output

    async def works(self) -> bool:
        """Whether a simple step with a tool call comes out right."""
        result = await self.run("print(6 * 7, add(20, 22))")
        return (result.output, result.error) == ("42 42\n", None)


@asynccontextmanager
async def opened(
    runtime: RuntimeName,
    sandbox: Sandbox | None,
    limits: Limits = LIMITS,
    secret: str = "",
    environment: Toolbox | None = None,
) -> AsyncIterator[Session]:
    """A session that is closed in the end, whatever happened."""
    environment = environment or Toolbox(secret)
    gate = ToolGate(environment, limits.tool_calls)
    made = await open_runtime(runtime, gate, limits, sandbox)
    try:
        yield Session(made, gate, environment)
    finally:
        await made.close()


def calls_action(runtime: RuntimeName, calls: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """An action that makes these calls one after another, in the format of `runtime`; CodeAct prints the results."""
    if runtime is REACT:
        return json.dumps([{"tool": tool, "args": arguments} for tool, arguments in calls])
    return "\n".join(f"print({tool}(**{arguments!r}))" for tool, arguments in calls)


def shown(result: ActionResult) -> str:
    """Everything the agent may see of a result."""
    return f"{result.output}\n{result.error or ''}"
