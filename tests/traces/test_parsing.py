"""Reading answers: exactly one action or a problem, on any text, in linear time."""

import json
from functools import partial

import pytest
from growth import assert_linear
from hypothesis import given
from hypothesis import strategies as st

from keepstate.models.thinking import thinks
from keepstate.traces.parsing import parse_answer
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
        ('1. Do:\n   ```python\n   print("real")\n   ```', 'print("real")'),
        ("- a\n  ```python\n  if x:\n      y\n z\n\n  ```\n  more", "if x:\n    y\nz\n"),
        ("~~~\n```\n~~~\n```python\nx\n```", "x"),
        ("~~~text\n~~~\n```python\n~~~\n```", "~~~"),
        ("````python\nx = '''\n```python\n```\n'''\n`````", "x = '''\n```python\n```\n'''"),
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
        ("~~~python\nx\n~~~", "no code block: yours is fenced by ~~~, not by ```. Write exactly one ```python block."),
        ("```python:\nx\n```", 'the label "python:" is not python'),
        ("```ipython\nx\n```", 'the label "ipython" is not python'),
        ("```{python}\nx\n```", 'the label "{python}" is not python'),
        ("```Python3.11\nx\n```", 'the label "python3.11" is not python'),
        ("```python\nx\n```\n```ipython\ny\n```", "2 code blocks"),
        ("```python\nx\n```\n~~~python\ny\n~~~", "2 code blocks"),
        ("```\nx\n```", "yours has no label"),
        ("```bash\nls\n```", 'yours has the label "bash"'),
        ("Here: ```python\nx\n```", "```python must stand alone on its line"),
        ("```python x = 1 ```", "```python must stand alone on its line"),
        ("\t```python\n\tx\n\t```", "begins with three spaces at most"),
        ("10. a\n\n    ```python\n    x\n    ```", "begins with three spaces at most"),
        ("> ```python\n> x\n> ```", "in a quote (>)"),
        ("```\noutput\n```python\nx\n```", "inside another block"),
        ("~~~ result ~~~\n```python\nx\n```", "inside another block"),
        ("```python\nx\n``` Done.", 'not closed by a line ```: in "``` Done." something follows it'),
        ("```python\nx\n    ```", "more than three spaces"),
        ("````python\nx\n```", "not closed by a line ````"),
        ('```python\ns = """\n```\n```python\n"""\n```', "2 code blocks. Write exactly one ```python block. The block"),
        ("```python\u2028x = 1\n```", 'yours has the label "python\\u2028x"'),
        ("```python\rx = 1\r```", "```python must stand alone on its line"),
        ("\u00a0```python\nx\n```", "```python must stand alone on its line"),
        ("'''python\nx\n'''", "yours begins with \"'''python\", not with ```python"),
        ("``python\nx\n``", 'yours begins with "``python", not with ```python'),
        ("\uff40\uff40\uff40python\nx\n\uff40\uff40\uff40", "not with ```python"),
        ("I look.\n<code>\nx\n</code>", 'yours begins with "<code>"'),
        ("<execute> x </execute>", 'yours begins with "<execute>"'),
        ("<|python_tag|>x", 'yours begins with "<|python_tag|>"'),
        ("[PYTHON]\nx\n[/PYTHON]", 'yours begins with "[PYTHON]"'),
        ("I write no <code> here.", "no code block. Write"),
    ],
)
def test_anything_else_is_explained(text: str, words: str) -> None:
    assert words in problem_of(text)


@pytest.mark.parametrize("fence", ["```", "````"])
def test_a_fence_inside_the_code_is_explained_if_the_code_is_none(fence: str) -> None:
    answer = parse_answer(CODEACT, f'{fence}python\ntext = """\n```sh\nls\n{fence}\nend"""\n{fence}')
    assert answer.action == 'text = """\n```sh\nls'
    assert f"a line {fence} ended" not in (answer.problem or "")
    assert f"close the block with {fence}`" in (answer.hint or "")
    assert "chr(96) * 3" in (answer.hint or "")
    assert parse_answer(CODEACT, "```json\n1\n```\n```python\nx\n```").hint is None
    unclosed = parse_answer(CODEACT, "```python\nx = 1\nNow better:\n```python\nx = 2\n```")
    assert 'holds a line "```python": if it should open a block, close the one before' in (unclosed.hint or "")


@pytest.mark.parametrize("line", ["!pip install numpy", "%timeit x", "  !ls", ">>> print(1)"])
def test_what_only_a_shell_takes_is_explained_if_the_code_is_none(line: str) -> None:
    hint = parse_answer(CODEACT, f"```python\nx = 1\n{line}\n```").hint or ""
    assert f"a line {json.dumps(line)}: write plain Python" in hint
    assert parse_answer(CODEACT, "```python\nx = 5 % 3\nprint(x != 2)\n```").hint is None


