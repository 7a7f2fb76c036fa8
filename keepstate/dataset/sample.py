"""From a conversation to one training sample, proven token by token.

A sample is the template's text of the whole conversation. It is proven when, for every answer, the prompt the server
was sent plus that answer is a prefix of the sample, as text and as tokens. A conversation that cannot be proven is
refused with a reason; nothing in it is changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keepstate.dataset.templates import ChatTemplate, TemplateRefusal
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.models.base import Message
from keepstate.models.thinking import THINK_MARK
from keepstate.traces.check import turns_problem

ROLES = "roles out of order"
EMPTY = "empty answer"
SURROGATE = "lone surrogate"
SPECIAL = "special token in text"
NO_PREFIX = "prompt is no prefix"
MELTS = "answer melts into the prompt"
NO_END = "no end of turn"
PLACEHOLDER = "answer is a placeholder"
THINKING = "thinking in an answer"
TEMPLATE = "refused by the template"
REMEDIES = {
    ROLES: "join or leave out messages in the source, so that user and assistant take turns up to an answer",
    EMPTY: "leave such rows out of the source",
    SURROGATE: "the text was cut inside a character: mend it in the source",
    SPECIAL: "no option helps, as a server would read the token too: reword the text in the source, or leave it out",
    THINKING: "training and serving are without thinking: take it out of the source, or collect with thinking off; an"
    " empty block before answers, which the template writes again, is taken off by --strip-empty-think",
    NO_PREFIX: "choose a template that only appends and strips nothing off texts: leave --chat-template out",
    MELTS: "take white space off the beginning of answers in the source; if all rows are refused: --template chatml",
    NO_END: "choose a template that ends each turn by a special token: leave --chat-template out",
    PLACEHOLDER: "leave such rows out of the source",
    TEMPLATE: "no server with this template could have held it: choose another one: leave --chat-template out",
}
"""What to do about each reason."""
REFUSALS = frozenset(REMEDIES)
PLACEHOLDERS = frozenset({"[[dummy_message]]", "zzdummymessagezz"})
"""Axolotl (0.19.0) finds an answer by putting these in its place; one that is exactly such a text is not found, and all
that follows it is trained. A test compares them with Axolotl's own."""


class Refused(ValueError):
    """This conversation cannot become a sample. `reason` is one of a few words, the message tells the rest."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one answer and its end-of-turn token: those that are trained where the answer is."""

    message: int
    """Place in the conversation."""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A proven sample: its ids, and where its answers lie. Which of these are trained: `keepstate.dataset.turns`."""

    ids: list[int]
    answers: tuple[Span, ...]
    """One a turn, in order."""

    def labels(self) -> list[int]:
        """The ids of all answers, -100 elsewhere."""
        labels = [-100] * len(self.ids)
        for span in self.answers:
            labels[span.start : span.end] = self.ids[span.start : span.end]
        return labels


def check_messages(messages: Sequence[Message], tokenizer: TextTokenizer) -> None:
    """Refuse a conversation that no server could have held, or whose text is not text to the tokenizer.

    Raises:
        Refused: With the number of the message.
    """
    problem = turns_problem(messages)
    if problem is None and not (messages and messages[-1]["role"] == "assistant"):
        problem = "it does not end with an answer"
    if problem:
        raise Refused(ROLES, problem)
    for number, message in enumerate(messages):
        text = message["content"]
        if not text and message["role"] == "assistant":
            raise Refused(EMPTY, f"message {number}: an answer without text has nothing to train")
        if text in PLACEHOLDERS and message["role"] == "assistant":
            raise Refused(PLACEHOLDER, f"message {number}: Axolotl cannot train an answer that is exactly {text}")
        if message["role"] == "assistant" and (mark := THINK_MARK.search(text)):
            raise Refused(THINKING, f"message {number} spells {mark[0]}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refused(SURROGATE, f"message {number} ({message['role']}) holds half a character") from None
        if special := tokenizer.spelled_special(text):
            raise Refused(SPECIAL, f"message {number} ({message['role']}) spells {special}")


def prove(messages: Sequence[Message], template: ChatTemplate, tokenizer: TextTokenizer) -> Sample:
    """Tokenise a conversation and prove every turn of it.

    Each text is tokenised once, each answer a second time alone, as the server's continuation of the prompt.

    Raises:
        Refused: A prompt is no prefix of the sample, an answer's first token melts into the prompt's last, or the
            template refuses the conversation.
        UserError: The template is none that can be used.
    """
    check_messages(messages, tokenizer)
    try:
        return _proven(messages, template, tokenizer)
    except TemplateRefusal as error:
        raise Refused(TEMPLATE, error.message) from error


def _proven(messages: Sequence[Message], template: ChatTemplate, tokenizer: TextTokenizer) -> Sample:
    whole = template.render(messages)
    ids: list[int] = []
    answers: list[Span] = []
    done = 0
    for number, prompt in prompts(messages, template):
        answer = messages[number]["content"]
        if not whole.startswith(prompt) or not whole.startswith(answer, len(prompt)) or len(prompt) < done:
            raise Refused(NO_PREFIX, f"message {number}: the template renders history otherwise than prompts")
        ids.extend(tokenizer.ids(whole[done : len(prompt)], inside=done > 0))
        start = len(ids)
        ids.extend(tokenizer.piece(answer))
        tail = tokenizer.after_controls(prompt)
        if tail and tokenizer.piece(tail + answer) != tokenizer.piece(tail) + tokenizer.piece(answer):
            raise Refused(MELTS, f"message {number} begins with {answer[:8]!r}")
        done = len(prompt) + len(answer)
        end = tokenizer.special_at(whole, done)
        if end is None:
            raise Refused(NO_END, f"message {number}: no special token follows the answer in the template")
        ids.append(tokenizer.specials[end])
        done += len(end)
        answers.append(Span(number, start, len(ids)))
    ids.extend(tokenizer.ids(whole[done:], inside=True))
    return Sample(ids, tuple(answers))


def end_of_turn(template: ChatTemplate, tokenizer: TextTokenizer) -> str | None:
    """The special token by which a template ends an answer; None where it writes none behind it.

    Raises:
        UserError: The template is none that can be used.
    """
    answer = "4"
    talk: list[Message] = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": answer}]
    prompt = template.render(talk[:1], generation_prompt=True)
    whole = template.render(talk)
    return tokenizer.special_at(whole, len(prompt) + len(answer)) if whole.startswith(prompt + answer) else None


def prompts(messages: Sequence[Message], template: ChatTemplate) -> Iterator[tuple[int, str]]:
    """For every answer: its place, and the text the server was to continue."""
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            yield number, template.render(messages[:number], generation_prompt=True)
