"""What executes an agent's actions: `persistent` and `forget` (Python, sandboxed) and `react` (tool calls only).

`open_runtime` gives one runtime for one episode; `base.py` is their common interface, `sandbox/` where model-written
code runs.
"""

from keepstate.runtimes.base import Runtime, ToolGate
from keepstate.runtimes.branch import CannotBranch
from keepstate.runtimes.codeact import CodeActRuntime
from keepstate.runtimes.react import ReactRuntime
from keepstate.runtimes.sandbox import Sandbox
from keepstate.traces.record import Limits
from keepstate.vocabulary import RuntimeName

__all__ = ["CannotBranch", "Sandbox", "open_runtime"]


async def open_runtime(name: RuntimeName, gate: ToolGate, limits: Limits, sandbox: Sandbox | None) -> Runtime:
    """The runtime of one episode; to be closed. May wait while the sandbox is full.

    Args:
        name: Which.
        gate: Where its tool calls go.
        limits: Of one action.
        sandbox: An open one; react needs none.

    Raises:
        ValueError: A runtime that executes code, and no sandbox.
    """
    if name is RuntimeName.REACT:
        return ReactRuntime(gate)
    if sandbox is None:
        raise ValueError(f"the runtime {name} needs a sandbox")
    return await CodeActRuntime(name, gate, limits, sandbox).open()
