"""The registry of formats: what a JSON value from elsewhere is, who reads it, and what is recognised but not read.

A format that keepstate learns to read is a module of its own and one line of `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstate.traces.importing import Told, atif, conversations, harbor, inspect_logs, keys_of, smolagents, verifiers
from keepstate.traces.importing.conversations import talk_trace
from keepstate.traces.record import Trace, TraceError, json_kind
from keepstate.vocabulary import RuntimeName


@dataclass(frozen=True, slots=True)
class Format:
    """One format of episodes."""

    name: str
    known: Callable[[Any], bool]
    """Whether a value is of it, by its keys."""
    told_of: Callable[[Any], Told]
    """What one episode tells."""
    parts: Callable[[Any], list[Any]] = lambda value: [value]
    """The episodes in a value, each as `told_of` takes it."""


FORMATS = (
    Format("an ATIF trajectory", atif.is_trajectory, atif.told_of),
    Format("a log of inspect_ai", inspect_logs.is_log, inspect_logs.told_of, inspect_logs.samples_in),
    Format("a memory of smolagents", smolagents.is_memory, smolagents.told_of),
    Format("a rollout of verifiers", verifiers.is_rollout, verifiers.told_of, verifiers.episodes_in),
    Format("a row that harbor exports", harbor.is_export, harbor.told_of),
    Format("a row of messages", conversations.is_row, conversations.told_of),
)
"""Tried in this order: rows of messages, which others resemble, come last."""
MISBUILT = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError)
"""What a reader raises of a value that has another type than its format says: no reason to lose the rows after it."""
AS_ROWS = "write each as a row of `messages` or ShareGPT `conversations`"
RECOGNISED: tuple[tuple[frozenset[str], str], ...] = tuple(
    (frozenset(needed.split()), name)
    for needed, name in (
        ("type message uuid", "one event of a Claude Code session, a line an event"),
        ("type message sessionId", "one event of a Claude Code session, a line an event"),
        ("type summary leafUuid", "one event of a Claude Code session, a line an event"),
        ("type sessionId", "one event of a Claude Code session, a line an event"),
        ("type messageId snapshot", "one event of a Claude Code session, a line an event"),
        ("type session_id", "one event of a Claude Code session, a line an event"),
        ("type payload timestamp", "one event of a Codex session, a line an event"),
        ("type item", "one event of a Codex session, a line an event"),
        ("type thread_id", "one event of a Codex session, a line an event"),
        ("mapping current_node", "a conversation as ChatGPT exports it"),
        ("chat_messages", "a conversation as Claude's app exports it"),
        ("simulations", "results of tau2-bench"),
        ("query answers", "a row of query and answers, as xLAM's data has it"),
        ("rows features", "a page of rows: write each `row` of `rows` alone"),
        ("custom_id body", "a request of OpenAI's batch API"),
        ("custom_id response", "an answer of OpenAI's batch API"),
        ("object output", "an answer of OpenAI's Responses API"),
        ("object choices", "an answer of OpenAI's chat API"),
        ("contents", "a conversation of Gemini's API"),
        ("resourceSpans", "OpenTelemetry spans"),
        ("trace_id span_id", "a span of a tracer (OpenTelemetry, MLflow, Langfuse, ...)"),
        ("traceId observations", "a trace of Langfuse"),
        ("run_type inputs", "a run of LangSmith"),
        ("chosen rejected", "a pair of preferences (chosen, rejected)"),
        ("prompt completion", "a row of prompt and completion"),
        ("prompt response", "a row of prompt and response"),
        ("instruction output", "a row of Alpaca's format (instruction, input, output)"),
        ("instruction response", "a row of instruction and response"),
        ("question answer", "a row of question and answer"),
        ("trajectory", "a row with a `trajectory`, as SWE-agent and others write it"),
        ("history", "a row with a `history`, as OpenHands and others write it"),
        ("traj reward", "a result of tau-bench"),
        ("conversation", "a row with a `conversation`"),
        ("dialog", "a row with a `dialog`"),
        ("dialogue", "a row with a `dialogue`"),
        ("turns", "a row with `turns`"),
        ("trial_name task_name", "a result of harbor's, not its trajectory"),
        ("action observation", "one event of OpenHands or another agent, not an episode"),
        ("input output", "a row of input and output"),
        ("role content", "one message alone, not a row of them"),
        ("from value", "one message alone, not a row of them"),
        ("split row path", "an index of a data set of keepstate's"),
        ("path reason detail", "a list of traces that a data set leaves out"),
        ("text", "a row of plain text"),
    )
)
"""Keys that tell a format, the telling ones first."""


def format_of(value: Any) -> Format | None:
    """The format that reads a value; None where there is none."""
    return next((each for each in FORMATS if each.known(value)), None)


def traces_of(
    value: Any, runtime: RuntimeName | None, place: str = "", path: Path | None = None
) -> Iterator[Trace | TraceError]:
    """Every episode in a value as a trace; a `TraceError` in place of one that is none.

    Args:
        value: Of JSON.
        runtime: Where the agent acted, of a format that does not tell.
        place: Where it comes from, recorded in each trace.
        path: The file that it comes from: other files around it may tell more.

    Raises:
        TraceError: It is of no format that is read; the message names what it is.
        UserError: The runtime is not told.
    """
    found = format_of(value)
    if found is None:
        raise TraceError(foreign(value) or _unknown(value))
    for part in found.parts(value):
        try:
            told = found.told_of(part)
            if path is not None and found.known is atif.is_trajectory and told.verdict is None:
                harbor.add_result(told, path)
            yield talk_trace(told, runtime, place)
        except TraceError as error:
            named = found.known is not conversations.is_row and not str(error).startswith("this is")
            yield TraceError(f"this is {found.name}; {error}") if named else error
        except MISBUILT as error:
            yield TraceError(f"this is {found.name}, and not built as one: {type(error).__name__}: {error}")


def _unknown(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"{json_kind(value)}, where a row of messages is needed"
    for key in ("messages", "conversations"):
        if key in value:
            return f"`{key}` is {json_kind(value[key])}, where a list of messages is needed"
    return f"neither `messages` nor `conversations` is a list; its keys: {keys_of(value)}"


def foreign(value: Any) -> str | None:
    """What a value that is not read is, and the way out; None where it is not known."""
    if not isinstance(value, Mapping):
        return None
    keys = set(map(str, value))
    if isinstance(value.get("schema"), str):
        return f"its schema is {value['schema']!r}: no trace and no row of messages"
    for key in ("messages", "conversations"):
        if isinstance(value.get(key), str):
            return f"`{key}` is text: if it is JSON, decode it once more, so that it is a list"
    if keys >= {"status", "result"}:
        return "this is a verdict; name its trace, NAME.trace.json beside NAME.json, and it is read with it"
    for needed, name in RECOGNISED:
        if needed <= keys:
            return f"this is {name}, which is not read yet; {AS_ROWS}"
    return None
