"""Reading a chat completion: the `Reply` in it, or what is wrong with the server that sent it, said once and clearly.

An empty text is an answer of the model. A text that is elsewhere, filtered, cut off by the server or of another kind is
none: it is the server's fault, and never graded.
"""

from __future__ import annotations

import re
from typing import Any

from keepstate.errors import UserError
from keepstate.models.base import Reply, TokenUsage, token_count
from keepstate.models.endpoint import Said, ServerFault, plain

ENDED = frozenset({None, "stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete"})
CUT = frozenset({"length", "max_tokens", "model_length"})
BROKEN_OFF = frozenset({"error", "abort", "insufficient_system_resource"})
"""Why answers end, in small letters: OpenAI's words, and TGI's, Anthropic's, Cohere's, Mistral's and DeepSeek's."""
REASONING = ("reasoning_content", "reasoning")
"""Where vLLM, SGLang and others put thoughts that they have parsed out."""
_ELSEWHERE = re.compile(r".*(reasoning|think|thought|audio|text|output|answer|response).*", re.IGNORECASE)
"""Other keys of a message that may hold what is not in its content."""


def read_reply(said: Said, seconds: float | None = None, *, may_think: bool = True) -> Reply:
    """The `Reply` in a chat completion.

    Args:
        said: With status 200.
        seconds: What it took.
        may_think: A thought that used up its tokens is one answer lost; else it is the server's setting.

    Raises:
        ServerFault: It holds no answer of the model.
        UserError: Nor will any other: the server has to be started differently.
    """
    choice, message = _choice(said)
    reason = choice.get("finish_reason")
    reason = reason.lower() if isinstance(reason, str) else reason  # Google's are in capitals
    if (isinstance(reason, str) and reason in BROKEN_OFF) or choice.get("error"):
        told = choice.get("error") or said.body.get("error")
        words = f": {Said(0, {}, str(told), told).words}" if told else ""
        raise ServerFault(f"the server broke the answer off (finish_reason {reason}){words}", again=True)
    if reason in ("content_filter", "safety"):
        raise ServerFault(f"a filter of the server withheld the answer (finish_reason {reason})")
    text = _text(message.get("content"))
    if not (text or "").strip():
        _elsewhere(message, reason, may_think)
    elif message.get("tool_calls"):
        raise _as_tool_calls()
    if text is None:
        content = message.get("content")  # null: routers send it when what is behind them broke off
        raise ServerFault(f"the answer's content is {_kind(content)}, no text", again=content is None)
    if not (reason is None or isinstance(reason, str)) or reason not in ENDED | CUT:
        raise ServerFault(f"the answer ended for a reason that is not known here: {reason!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ServerFault(f"the server answered with broken Unicode: {error}") from error
    return Reply(text, usage=usage_of(said.body), truncated=reason in CUT, seconds=seconds)


def usage_of(body: Any) -> TokenUsage:
    """Tokens as a completion counts them."""
    told = _object(_object(body).get("usage"))
    return TokenUsage(
        prompt_tokens=token_count(told.get("prompt_tokens")),
        completion_tokens=token_count(told.get("completion_tokens")),
        cached_tokens=token_count(_object(told.get("prompt_tokens_details")).get("cached_tokens")),
    )


def reasoning_of(body: Any) -> str:
    """Thoughts that the server has taken out of the answer; empty where there are none."""
    try:
        message = body["choices"][0]["message"]
        return next((told for key in REASONING if isinstance(told := message.get(key), str) and told.strip()), "")
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""


def _choice(said: Said) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first choice and its message."""
    if not isinstance(said.body, dict):
        kind = said.headers.get("content-type", "no type")
        raise ServerFault(f"the server answered with {kind} that is no chat completion: {said.words}", again=True)
    choices = said.body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        again = bool(said.body.get("error"))
        raise ServerFault(f"the server answered without a choice: {said.words}", again=again)
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise ServerFault(f"the server answered with a choice without a message: {said.words}")
    return choices[0], message


def _elsewhere(message: dict[str, Any], reason: Any, may_think: bool) -> None:
    """Look for an answer where no text is."""
    if message.get("tool_calls") or message.get("function_call"):
        raise _as_tool_calls()
    if refused := message.get("refusal"):
        raise ServerFault(f"the server refuses to answer: {plain(str(refused))}")
    others = (key for key in map(str, message) if key not in REASONING and _ELSEWHERE.fullmatch(key))
    for key in (*REASONING, *others):
        if not message.get(key):
            continue
        if reason in CUT and may_think:
            raise ServerFault(
                f"the answer is all in {key} and cut at its token limit: start the server without a reasoning parser,"
                " switch thinking off, or allow more tokens"
            )
        raise UserError(
            f"answers come in {key}, and their content is empty: the server takes them for thoughts",
            "start the server without a reasoning parser, as keepstate serve does (vllm serve: no --reasoning-parser)",
        )


def _as_tool_calls() -> UserError:
    return UserError(
        "answers come as tool_calls, although no tools were offered: the server parses them out of the text",
        "start the server without a tool parser, as keepstate serve does (vllm serve: no --enable-auto-tool-choice)",
    )


def _text(content: Any) -> str | None:
    """A text, or a list of nothing but text parts; None of anything else."""
    if isinstance(content, list) and content and all(_object(part).get("type") == "text" for part in content):
        parts = [part.get("text") for part in content]
        return "".join(parts) if all(isinstance(part, str) for part in parts) else None
    return content if isinstance(content, str) else None


def _kind(content: Any) -> str:
    if isinstance(content, list):
        kinds = sorted({str(_object(part).get("type", type(part).__name__)) for part in content})
        return f"a list of parts ({', '.join(kinds) or 'empty'})"
    return "null" if content is None else f"of type {type(content).__name__}"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