@pytest.mark.parametrize(
    "text", ["```python\r\nx\r\n```\r\n", "```python:\nx\n```", "Action: [{'a'}]", "~~~python\n~~~"]
)
def test_what_is_said_is_one_line(text: str) -> None:
    for runtime in RuntimeName:
        for truncated in (False, True):
            said = parse_answer(runtime, text, truncated=truncated).problem or ""
            assert len(said.splitlines()) <= 1


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
        ("Action: ````json\n[1]\n````", "[1]"),
        ('Action: [{"a": "x</think>y"}]', '[{"a": "x</think>y"}]'),
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
        ("Action: " + "[" * 100_000, "nested too deep"),
        ("Action: [" + "9" * 10_000 + "]", "a number has too many digits"),
        (
            'Action: ```json\n[{"tool": "finish", "args": {}}]\n```\nThis ends it.',
            'text follows the action, "This ends it."',
        ),
        ("```\nAction: []\n```", 'text follows the action, "```"'),
        ("Action: ```json\n[1]", "close the fence"),
        ("Action: ```json [1] ```", "without a fence"),
        ('Action: {"tool_call": {"name": "a"}}', "put your object in [ ]"),
        ('Action: [{"tool": "a", "args": {},}]', "trailing comma before }"),
        ('Action: [{"tool": "a"}, ]', "trailing comma before ]"),
        ("Action: [{'tool': 'a'}]", "' is no JSON quote: use double quotes"),
        ('Action: [{"tool": "a", "args": {"b": True}}]', "write true, not True"),
        ('Action: [{"tool": "a", "args": {"b": None}}]', "write null, not None"),
        ('Action: [{"tool": "a", "args": {"b": TRUE}}]', "write true, not TRUE"),
        ('Action: [{"tool": "a", "args": {"b": 1}]', "] stands where a comma or } is due"),
        ('Action: [{"tool": "a", "args": {"b": [1}}]', "} stands where a comma or ] is due"),
        ('Action: [// first\n{"tool": "a"}]', "JSON has no comments"),
        ('Action: [{"tool": "a\n"}]', "a string holds a line break or tab"),
        ('Action: [{"tool": "a"', "it ends before the list is closed"),
        ('Action: [{"tool": a}]', 'Expecting value at "a}]"'),
        ("Action : []", '"Action :" must be Action: at the start of its line'),
        ("**Action:** []", '"**Action:" must be Action: at the start of its line'),
        ("  Action: []", '"  Action:" must be Action: at the start'),
        ("Thought: x Action: []", '"Action:" must be Action: at the start'),
        ("Action Input: []", '"Action Input:" must be Action:'),
        ("Action 1: []", '"Action 1:" must be Action:'),
        ("Actions: []", '"Actions:" must be Action:'),
        ("Action\n[]", '"Action" must be Action:'),
        ("<action>[]</action>", '"<action>" must be Action:'),
        ("\ufeffAction: []", '"\\ufeffAction:" must be Action:'),
        ("Next action - []", '"Next action - " must be Action:'),
        ("I take no action yet: []", "no action. Write"),
        ('```json\n[{"tool": "a"}]\n```', "the list of tool calls must follow Action:"),
        ("Action: json\n[]", '"json\\n" stands before it'),
        ("Action: \u200b[]", '"\\u200b" stands before it'),
    ],
)
def test_any_other_action_is_explained(text: str, words: str) -> None:
    assert words in problem_of(text, REACT)


@given(st.one_of(ANY_TEXT, PIECES.map("".join)), st.sampled_from(RuntimeName), st.booleans())
def test_any_text_gives_an_action_or_a_problem(text: str, runtime: RuntimeName, truncated: bool) -> None:
    answer = parse_answer(runtime, text, truncated=truncated)
    assert (answer.action is None) != (answer.problem is None)
    if answer.action is not None:
        lines = answer.action.split("\n")
        assert answer.action in text or (" ```" in text and all(line in text for line in lines))
        assert runtime is not REACT or isinstance(json.loads(answer.action), list)


@given(ANY_TEXT.filter(lambda code: "```" not in code), ANY_TEXT.filter(lambda thought: "```" not in thought))
def test_code_survives_byte_for_byte(code: str, thought: str) -> None:
    assert code_of(f"{thought}\n```python\n{code}\n```") == code


