"""Tasks from a file of questions with hidden answers, one JSON object a line, for families that do not sample."""

from __future__ import annotations

from pathlib import Path

from keepstate.errors import UserError
from keepstate.files import parse_json
from keepstate.tasks.family import Instance


def read_questions(path: Path | str, *, question: str = "question", answer: str = "answer") -> list[Instance]:
    """One instance a line: the question public, all else hidden, the answer the reference too.

    Args:
        path: JSONL; blank lines are passed over.
        question: Key of the question, a text.
        answer: Key of the answer, any JSON.

    Raises:
        UserError: It cannot be read, holds none, or a line is no such object; names it.
    """
    path, found = Path(path), []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read questions: {error}", "name a file with one JSON object a line") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON: {error}", "one JSON object a line") from error
        if not isinstance(row, dict) or not isinstance(row.get(question), str) or answer not in row:
            raise UserError(
                f"{path}:{number}: no {question!r} (a text) or no {answer!r}", "name other keys to read_questions"
            )
        hidden = {key: value for key, value in row.items() if key != question}
        found.append(Instance({"question": row[question]}, hidden, {"answer": row[answer]}))
    if not found:
        raise UserError(f"{path} holds no question", "write one JSON object a line into it")
    return found
