"""Which chat template fits a model, and whether a template can be trained with at all. Renders; reads no weights.

fitting_template(tokenizer)         # the built-in one, by the model's special tokens
require_append_only(template)       # before anything is built with another one
"""

from __future__ import annotations

from pathlib import Path

from keepstate.dataset.sample import prompts
from keepstate.dataset.templates import BUILT_IN, OWN, ChatTemplate, TemplateRefusal, template_by_name
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.files import first_difference
from keepstate.model_files import model_folder, own_template
from keepstate.models.base import Message

NEEDED = {
    "qwen3_nothink": ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<start_of_turn>", "<end_of_turn>"),
    "mistral_v7": ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]"),
}
"""The tokens that each built-in template writes. The first whose tokens are all there fits."""
SHOWN = 40
"""Characters of a prompt that a refusal shows."""
GOAL: Message = {"role": "user", "content": "Pack the knapsack."}
CONVERSATION: tuple[Message, ...] = (
    {"role": "system", "content": "You act by writing Python."},
    GOAL,
    {"role": "assistant", "content": "First I look.\n```python\nprint(list_items())\n```"},
    {"role": "user", "content": '{"output": "[1, 2]", "globals": ["items"]}'},
    {"role": "assistant", "content": "Now I take one.\n```python\ntake_item('a')\n```"},
    {"role": "user", "content": '{"output": ""}'},
    {"role": "assistant", "content": "```python\nfinish()\n```"},
)
"""What a template is tried with; answers begin and end without white space, which many templates strip."""


def fitting_template(tokenizer: TextTokenizer) -> str:
    """The built-in template for a model, by its special tokens.

    A model with think tokens whose own template, thinking off, writes no think block into the prompt (Qwen3's Instruct
    versions of July 2025) gets `chatml`.

    Raises:
        UserError: None fits; names what can be given instead.
    """
    fitting = [name for name, needed in NEEDED.items() if not set(needed) - tokenizer.specials.keys()]
    if not fitting:
        raise UserError(
            f"which chat template fits {tokenizer.path} is not known: it has the special tokens of none of "
            f"{', '.join(BUILT_IN)}",
            f"name one: --chat-template FILE, or --chat-template {OWN} for the one that the model came with",
        )
    if fitting[0] == "qwen3_nothink" and _answers_without_thinking(tokenizer.path.parent):
        return "chatml"
    return fitting[0]


def template_of(model: str) -> str | None:
    """The built-in template for a base model: by its tokenizer or, where that is not here, by its name.

    Returns:
        None where the name tells nothing.

    Raises:
        UserError: None fits its tokenizer.
    """
    folder = model_folder(model)
    if folder and (folder / "tokenizer.json").is_file():
        return fitting_template(TextTokenizer(folder))
    return template_by_name(model)


def _answers_without_thinking(model: Path) -> bool:
    """Whether a model's own template opens an answer without any think block."""
    text = own_template(model)
    if text is None:
        return False
    try:
        prompt = ChatTemplate(OWN, text).render(CONVERSATION[:2], generation_prompt=True)
    except UserError:
        return False
    return "<think>" not in prompt


def require_append_only(template: ChatTemplate) -> None:
    """Refuse a template that no conversation could be proven with.

    Raises:
        UserError: The prompt of a turn does not begin with the prompt before it and the answer; names the turn and what
            differs. Or it refuses every conversation, or leaves the system prompt or the goal out.
    """
    messages = _tried(template)
    texts = [*(text for _, text in prompts(messages, template)), template.render(messages)]
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    for turn, (before, answer, after) in enumerate(zip(texts, answers, texts[1:], strict=False)):
        due = before + answer
        if after.startswith(due):
            continue
        place = first_difference(due, after)
        what = f"the prompt of turn {turn + 1}" if turn + 1 < len(answers) else "the training text"
        raise UserError(
            f"chat template {template.name} rewrites history: {what} does not begin with the prompt of turn {turn} and "
            f"its answer. After {due[max(0, place - SHOWN) : place]!r} it has {after[place : place + SHOWN]!r} instead "
            f"of {due[place : place + SHOWN]!r}",
            f"choose one that only appends: {', '.join(BUILT_IN)}; or change the file so that a turn is written alike "
            "whether it is the last or not",
        )
    for message in messages[: messages.index(GOAL) + 1]:
        if message["content"] not in texts[-1]:
            raise UserError(
                f"chat template {template.name} leaves out what the {message['role']} says: neither training nor a "
                "server would show it to the model",
                f"mend it, or choose one of: {', '.join(BUILT_IN)}",
            )


def _tried(template: ChatTemplate) -> tuple[Message, ...]:
    """The conversation that a template renders: with a system message, or where it takes none without."""
    refusals = []
    for messages in (CONVERSATION, CONVERSATION[1:]):
        try:
            template.render(messages)
            return messages
        except TemplateRefusal as error:
            refusals.append(error.message)
    raise UserError(
        f"chat template {template.name} refuses a conversation of three answers: {refusals[-1]}",
        f"choose one that takes it: {', '.join(BUILT_IN)}",
    )