@pytest.mark.parametrize(
    "unit",
    [
        "```\n",
        "```python\n",
        "`",
        "\n",
        "Action:\n",
        "Action: [",
        " ",
        "x" * 100,
        "~~~\n",
        "> ```py",
        "```py `",
        " action",
        "```\n```python\n",
    ],
)
@pytest.mark.parametrize("runtime", [CODEACT, REACT])
def test_any_text_is_read_in_linear_time(unit: str, runtime: RuntimeName) -> None:
    assert_linear(partial(parse_answer, runtime), lambda length: unit * (length // len(unit)), 1_000_000)


DRAFT = "```python\nfinish()\n```"
ANSWER = "```python\nprint(1)\n```"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"<think>\nmaybe\n{DRAFT}\nno\n</think>\n\n{ANSWER}", "print(1)"),
        (f"maybe\n{DRAFT}\nno\n</think>\n\n{ANSWER}", "print(1)"),
        (f"<think>a</think>{ANSWER}\n<think>\n{DRAFT}\n</think>\n", "print(1)"),
        (f"<think>\n\n</think><think>\n{DRAFT}\n</think>\n{ANSWER}", "print(1)"),
        (f"<think>\nmaybe\n{DRAFT}\nno\n</think>\n\nI will look.", None),
        (f"<think>\nmaybe\n{DRAFT}\n hmm", None),
        (f"  <think>{DRAFT}", None),
        (f"Let me see. <think>\n{DRAFT}\nno", None),
        (f"\ufeff<think>\n{DRAFT}\nno", None),
        (f"- <think> maybe\n{DRAFT}\nno", None),
        ("I write no <think> here.\n```python\nprint('<think>')\n```", "print('<think>')"),
        (f"{DRAFT}\nhmm.</think>", None),
        (f"maybe\n{DRAFT}\nno.</think>{ANSWER}", "print(1)"),
        (f"maybe\r\n{DRAFT}\r\nno.</think>\r\n{ANSWER}", "print(1)"),
        (f"maybe\n{DRAFT}\nno.</think> Now:\n{ANSWER}", "print(1)"),
        (f"<think>\na\n<think>\nb\n</think>\n{DRAFT}\n</think>\nI will look.", None),
        (f"<think>\na\n</think>\n{DRAFT}\nno, again <think>\n</think>\n</think>\nI will look.", None),
        (f"<think>\nI print '</think>':\n{DRAFT}\n", None),
        (f"<THINK>\n{DRAFT}\n</THINK>\n{ANSWER}", "print(1)"),
        (f"<thinking>\n{DRAFT}\n</thinking>\nI will look.", None),
        (f"<thought>{DRAFT}</thought>\nI will look.", None),
        (f"<seed:think>\n{DRAFT}\n</seed:think>{ANSWER}", "print(1)"),
        (f"[THINK]{DRAFT}\n[/THINK]{ANSWER}", "print(1)"),
        (f"◁think▷{DRAFT}\n◁/think▷I will look.", None),
        (f"<|START_THINKING|>{DRAFT}\n<|END_THINKING|>I will look.", None),
        (f"<|channel|>analysis<|message|>{DRAFT}\n<|end|><|channel|>final<|message|>{ANSWER}", "print(1)"),
        ("```python\nprint('</think>')\n```", "print('</think>')"),
        ("```python\nprint('<think>')\n```", "print('<think>')"),
    ],
)
def test_nothing_inside_a_thought_is_executed(text: str, code: str | None) -> None:
    answer = parse_answer(CODEACT, text)
    assert answer.action == code
    if code is None:
        assert answer.problem is not None
        assert answer.problem.endswith("What stands in <think> is not executed.")
    action = 'Action: [{"tool": "finish", "args": {}}]'
    thought = text.replace(DRAFT, action).replace(ANSWER, action)
    assert (parse_answer(REACT, thought).action is not None) == (ANSWER in text)


@pytest.mark.parametrize("shown", ["<think>\nx\n</think>", "[THINK]\n[/THINK]", "say <think>\nno.</think> yes"])
def test_code_that_shows_a_thought_stays_as_it_is(shown: str) -> None:
    code = f"text = '''\n{shown}\n'''\nprint(text)"
    assert code_of(f"<think>\n{DRAFT}\n</think>```python\n{code}\n```\nThat is all.") == code


def test_only_what_a_template_switches_on_counts_as_thinking() -> None:
    assert all(map(thinks, ("<think>a</think>b", "a</think>b", "[THINK]a", "<think>a", "<seed:think>a</seed:think>b")))
    assert not any(map(thinks, ("a", "<thinking>a</thinking>b", "<thought>a</thought>b", "I write `<think>` here")))


@pytest.mark.parametrize(
    ("before", "unit", "after"),
    [
        ("", "<think>a</think>\n", ""),
        ("", "</think>", ""),
        ("", "<think>\n", ""),
        ("", "```\n</think>x\n", ""),
        ("", "> ```py</think>", ""),
        ("", "`</think>`", ""),
        ("</think>", "~", ""),
        ("", " ", "<think"),
        ("<think>", "`", ""),
    ],
)
def test_thoughts_are_found_in_linear_time(before: str, unit: str, after: str) -> None:
    def text(length: int) -> str:
        return before + unit * (length // len(unit)) + after

    assert_linear(partial(parse_answer, CODEACT), text, 500_000)
