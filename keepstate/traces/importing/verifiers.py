"""Rollouts of verifiers, which prime-rl writes too: `results.jsonl` of prompt and completion, and the later
`traces.jsonl` of episodes, or of traces alone, whose messages are nodes of a tree.

The verdict is the reward where it lies between 0 and 1. An answer that the model did not give (an example in the
prompt, a node that was not sampled) is not to be trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keepstate.traces.importing import UNKNOWN, Told, file_word, graded, mapping, time_of, usage_of
from keepstate.traces.record import TraceError
from keepstate.vocabulary import FinishReason

SOURCE = "verifiers rollouts"
MARKS = frozenset({"reward", "example_id", "stop_condition", "is_completed", "trajectory_id"})
"""Any of these beside a prompt and a completion that are texts tells a rollout from a row for training."""
READ = frozenset(
    {
        "prompt",
        "completion",
        "reward",
        "example_id",
        "task",
        "metrics",
        "error",
        "stop_condition",
        "is_truncated",
        "is_completed",
        "token_usage",
        "error_chain",
        "long_error_chain",
        "timing",
    }
)
STOPS = (
    ("context", FinishReason.CONTEXT_LIMIT),
    ("prompt_too_long", FinishReason.CONTEXT_LIMIT),
    ("total_tokens", FinishReason.CONTEXT_LIMIT),
    ("input_tokens", FinishReason.CONTEXT_LIMIT),
    ("timeout", FinishReason.TIME_LIMIT),
    ("time", FinishReason.TIME_LIMIT),
    ("max_", FinishReason.TURN_LIMIT),
    ("truncated", FinishReason.CONTEXT_LIMIT),
)
"""What a stop condition that names a limit holds, the telling ones first."""


def is_rollout(value: Any) -> bool:
    """Whether a value is a rollout, a trace or an episode."""
    if not isinstance(value, Mapping):
        return False
    episode = isinstance(value.get("traces"), list) and {"env", "task"} <= value.keys()
    return episode or _is_rollout(value) or _is_trace(value)


def _is_rollout(value: Mapping[str, Any]) -> bool:
    texts = [value.get(key) for key in ("prompt", "completion")]
    return None not in texts and (bool(MARKS & value.keys()) or all(isinstance(text, list) for text in texts))


def _is_trace(value: Mapping[str, Any]) -> bool:
    nodes = value.get("nodes")
    return isinstance(nodes, list) and "task" in value and all("message" in mapping(node) for node in nodes)


def episodes_in(value: Mapping[str, Any]) -> list[Any]:
    """Each trace of an episode with the episode's environment; a rollout or a trace is one itself."""
    if _is_rollout(value) or _is_trace(value) or not value["traces"]:
        return [value]
    return [{**mapping(trace), "env": value["env"]} for trace in value["traces"]]


def told_of(value: Mapping[str, Any]) -> Told:
    """What a rollout or a trace tells.

    Raises:
        TraceError: It holds what is not to be trained, or no trace.
    """
    if _is_rollout(value):
        return _rollout(value)
    if value.get("traces") == []:
        raise TraceError("it is an episode of verifiers without a trace: " + _errors(value))
    return _trace(value)


def _rollout(row: Mapping[str, Any]) -> Told:
    prompt, completion = _messages(row["prompt"], "user"), _messages(row["completion"], "assistant")
    prompt = [message | {"weight": 0} if message.get("role") == "assistant" else message for message in prompt]
    told = Told(SOURCE, [*prompt, *completion], family=file_word(str(row.get("task") or "verifiers")))
    if row.get("example_id") is not None:
        told.task_id, told.name = row["example_id"], file_word(str(row["example_id"]))
    told.lost |= {f"key {key}" for key in map(str, row) if key not in READ and row[key] not in (None, "", [], {})}
    told.lost.add("model, times and limits, which a rollout does not tell")
    told.verdict = graded(row.get("reward"), told.lost, mapping(row.get("metrics")))
    used = mapping(row.get("token_usage"))
    told.usage = usage_of(used.get("input_tokens"), used.get("output_tokens"))
    stop = f"{row.get('stop_condition')} {'truncated' if row.get('is_truncated') else ''}"
    aborted = "is_completed is false, and it does not tell why" if row.get("is_completed") is False else None
    _end(told, stop, list(filter(None, [row.get("error") or aborted])))
    return told


