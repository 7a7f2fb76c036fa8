"""The one system message of an episode: how to act, the tools, and one paragraph that states the runtime.

The prompts of all CodeAct runtimes are equal but for that paragraph. The goal is not here: it is the first user
message. Short on purpose: a 135M model on a CPU reads this as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from keepstate.state import LIFETIME, StateRule
from keepstate.tasks.tools import Tool
from keepstate.traces.record import NO_CAP, Cap
from keepstate.vocabulary import RuntimeName

_CARRIED = (
    "State does not persist but for one case: every block starts in a fresh interpreter, but after a block that asked"
    " for more tool calls than allowed, variables, functions and imports still exist in the next block."
)
RUNTIME_PARAGRAPHS: dict[str, str] = {
    RuntimeName.PERSISTENT: (
        "State persists: variables, functions and imports of earlier blocks still exist in later blocks. Reuse them."
    ),
    RuntimeName.FORGET: (
        "State does not persist: every block starts in a fresh interpreter, and variables, functions and imports of"
        " earlier blocks are gone. Define again what you need."
    ),
    "carry-after-cap": f'{_CARRIED} "globals" does not name them.',
    "carry-after-cap-announced": f'{_CARRIED} "globals" names them.',
    "variables-only": (
        "Variables persist, functions and imports do not: variables of earlier blocks still exist in later blocks, but"
        " functions, classes and imports of earlier blocks are gone. Define and import again what you need."
    ),
    LIFETIME: (
        "State lives for {actions} blocks: each interpreter runs {actions} blocks, failed ones too, and in them"
        " variables, functions and imports of its earlier blocks still exist. Then a fresh one takes its place, and"
        " they are gone. Define again what you need."
    ),
}
"""The only difference between the CodeAct prompts."""


def runtime_paragraph(runtime: RuntimeName) -> str:
    """The paragraph that states a CodeAct runtime."""
    if runtime.startswith(LIFETIME):
        return RUNTIME_PARAGRAPHS[LIFETIME].format(actions=StateRule.of(runtime).actions)
    return RUNTIME_PARAGRAPHS[runtime]


CODEACT = """\
Solve the task by writing Python. In each turn think briefly, then write exactly one code block:

```python
print(...)
```

The block is executed and you see a JSON observation: "output" is what it printed, "error" its error if any, "globals" \
the names you defined that the next block can use.{cap}

{runtime}

Tools, already defined as functions:
{tools}"""

REACT = """\
Solve the task by calling tools. In each turn write exactly:

Thought: what you know and what to do next
Action: [{{"tool": "name", "args": {{"parameter": "value"}}}}]

The action is one JSON list of {cap}tool calls, which run in order. For each you see a line \
"Observation: [tool] result".

Tools:
{tools}"""


def tool_docs(tools: Iterable[Tool]) -> str:
    """One line a tool: its signature and what it does."""
    return "\n".join(f"- {tool.signature}: {tool.description}" for tool in tools)


def system_prompt(runtime: RuntimeName, tools: Iterable[Tool], *, tool_calls: Cap) -> str:
    """The system message of an episode.

    Args:
        runtime: What will execute the actions.
        tools: What the environment offers.
        tool_calls: The cap on calls per action, of which nothing is said where there is none.
    """
    if runtime is RuntimeName.REACT:
        return REACT.format(cap="" if tool_calls == NO_CAP else f"at most {tool_calls} ", tools=tool_docs(tools))
    cap = "" if tool_calls == NO_CAP else f" A block may make at most {tool_calls} tool calls."
    return CODEACT.format(cap=cap, runtime=runtime_paragraph(runtime), tools=tool_docs(tools))
