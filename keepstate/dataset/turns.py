"""Which answers of a conversation are trained: all, the last, or those whose action went well. Reads traces only.

None of them are those that an import was told to leave out of training (OpenAI's weight 0).

An answer that is not trained stays in its row, as what the answers after it see; its tokens count for nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from keepstate.dataset.manifest import TrainTurns
from keepstate.files import parse_json
from keepstate.models.base import Message
from keepstate.traces.importing import SOURCE, untrained_answers
from keepstate.traces.record import StepEvent, Trace
from keepstate.vocabulary import RuntimeName

TRAINING_KEY = "train"
"""Of an answer in a ShareGPT row, where not all are trained; Axolotl's `message_field_training` names it."""
NOT_THE_LAST = "not the last of its row"
UNWANTED = "its source wants it left out of training"
WENT_WRONG = "its action ended in an error or a cap"
TRACEBACK = "Traceback (most recent call last):"
REACT_ERROR = re.compile(r"^Observation: (?:\[[^\]\n]*\] )?error: ", re.MULTILINE)


def masked_answers(trace: Trace, messages: Sequence[Message], choice: TrainTurns) -> dict[int, str]:
    """Why answers are not trained, by their place among the answers of `messages`.

    Args:
        trace: What the messages come from.
        messages: Those of the row: the trace's, or the first of them.
        choice: What the user asked for.
    """
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    masked = {turn: UNWANTED for turn in untrained_answers(trace) if turn < len(answers)}
    if choice is TrainTurns.LAST:
        masked |= dict.fromkeys(range(len(answers) - 1), NOT_THE_LAST)
    if choice is TrainTurns.CLEAN:
        masked |= {turn: WENT_WRONG for turn, bad in enumerate(_went_wrong(trace, answers)) if bad}
    return masked


def training_flags(messages: Sequence[Message], masked: dict[int, str], choice: TrainTurns) -> list[bool] | None:
    """Whether each answer is trained, in order; None where all are, so that rows need not say it."""
    if choice is TrainTurns.ALL and not masked:
        return None
    return [turn not in masked for turn in range(sum(message["role"] == "assistant" for message in messages))]


def counted(masked: dict[int, str]) -> dict[str, int]:
    """How many answers are not trained, by reason."""
    return dict(sorted(Counter(masked.values()).items()))


def _went_wrong(trace: Trace, answers: Sequence[int]) -> Iterator[bool]:
    """For every answer whether its action ended in an error.

    Steps are the answers in order. Conversations from elsewhere record no errors: there, what the agent was told says.
    """
    steps = trace.steps
    for turn, place in enumerate(answers):
        step = steps[turn] if turn < len(steps) else None
        after = trace.messages[place + 1]["content"] if place + 1 < len(trace.messages) else ""
        recorded = step is not None and _recorded_error(step, trace.runtime)
        yield recorded or (SOURCE in trace.versions and _told_of_an_error(after))


def _recorded_error(step: StepEvent, runtime: RuntimeName) -> bool:
    """In react a call is the action; an error that code was told by a tool is the code's to handle."""
    result = step.interpreter_result
    return result.error is not None or (
        runtime is RuntimeName.REACT and any(call.error is not None for call in result.results)
    )


def _told_of_an_error(observation: str) -> bool:
    """Whether a message that answers an action tells of an error: ours of code, ours of calls, or Python's own."""
    if TRACEBACK in observation or REACT_ERROR.search(observation):
        return True
    try:
        told = parse_json(observation)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and bool(told.get("error"))
