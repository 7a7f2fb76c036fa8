"""What an agent sees: always valid Unicode, never a special token, bounded, and back to the same output."""

import json
import re
from typing import Any

import pytest
from acted import acted
from hypothesis import example, given
from hypothesis import strategies as st

from keepstate.traces.observations import MAX_ERROR_CHARS, MAX_GLOBALS, cut, render_observation
from keepstate.traces.record import ToolCall
from keepstate.vocabulary import RuntimeName

SPECIAL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</s>", "<s>", "<pad>"]
ANY_TEXT = st.one_of(
    st.text(st.characters()), st.lists(st.sampled_from([*SPECIAL, "<", "|", "\\", "\ud83d", "\ude00"])).map("".join)
)


def codeact(**result: Any) -> str:
    return render_observation(RuntimeName.FORGET, acted(**result))


def react(*calls: ToolCall, error: str | None = None) -> str:
    return render_observation(RuntimeName.REACT, acted(error=error, results=calls))


def test_keys_appear_only_when_they_apply() -> None:
    assert codeact(output="5\n", globals=("a", "b")) == '{"output":"5\\n","globals":["a","b"]}'
    assert codeact(error="NameError: x") == '{"error":"NameError: x"}'
    assert codeact(output="1", error="E", globals=()) == '{"output":"1","error":"E","globals":[]}'


def test_a_silent_block_still_yields_an_observation() -> None:
    assert codeact() == '{"output":""}'
    assert react() == "Observation: no tool was called"


def test_persistent_and_forget_render_alike() -> None:
    result = acted("é", error="e", globals=("x",))
    assert render_observation(RuntimeName.PERSISTENT, result) == render_observation(RuntimeName.FORGET, result)


def test_react_shows_one_line_a_call() -> None:
    text = react(
        ToolCall("inspect", {}, output='{"class": "A"}'),
        ToolCall("take_item", {}, output=None),
        ToolCall("scan", {}, output={"node": 1}),
        ToolCall("inspect", {}, error="no item 'x'"),
        error="more than 3 tool calls\nin one action",
    )
    assert text.split("\n") == [
        'Observation: [inspect] {"class": "A"}',
        "Observation: [take_item] null",
        'Observation: [scan] {"node": 1}',
        "Observation: [inspect] error: no item 'x'",
        'Observation: error: "more than 3 tool calls\\nin one action"',
    ]


@pytest.mark.parametrize("token", [*SPECIAL, "<\uff5cend\uff5c>", "<tool_response>", "<file_sep>", "</tool_call>"])
def test_printing_a_special_token_never_makes_one(token: str) -> None:
    text = codeact(output=f"a{token}b")
    assert token not in text
    assert json.loads(text)["output"] == f"a{token}b"
    assert token not in react(ToolCall(token, {}, output=token))


@pytest.mark.parametrize("name", ["<module>", "<lambda>", "<genexpr>", "<class 'int'>", "a < b", "1<2>3", "<-"])
def test_what_tracebacks_hold_stays_readable(name: str) -> None:
    assert name in codeact(error=name)


@given(ANY_TEXT, ANY_TEXT)
@example("\x1b[2J\x9b2J\x7f", "one\x85two")
def test_any_output_comes_back_and_is_valid_unicode(output: str, error: str) -> None:
    text = codeact(output=output, error=error)
    text.encode()
    assert not any(token in text for token in SPECIAL)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", text)
    parsed = json.loads(text)
    paired = output.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    assert parsed.get("output", "") == paired


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_tool_result_is_one_printable_line(tool: str, output: str, error: str) -> None:
    text = react(ToolCall(tool, {}, output=output), ToolCall(tool, {}, error=error))
    text.encode()
    assert len(text.split("\n")) == 2
    assert len(text.splitlines()) == 2
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f]*", text)
    assert not any(token in text for token in SPECIAL)


def test_errors_and_names_are_cut_and_say_so() -> None:
    seen = json.loads(codeact(error="x" * 1_000_000, globals=tuple(f"v{i}" for i in range(1000))))
    assert len(seen["error"]) < MAX_ERROR_CHARS + 100
    assert "996000 characters left out" in seen["error"]
    assert len(seen["globals"]) == MAX_GLOBALS + 1
    assert seen["globals"][-1] == "... 940 more"


@given(st.text(max_size=50), st.integers(2, 60))
def test_cutting_keeps_head_and_tail(text: str, limit: int) -> None:
    short = cut(text, limit)
    assert short == text or (short.startswith(text[: limit // 2]) and short.endswith(text[-(limit // 2) :]))
    assert (short == text) == (len(text) <= limit)
