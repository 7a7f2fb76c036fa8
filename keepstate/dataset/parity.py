"""The parity proof of one row: what the server saw and what is trained, turn by turn. Pure; starts nothing.

For every turn, ids(server's prompt) + ids(answer) must be a prefix of the training ids, and the trained labels must be
exactly the answers that are to be trained, with their end-of-turn tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from keepstate.dataset.templates import ChatTemplate
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.files import first_difference
from keepstate.models.base import Message

MASKED = -100
"""The label of a token that is not trained."""
BEFORE, AFTER = 4, 6
"""Tokens shown around a difference."""

PromptIds = Callable[[Sequence[Message]], list[int]]
"""The token ids a server is to continue, for the messages it was sent."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row as the trainer tokenises it: ids and labels of equal length."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token that differs."""

    turn: int
    what: str
    place: int
    server: list[int]
    """Ids around the difference, as served."""
    training: list[int]
    """Ids around the difference, as trained."""
    first: int
    """Place in the row of the first id of both."""


@dataclass(slots=True)
class RowReport:
    """What a row was found to be."""

    turns: int = 0
    context_wrong: int = 0
    """Turns whose context in training is not what the server saw."""
    mask_wrong: int = 0
    """Turns whose trained tokens are not the answer and its end-of-turn token; not none, where it is not to be trained.
    """
    trained: int = 0
    trained_wrong: int = 0
    """Trained tokens of wrong turns."""
    tokens: int = 0
    first: Difference | None = None
    problem: str = ""
    """What prevents a comparison, if anything."""

    @property
    def good(self) -> bool:
        """Whether every turn is proven."""
        return not (self.context_wrong or self.mask_wrong or self.problem)


def local_prompts(template: ChatTemplate, tokenizer: TextTokenizer) -> PromptIds:
    """The server's prompts, by the template and tokenizer that it is given."""
    return lambda messages: tokenizer.ids(template.render(messages, generation_prompt=True))


def compare(
    messages: Sequence[Message],
    row: TrainingRow,
    prompt_ids: PromptIds,
    tokenizer: TextTokenizer,
    end_of_turn: int,
    trained: Sequence[bool] | None = None,
) -> RowReport:
    """Compare every turn of a conversation with its training row.

    Args:
        messages: The conversation as it was held, up to the row's last answer.
        row: What the trainer makes of it.
        prompt_ids: What the server is sent.
        tokenizer: Of both.
        end_of_turn: Id of the token that ends an answer.
        trained: Whether each answer is to be trained; None: all. Of the others no token may be.
    """
    report = RowReport(tokens=len(row.ids))
    runs = list(_trained_runs(row.labels))
    report.trained = sum(len(run) for _, run in runs)
    in_order = iter(runs)
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    report.turns = len(answers)
    for turn, number in enumerate(answers):
        answer = [*tokenizer.piece(messages[number]["content"]), end_of_turn]
        seen = prompt_ids(messages[:number]) + answer
        context_wrong = row.ids[: len(seen)] != seen
        wanted = answer if trained is None or trained[turn] else [MASKED] * len(answer)
        start, labels = (len(seen) - len(answer), row.labels[len(seen) - len(answer) : len(seen)])
        if wanted is answer:
            start, labels = next(in_order, (len(row.ids), []))
        mask_wrong = labels != wanted or (not context_wrong and start != len(seen) - len(answer))
        report.context_wrong += context_wrong
        report.mask_wrong += mask_wrong
        report.trained_wrong += sum(label != MASKED for label in labels) if context_wrong or mask_wrong else 0
        if report.first is None and context_wrong:
            report.first = _difference(turn, "context", seen, row.ids)
        elif report.first is None and mask_wrong:
            expected = [MASKED] * (len(seen) - len(answer)) + wanted
            report.first = _difference(turn, "mask", expected, row.labels[: len(expected)])
    if left := list(in_order):
        report.mask_wrong += len(left)
        report.trained_wrong += sum(len(run) for _, run in left)
    return report


def _trained_runs(labels: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Start and labels of each run of trained tokens."""
    for trained, run in groupby(enumerate(labels), key=lambda item: item[1] != MASKED):
        if trained:
            items = list(run)
            yield items[0][0], [label for _, label in items]


def _difference(turn: int, what: str, server: list[int], training: list[int]) -> Difference:
    place = first_difference(server, training)
    first = max(0, place - BEFORE)
    around = slice(first, place + AFTER)
    return Difference(turn, what, place, server[around], training[around], first)


def show(difference: Difference, tokenizer: TextTokenizer) -> Iterator[str]:
    """The difference as lines: place, id and text on the server and in training."""
    yield f"turn {difference.turn}, {difference.what}, first difference at token {difference.place}:"
    yield f"  {'token':>7}   {'server':<32} {'training':<32}"
    for offset in range(max(len(difference.server), len(difference.training))):
        place = difference.first + offset
        left, right = (_cell(ids, offset, tokenizer) for ids in (difference.server, difference.training))
        yield f"{'>' if place == difference.place else ' '} {place:>7}   {left:<32} {right:<32}".rstrip()


def _cell(ids: Sequence[int], place: int, tokenizer: TextTokenizer) -> str:
    if place >= len(ids):
        return "(ended)"
    return "masked" if ids[place] == MASKED else f"{ids[place]:>6} {tokenizer.decode([ids[place]])!r}"


def total(reports: Iterable[RowReport]) -> RowReport:
    """The sum over rows; `first` and `problem` are the first row's that has one."""
    summed = RowReport()
    for report in reports:
        for name in ("turns", "context_wrong", "mask_wrong", "trained", "trained_wrong", "tokens"):
            setattr(summed, name, getattr(summed, name) + getattr(report, name))
        summed.first = summed.first or report.first
        summed.problem = summed.problem or report.problem
    return summed
