"""The one text form of a trace, and of the verdict beside it.

Writing, reading and writing again gives equal bytes. The schema itself is in `keepstate.traces.record`.
"""

from __future__ import annotations

import json
from typing import Any

from keepstate.traces.record import Trace


def trace_json(trace: Trace) -> bytes:
    """The bytes of `<task>.trace.json`: UTF-8 JSON; lone surrogates are escaped, so any text survives."""
    return json_bytes(trace.model_dump(by_alias=True))


def verdict_json(trace: Trace) -> bytes:
    """The bytes of `<task>.json`: what a benchmark counts. `score` is null where the episode was not graded."""
    verdict = trace.verdict
    return json_bytes(
        {
            "status": "failed" if trace.failure else "completed",
            "error": trace.failure.message if trace.failure else None,
            "origin": trace.failure.origin if trace.failure else None,
            "result": {
                "is_solved": verdict.is_solved if verdict else None,
                "score": verdict.score if verdict else None,
                "metrics": verdict.metrics if verdict else {},
            },
            "started_at": trace.started_at,
            "finished_at": trace.finished_at,
        }
    )


def json_bytes(value: dict[str, Any]) -> bytes:
    """`value` as strict UTF-8 JSON that reads back to equal bytes; each key, each item of a list, on its own line."""
    text = "{\n" + ",\n".join(f"{json.dumps(key)}: {_member(item)}" for key, item in value.items()) + "\n}\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return paired.encode("utf-8", "backslashreplace")


def _member(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False, allow_nan=False) for item in value) + "\n]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
