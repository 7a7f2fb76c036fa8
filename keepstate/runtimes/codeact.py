"""The runtimes that execute Python: `persistent` keeps one interpreter, `forget` takes a fresh one for every block.

They and those between differ in their `StateRule`: whether the interpreter is let go after a block. The code itself
runs in the sandbox.
"""

from __future__ import annotations

import time

from keepstate.runtimes.base import ToolCallLimit, ToolGate
from keepstate.runtimes.branch import CannotBranch, Ran, run_again
from keepstate.runtimes.sandbox.block import BlockResult, WorkerLost
from keepstate.runtimes.sandbox.sandbox import Sandbox
from keepstate.runtimes.sandbox.worker import Worker
from keepstate.state import StateRule
from keepstate.traces.record import ActionResult, Limits
from keepstate.vocabulary import RuntimeName

GONE = "All variables are gone; the next block starts in a new interpreter."


class CodeActRuntime:
    """Executes blocks of Python.

    Args:
        name: Any runtime but react.
        gate: Where tool calls go.
        limits: Of one block.
        sandbox: Where the interpreters come from.
    """

    def __init__(self, name: RuntimeName, gate: ToolGate, limits: Limits, sandbox: Sandbox) -> None:
        self.name = name
        self.rung = sandbox.rung
        self._rule = StateRule.of(name)
        self._gate = gate
        self._limits = limits
        self._sandbox = sandbox
        self._worker: Worker | None = None
        self._served = 0
        """Actions that the interpreter has executed."""
        self._history: list[Ran] = []
        """The same, where its state lives on."""
        self._is_busy = False
        self._entered = False

    async def open(self) -> CodeActRuntime:
        """Wait for a place in the sandbox."""
        await self._sandbox.enter(self._limits.memory_mib)
        self._entered = True
        return self

    async def execute(self, action: str) -> ActionResult:
        """Execute one block.

        Raises:
            EpisodeFailure: No interpreter is to be had (origin sandbox), or the task failed in a tool call.
        """
        self._gate.start_action()
        self._is_busy, told = True, None
        try:
            worker = self._worker = self._worker or await self._sandbox.take(self._limits.memory_mib)
            self._served += 1
            started = time.monotonic()
            told = await worker.run(action, self._gate, self._limits, variables_only=self._rule.variables_only)
            result = self._ended(told)
        except WorkerLost as lost:
            await self._gate.settled()
            result = self._lost(lost)
        except BaseException:
            self._end_interpreter()
            raise
        finally:
            self._is_busy = False
        is_lost, keeps = worker.lost is not None, self._keeps
        if is_lost or not keeps:
            self._end_interpreter()
        elif told is not None:
            self._history.append(Ran.of(action, self._gate.calls, told))
        return ActionResult(
            output=result.output,
            error=result.error,
            error_type=result.error_type,
            globals=result.globals if keeps and not is_lost and self._rule.announced else (),
            results=tuple(self._gate.calls),
            state_lost=is_lost and keeps,
            seconds=time.monotonic() - started,
        )

    async def branch(self, gate: ToolGate) -> CodeActRuntime:
        """Another runtime whose interpreter is in the state that this one's is in: see `keepstate.runtimes.branch`.

        Takes the time of the blocks that made the state, and waits for a place in the sandbox as an episode does.

        Raises:
            CannotBranch: An action is running, or a block does not do again what it did.
            EpisodeFailure: No interpreter is to be had (origin sandbox).
        """
        if self._is_busy:
            raise CannotBranch("an action is running: branch when execute() has returned")
        history = tuple(self._history)
        made = await CodeActRuntime(self.name, gate, self._limits, self._sandbox).open()
        try:
            if history:
                made._worker = await self._sandbox.take(self._limits.memory_mib)
                rule, tools = self._rule.variables_only, gate.environment.tools
                await run_again(made._worker, history, tools, self._limits, variables_only=rule)
        except BaseException:
            await made.close()
            raise
        made._served, made._history = len(history), [*history]
        return made

    async def close(self) -> None:
        """End the interpreter and give the place back. Safe to call twice."""
        self._end_interpreter()
        if self._entered:
            self._entered = False
            self._sandbox.leave(self._limits.memory_mib)

    @property
    def _keeps(self) -> bool:
        """Whether its interpreter lives on after the action that has just ended: not where that ended the episode."""
        cut = self._gate.limit_message is not None
        return not self._gate.environment.finished and self._rule.keeps(self._served, cut=cut)

    def _end_interpreter(self) -> None:
        worker, self._worker, self._served, self._history = self._worker, None, 0, []
        if worker is not None:
            worker.close()

    def _ended(self, result: BlockResult) -> BlockResult:
        """A block cannot hide that it ran into the cap."""
        limit = self._gate.limit_message
        if limit is None or result.error_type == ToolCallLimit.__name__:
            return result
        error = f"{result.error}\n" if result.error else ""
        return BlockResult(result.output, f"{error}ToolCallLimit: {limit}", ToolCallLimit.__name__, result.globals)

    def _lost(self, lost: WorkerLost) -> BlockResult:
        """What the agent sees of the end of its interpreter."""
        if self._gate.environment.finished:
            return self._ended(BlockResult(lost.output, None, None, ()))
        gone = f" {GONE}" if self._keeps else ""
        return BlockResult(lost.output, f"{lost.kind}: {lost.reason}.{gone}", lost.kind, ())
