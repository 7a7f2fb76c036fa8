"""Results of actions, with what a test leaves out empty."""

from typing import Any

from keepstate.traces.record import ActionResult


def acted(output: str = "", **told: Any) -> ActionResult:
    """What an action did."""
    nothing: dict[str, Any] = {"error": None, "error_type": None, "globals": None, "results": ()}
    return ActionResult(output=output, **nothing | told)
