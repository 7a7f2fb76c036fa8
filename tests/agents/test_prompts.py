"""The system message: one paragraph of difference between the CodeAct arms, every tool, few tokens."""

import pytest

from keepstate.agents.prompts import RUNTIME_PARAGRAPHS, system_prompt
from keepstate.tasks import environment_for, make_tasks
from keepstate.tasks.tools import Parameter, Tool
from keepstate.vocabulary import RuntimeName

TOOLS = environment_for(next(iter(make_tasks("knapsack", "mini", 1, 0)))).tools


def test_codeact_prompts_differ_in_exactly_one_paragraph() -> None:
    persistent, forget = (
        system_prompt(name, TOOLS, tool_calls=25).split("\n\n") for name in (RuntimeName.PERSISTENT, RuntimeName.FORGET)
    )
    assert len(persistent) == len(forget)
    differing = [(p, f) for p, f in zip(persistent, forget, strict=True) if p != f]
    assert differing == [(RUNTIME_PARAGRAPHS[RuntimeName.PERSISTENT], RUNTIME_PARAGRAPHS[RuntimeName.FORGET])]


@pytest.mark.parametrize("runtime", RuntimeName)
def test_every_tool_and_the_cap_are_stated(runtime: RuntimeName) -> None:
    prompt = system_prompt(runtime, TOOLS, tool_calls=7)
    assert " 7 tool calls" in prompt
    for tool in TOOLS:
        assert f"- {tool.signature}: {tool.description}" in prompt


@pytest.mark.parametrize("runtime", RuntimeName)
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
