"""Logs of inspect_ai: `.eval` (a zip archive, a file a sample) and the older `.json`; a trace a sample and epoch.

`samples_of` takes the samples out of an archive one at a time. The verdict is the first scorer's, as in inspect's own
headline: C, P and I are 1, .5 and 0, a number is itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from keepstate.tasks.base import Verdict
from keepstate.traces.importing import UNKNOWN, Told, file_word, graded, mapping, usage_of
from keepstate.traces.record import TraceError
from keepstate.vocabulary import FinishReason

HEADERS = ("header.json", "_journal/start.json")
"""Where an archive tells what was evaluated; a run that was cut off has the second alone."""
SAMPLES = "samples/"
MOST_BYTES = 512 * 2**20
"""Of one sample."""
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""As inspect's `value_to_float` has them."""
LIMITS = {"context": FinishReason.CONTEXT_LIMIT, "time": FinishReason.TIME_LIMIT, "working": FinishReason.TIME_LIMIT}
"""Why a sample was cut; any other limit is one of turns."""
ATTACHED = "attachment://"
READ_OF_MESSAGE = {"role", "content", "tool_calls", "tool_call_id", "error"}
SILENT_OF_MESSAGE = {"id", "source", "model", "function"}
"""Names that nobody misses."""


def is_log(value: Any) -> bool:
    """Whether a value is a log, or one sample with the header of its archive."""
    return isinstance(value, Mapping) and isinstance(value.get("eval"), Mapping) and "status" in value


def samples_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Every sample of an archive with its place, as a log of that sample; a `TraceError` in place of a broken one.

    Raises:
        TraceError: It is no archive of inspect's.
        OSError: It cannot be read.
    """
    zipfile = _zipfile()
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            header = next((name for name in HEADERS if name in names), None)
            if header is None:
                raise TraceError("it is a zip archive, and no log of inspect_ai's; unpack it first")
            log = _member(archive, header)
            for name in names:
                if name.startswith(SAMPLES) and name.endswith(".json"):
                    try:
                        yield f"{path}:{name}", {"status": "", **log, "samples": [_member(archive, name)]}
                    except TraceError as error:
                        yield f"{path}:{name}", error
    except (zipfile.BadZipFile, EOFError) as error:
        raise TraceError(f"its zip archive cannot be read: {error}") from error


@cache
def _zipfile() -> ModuleType:
    """The standard library's as of Python 3.14, which knows zstd, as inspect_ai compresses by now."""
    try:
        return import_module("backports.zstd.zipfile")
    except ImportError:
        return import_module("zipfile")


def _member(archive: Any, name: str) -> dict[str, Any]:
    try:
        with archive.open(name) as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise TraceError(f"{name} is larger than {MOST_BYTES:,} bytes")
        value = json.loads(raw, parse_constant=lambda _: None)  # inspect writes NaN for a metric that is none
    except NotImplementedError as error:
        convert = "inspect log convert FILE --to json --output-dir DIR"
        way_out = f"install backports.zstd, or have inspect write it as JSON: {convert}"
        raise TraceError(f"{name} is compressed in a way that this Python does not know: {way_out}") from error
    except (ValueError, RecursionError, EOFError, OSError, RuntimeError, _zipfile().BadZipFile) as error:
        raise error if isinstance(error, TraceError) else TraceError(f"{name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise TraceError(f"{name} is no JSON object")
    return value


def samples_in(log: Mapping[str, Any]) -> list[Any]:
    """Each sample of a log, as a log of that sample; the log itself where it has none."""
    samples = log.get("samples")
    return [{**log, "samples": [sample]} for sample in samples] if isinstance(samples, list) and samples else [log]


def told_of(log: Mapping[str, Any]) -> Told:
    """What a log of one sample tells.

    Raises:
        TraceError: It has no sample, or one that text cannot carry.
    """
    if not log.get("samples"):
        raise TraceError("this is a log of inspect_ai without samples (was it written with log_samples off?)")
    sample, run = mapping(log["samples"][0]), log["eval"]
    messages = sample.get("messages")
    if not isinstance(messages, list) or not messages:
        raise TraceError(f"sample {sample.get('id')!r}, epoch {sample.get('epoch')}, holds no messages")
    told = Told("inspect_ai logs", [], family=file_word(str(run.get("task") or "inspect").replace("/", "-")))
    attachments = mapping(sample.get("attachments"))
    told.messages = [_message(mapping(_attached(message, attachments)), told.lost) for message in messages]
    told.task_id, told.name = sample.get("id"), file_word(str(sample.get("id")))
    told.model = str(run.get("model") or UNKNOWN)
    told.started_at = str(sample.get("started_at") or "")
    told.finished_at = str(sample.get("completed_at") or "")
    used = mapping(mapping(sample.get("model_usage")).get(told.model))
    told.usage = usage_of(used.get("input_tokens"), used.get("output_tokens"), used.get("input_tokens_cache_read"))
    told.verdict = _verdict(mapping(sample.get("scores")) or {"": sample.get("score")}, told.lost)
    if error := mapping(sample.get("error")):
        told.finish, told.errors = FinishReason.FAILED, [str(error.get("message") or error)]
    elif limit := mapping(sample.get("limit")):
        told.finish = LIMITS.get(str(limit.get("type")), FinishReason.TURN_LIMIT)
    told.lost |= {f"{key} of a sample" for key in ("store", "metadata", "events") if sample.get(key)}
    told.lost.add("limits and sampling, and tokens of each answer")
    return told


def _attached(value: Any, attachments: Mapping[str, Any], depth: int = 12) -> Any:
    """`value` with the long texts that the log keeps once, in their places."""
    if isinstance(value, str) and value.startswith(ATTACHED):
        return attachments.get(value.removeprefix(ATTACHED), value)
    if isinstance(value, dict) and depth:
        return {key: _attached(item, attachments, depth - 1) for key, item in value.items()}
    return [_attached(item, attachments, depth - 1) for item in value] if isinstance(value, list) and depth else value


def _message(message: Mapping[str, Any], lost: set[str]) -> dict[str, Any]:
    """One message as OpenAI has it; an error stands for the result that did not come."""
    kept = {key: message[key] for key in READ_OF_MESSAGE if message.get(key) is not None}
    for key in message.keys() - READ_OF_MESSAGE - SILENT_OF_MESSAGE:
        if message[key] not in (None, "", [], {}):
            lost.add(f"key {key} of a message")
    if message.get("role") == "assistant" and message.get("source") == "input":  # an example in the sample
        kept["weight"] = 0
    if error := mapping(kept.pop("error", None)):
        kept |= {"content": kept.get("content") or str(error.get("message") or "it failed"), "is_error": True}
    calls = []
    for call in map(mapping, kept.get("tool_calls") or ()):
        if call.get("parse_error"):
            raise TraceError(f"a call of {call.get('function')} could not be parsed: {call['parse_error']}")
        calls.append({"id": call.get("id"), "name": call.get("function"), "arguments": call.get("arguments") or {}})
    if "tool_calls" in kept:
        kept["tool_calls"] = calls
    return kept


def _verdict(scores: Mapping[str, Any], lost: set[str]) -> Verdict | None:
    """Of the first scorer; values of the others that are numbers are metrics."""
    values = {name: _number(mapping(score).get("value")) for name, score in scores.items() if score is not None}
    if not values:
        return None
    first, *_ = values
    return graded(values.pop(first), lost, values)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return float(value)
    return GRADES.get(value, value) if isinstance(value, str) else value
