"""The system message: one paragraph of difference between the CodeAct arms, every tool, few tokens."""

import pytest

from keepstate.agents.prompts import runtime_paragraph, system_prompt
from keepstate.tasks import environment_for, make_tasks
from keepstate.tasks.tools import Parameter, Tool
from keepstate.vocabulary import RuntimeName

TOOLS = environment_for(next(iter(make_tasks("knapsack", "mini", 1, 0)))).tools


BETWEEN = [
    RuntimeName(name)
    for name in ("lifetime-2", "lifetime-3", "carry-after-cap", "carry-after-cap-announced", "variables-only")
]


@pytest.mark.parametrize("runtime", [RuntimeName.FORGET, *BETWEEN])
def test_codeact_prompts_differ_in_exactly_one_paragraph(runtime: RuntimeName) -> None:
    persistent, other = (
        system_prompt(name, TOOLS, tool_calls=25).split("\n\n") for name in (RuntimeName.PERSISTENT, runtime)
    )
    assert len(persistent) == len(other)
    differing = [(p, o) for p, o in zip(persistent, other, strict=True) if p != o]
    assert differing == [(runtime_paragraph(RuntimeName.PERSISTENT), runtime_paragraph(runtime))]


def test_each_runtime_is_stated_in_words_of_its_own() -> None:
    names = [RuntimeName.PERSISTENT, RuntimeName.FORGET, *BETWEEN]
    assert len({runtime_paragraph(name) for name in names}) == len(names)
    assert "runs 3 blocks" in runtime_paragraph(RuntimeName("lifetime-3"))


@pytest.mark.parametrize("runtime", [*RuntimeName, *BETWEEN])
def test_every_tool_and_the_cap_are_stated(runtime: RuntimeName) -> None:
    prompt = system_prompt(runtime, TOOLS, tool_calls=7)
    assert " 7 tool calls" in prompt
    for tool in TOOLS:
        assert f"- {tool.signature}: {tool.description}" in prompt


@pytest.mark.parametrize("runtime", [*RuntimeName, *BETWEEN])
def test_prompts_are_short(runtime: RuntimeName) -> None:
    assert len(system_prompt(runtime, TOOLS, tool_calls=25).split()) < 160  # about 220 tokens


def test_braces_in_a_description_are_kept() -> None:
    tool = Tool(name="t", description='JSON {"a": {0}} {runtime}', parameters=(Parameter(name="x", type="dict"),))
    for runtime in RuntimeName:
        assert 't(x: dict) -> None: JSON {"a": {0}} {runtime}' in system_prompt(runtime, [tool], tool_calls=1)


def test_react_shows_its_format_as_json() -> None:
    assert 'Action: [{"tool": "name", "args": {"parameter": "value"}}]' in system_prompt(
        RuntimeName.REACT, TOOLS, tool_calls=25
    )
