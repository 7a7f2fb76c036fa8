"""The one text form of a trace, and of the verdict beside it.

Writing, reading and writing again gives equal bytes. The schema itself is in `keepstate.traces.record`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from keepstate.traces.record import Trace
from keepstate.vocabulary import Origin


class VerdictResult(TypedDict):
    """How an episode went, as the trace has it; null where it was not graded."""

    is_solved: bool | None
    """Whether the task was solved."""
    score: float | None
    """In [0, 1]; 1.0 is the optimum."""
    metrics: dict[str, float]
    """Whatever else the family counts."""


class VerdictFile(TypedDict):
    """What a benchmark counts of an episode."""

    status: Literal["completed", "failed"]
    """Failed: by a failure of ours. An agent that did not solve its task has completed it."""
    error: str | None
    """The message of that failure."""
    origin: Origin | None
    """Where it arose."""
    result: VerdictResult
    """The verdict of the task's environment."""
    started_at: str
    """ISO 8601, UTC."""
    finished_at: str
    """ISO 8601, UTC."""


def trace_json(trace: Trace) -> bytes:
    """The bytes of `<task>.trace.json`: UTF-8 JSON; lone surrogates are escaped, so any text survives."""
    return json_bytes(trace.model_dump(by_alias=True))


def verdict_json(trace: Trace) -> bytes:
    """The bytes of `<task>.json`: what a benchmark counts. `score` is null where the episode was not graded."""
    verdict, failure = trace.verdict, trace.failure
    graded: VerdictResult = {"is_solved": None, "score": None, "metrics": {}}
    if verdict is not None:
        graded = {"is_solved": verdict.is_solved, "score": verdict.score, "metrics": verdict.metrics}
    file: VerdictFile = {
        "status": "failed" if failure else "completed",
        "error": failure.message if failure else None,
        "origin": failure.origin if failure else None,
        "result": graded,
        "started_at": trace.started_at,
        "finished_at": trace.finished_at,
    }
    return json_bytes(file)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """`value` as strict UTF-8 JSON that reads back to equal bytes; each key, each item of a list, on its own line."""
    text = "{\n" + ",\n".join(f"{_strict_json(key)}: {_member(item)}" for key, item in value.items()) + "\n}\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return paired.encode("utf-8", "backslashreplace")


def _member(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(map(_strict_json, value)) + "\n]"
    return _strict_json(value)


_strict_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
"""`json.dumps` makes an encoder at each call."""
