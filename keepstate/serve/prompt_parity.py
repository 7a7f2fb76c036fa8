"""The proof, at every start, that the server makes of a conversation the very tokens that training made of it.

One conversation goes through the server's `/tokenize`, under every model name, and through our own template and
tokenizer. Where the base is a hub name its tokenizer is not at hand and nothing is compared; `keepstate dataset check
--server` compares a whole data set.
"""

from __future__ import annotations

from pathlib import Path

from keepstate.dataset.parity import PromptIds, local_prompts
from keepstate.dataset.server_ids import server_prompts
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.files import first_difference
from keepstate.models.base import Message
from keepstate.serve.serving_plan import ServingPlan

CONVERSATION: tuple[Message, ...] = (
    {"role": "system", "content": "You act by writing Python."},
    {"role": "user", "content": "  Pack the knapsack: é, 漢字, tabs\tand\n\nblank lines.  "},
    {"role": "assistant", "content": "First I look.\n```python\nprint(list_items())\n```"},
    {"role": "user", "content": '{"output": "[\\"item_0a1b2c3d4e5f\\"]"}'},
)
"""An answer in the history is what usual templates rewrite; blanks at the ends are what they strip."""


def check_prompts(planned: ServingPlan) -> None:
    """Compare the server's prompt tokens with ours.

    Raises:
        UserError: They differ, or the server does not tell them.
    """
    if not (Path(planned.base_model) / "tokenizer.json").is_file():
        return
    ours = local_prompts(load_template(planned.template), TextTokenizer(Path(planned.base_model)))
    for name in planned.names:
        if words := difference(planned.base_url, name, ours):
            raise UserError(
                f"the server's prompt for {name!r} is not the one that training saw: {words}",
                "the tokenizer of the base model and the chat template must be those of the data set",
            )


def difference(base_url: str, name: str, local: PromptIds) -> str:
    """Where a server's prompt of `CONVERSATION` is not the one made here; empty where it is the same.

    Raises:
        UserError: The server does not tell it.
    """
    ours, theirs = local(CONVERSATION), server_prompts(base_url, name)(CONVERSATION)
    if theirs == ours:
        return ""
    place = first_difference(ours, theirs)
    return f"{len(theirs)} tokens instead of {len(ours)}, different from token {place} on"