def _messages(told: Any, role: str) -> list[Any]:
    """Messages, whose calls may be JSON texts; a text alone is one message."""
    if isinstance(told, str):
        return [{"role": role, "content": told}]
    if not isinstance(told, list):
        raise TraceError(f"its {'prompt' if role == 'user' else 'completion'} is neither text nor messages")
    return [_message(mapping(message)) for message in told]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    try:
        return {**message, "tool_calls": [json.loads(call) if isinstance(call, str) else call for call in calls]}
    except (ValueError, RecursionError) as error:
        raise TraceError(f"a tool call is text that is no JSON: {error}") from error


def _trace(trace: Mapping[str, Any]) -> Told:
    agent, env = mapping(trace.get("agent")), mapping(trace.get("env"))
    if agent.get("trainable") is False:
        raise TraceError(f"its agent {agent.get('name')!r} is not the one that is trained")
    nodes = [mapping(node) for node in trace.get("nodes") or ()]
    told = Told(SOURCE, [], family=file_word(str(env.get("id") or "verifiers").replace("/", "-")))
    calls = [mapping(call) for call in trace.get("calls") or ()]
    used = {call.get("node"): mapping(call.get("usage")) for call in calls}
    for place in _branch(nodes, told.lost):
        node = nodes[place]
        message = mapping(node.get("message"))
        given = {"weight": 0} if message.get("role") == "assistant" and node.get("sampled") is False else {}
        told.messages.append(_message(message) | given)
        if message.get("role") == "assistant":
            told.usages.append(_usage(used.get(place, {})))
    task = mapping(trace.get("task"))
    told.task_id = task.get("key") or task.get("hash") or task.get("data")
    told.model = next((str(call["model"]) for call in calls if call.get("model")), UNKNOWN)
    rewards = [mapping(reward) for reward in mapping(trace.get("rewards")).values() if reward is not None]
    parts = [reward.get("score", 0) * reward.get("weight", 1) for reward in rewards]
    told.verdict = graded(sum(parts) if parts else None, told.lost, mapping(trace.get("metrics")))
    times = mapping(trace.get("timing"))
    told.started_at, told.finished_at = time_of(times.get("start")), time_of(mapping(times.get("agent")).get("end"))
    told.lost |= {f"key {key}" for key in ("tools", "info", "extra_usage", "request_rewrites") if trace.get(key)}
    told.lost.add("tokens as ids, sampling and limits")
    failed = [] if trace.get("ok", True) else [_errors(trace)]
    _end(told, trace.get("stop_condition"), failed)
    return told


def _branch(nodes: list[Mapping[str, Any]], lost: set[str]) -> list[int]:
    """Places of the messages from the root to the last leaf."""
    parents = {node.get("parent") for node in nodes}
    leaves = [place for place in range(len(nodes)) if place not in parents]
    if not leaves:
        raise TraceError("it holds no message, or a circle of them")
    if len(leaves) > 1:
        lost.add("branches of the conversation but the last")
    path: list[int] = []
    place: Any = leaves[-1]
    while place is not None:
        if not isinstance(place, int) or not 0 <= place < len(nodes) or len(path) > len(nodes):
            raise TraceError(f"a message follows message {place!r}, which is not there")
        path.append(place)
        place = nodes[place].get("parent")
    return path[::-1]


def _usage(told: Mapping[str, Any]) -> Any:
    cached, prompt = told.get("cached_input_tokens"), told.get("prompt_tokens")
    whole = prompt + cached if isinstance(prompt, int) and isinstance(cached, int) else prompt
    return usage_of(whole, told.get("completion_tokens"), cached)


def _end(told: Told, stop: Any, errors: list[Any]) -> None:
    reason = str(stop or "").lower()
    told.finish = next((finish for word, finish in STOPS if word in reason), FinishReason.FINISHED)
    if errors:
        told.finish, told.errors = FinishReason.FAILED, [_words(error) for error in errors]


def _errors(value: Mapping[str, Any]) -> str:
    return "; ".join(_words(error) for error in value.get("errors") or ()) or "it does not tell why it failed"


def _words(error: Any) -> str:
    told = mapping(error)
    named = told.get("error_chain_str") or told.get("message") or told.get("error")
    return str(named or error)
