"""Reading answers: exactly one action or a problem, on any text, in linear time."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstate.agents.parsing import parse_answer
from keepstate.vocabulary import RuntimeName

CODEACT = RuntimeName.PERSISTENT
REACT = RuntimeName.REACT
ANY_TEXT = st.text(st.characters())
"""Any code point, lone surrogates and control characters included."""
PIECES = st.lists(
    st.sampled_from(["```python\n", "```\n", "```", "````", "\n", "x = 1\n", "Action:", "[", "{}]", " ", "é"])
)


def code_of(text: str) -> str | None:
    return parse_answer(CODEACT, text).action


def problem_of(text: str, runtime: RuntimeName = CODEACT) -> str:
    answer = parse_answer(runtime, text)
    assert answer.action is None
    assert answer.problem
    return answer.problem


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("I look first.\n\n```python\nprint(1)\n\nprint(2)\n```\nThat is all.", "print(1)\n\nprint(2)"),
        ("```py\nx\n```\n", "x"),
        ("```Python3 title=a\nx\n```", "x"),
        ("   ```python\nx\n   ```", "x"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("```python\n```", ""),
        ("```python\nx\r\n```\r\n", "x\r"),
        ("```text\nno code\n```\n```python\nx\n```", "x"),
        ("Use `a` and ``` inline ``` here.\n```python\nx\n```", "x"),
        ("```python\nprint('a\u2028b\x0bc')\n```", "print('a\u2028b\x0bc')"),
        ("<think>\n\n</think>\n\n```python\nx\n```", "x"),
    ],
)
def test_the_one_block_is_taken_as_it_stands(text: str, code: str) -> None:
    assert code_of(text) == code


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no code block"),
        ("print(1)", "no code block"),
        ("```\nprint(1)\n```", "no code block"),
        ("```json\n{}\n```", "no code block"),
        ("text ```python\nx\n```", "no code block"),
        ("    ```python\nx\n```", "no code block"),
        ("```python\nx\n```\n```python\ny\n```", "2 code blocks"),
        ("```python\nx", "not closed"),
        ("```python\nx\n``", "not closed"),
        ("```python x\n", "not closed"),
    ],
)
def test_anything_else_is_explained(text: str, words: str) -> None:
    assert words in problem_of(text)


def test_a_cut_answer_is_explained_by_its_cut() -> None:
    assert "token limit" in (parse_answer(CODEACT, "```python\nx", truncated=True).problem or "")
    assert parse_answer(CODEACT, "```python\nx\n```\nand so", truncated=True).action == "x"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('Thought: a\nAction: [{"tool": "finish", "args": {}}]', '[{"tool": "finish", "args": {}}]'),
        ("Action:[]", "[]"),
        ("Thought: b\nAction:\n[\n 1\n]\n", "[\n 1\n]"),
        ("Action: ```json\n[1]\n```", "[1]"),
        ("Action:\n```\n[1]\n```\n", "[1]"),
        ('Thought: no Action: yet\nAction: [{"a": "x\\nAction: y"}]', '[{"a": "x\\nAction: y"}]'),
    ],
)
def test_the_one_action_is_taken_as_it_stands(text: str, action: str) -> None:
    assert parse_answer(REACT, text).action == action


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Thought: hm", "no action"),
        ("Action: []\nAction: []", "2 actions"),
        ("Action: finish()", "JSON list"),
        ('Action: {"tool": "finish"}', "JSON list"),
        ("Action: [1,", "not valid JSON"),
        ("Action: []\nObservation: [a] b", "text follows"),
        ("Action: " + "[" * 100_000, "not valid JSON"),
        ("Action: [" + "9" * 10_000 + "]", "not valid JSON"),
    ],
)
def test_any_other_action_is_explained(text: str, words: str) -> None:
    assert words in problem_of(text, REACT)


@given(st.one_of(ANY_TEXT, PIECES.map("".join)), st.sampled_from(RuntimeName), st.booleans())
def test_any_text_gives_an_action_or_a_problem(text: str, runtime: RuntimeName, truncated: bool) -> None:
    answer = parse_answer(runtime, text, truncated=truncated)
    assert (answer.action is None) != (answer.problem is None)
    if answer.action is not None:
        assert answer.action in text
        assert runtime is not REACT or isinstance(json.loads(answer.action), list)


@given(ANY_TEXT.filter(lambda code: "```" not in code), ANY_TEXT.filter(lambda thought: "```" not in thought))
def test_code_survives_byte_for_byte(code: str, thought: str) -> None:
    assert code_of(f"{thought}\n```python\n{code}\n```") == code


@pytest.mark.parametrize("unit", ["```\n", "```python\n", "`", "\n", "Action:\n", "Action: [", " ", "x" * 100])
def test_a_megabyte_takes_no_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.perf_counter()
    for runtime in (CODEACT, REACT):
        parse_answer(runtime, text)
    assert time.perf_counter() - started < 3
