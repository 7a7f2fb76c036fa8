"""Errors as the agent sees them: Python's own layout, but only the frames of the agent's blocks, with their lines.

Written out instead of using `traceback`, because model code can patch that module, and because it is ten times faster.
"""

from __future__ import annotations

import builtins
from types import TracebackType

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`

_REPEATS_SHOWN = 3
_FRAMES_SHOWN = 20
_CHAIN_SHOWN = 5

Sources = dict[str, list[str]]
"""Source lines of each block by its file name."""


def _line(sources: Sources, filename: str, number: int) -> str | None:
    lines = sources[filename]
    return lines[number - 1].strip() if 0 < number <= len(lines) else None


def _frames(trace: TracebackType | None, sources: Sources) -> list[tuple[str, int, str]]:
    found = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename in sources:
            found.append((code.co_filename, trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    return found


def _format_frames(frames: list[tuple[str, int, str]], sources: Sources) -> list[str]:
    if not frames:
        return []
    out = ["Traceback (most recent call last):\n"]
    if len(frames) > 4 * _FRAMES_SHOWN:
        hidden = len(frames) - 2 * _FRAMES_SHOWN
        return [
            *out,
            *_format_run(frames[:_FRAMES_SHOWN], sources),
            f"  [{hidden} frames not shown]\n",
            *_format_run(frames[-_FRAMES_SHOWN:], sources),
        ]
    return out + _format_run(frames, sources)


def _format_run(frames: list[tuple[str, int, str]], sources: Sources) -> list[str]:
    out = []
    last, count = None, 0
    for frame in [*frames, None]:
        if frame == last:
            count += 1
            if count >= _REPEATS_SHOWN:
                continue
        else:
            if count >= _REPEATS_SHOWN:
                out.append(f"  [Previous line repeated {count - _REPEATS_SHOWN + 1} more times]\n")
            last, count = frame, 0
        if frame is not None:
            filename, number, name = frame
            text = _line(sources, filename, number)
            out.append(f'  File "{filename}", line {number}, in {name}\n' + (f"    {text}\n" if text else ""))
    return out


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<exception str() failed>"


def _name(error: BaseException) -> str:
    kind = type(error)
    module = kind.__module__
    name = str(kind.__qualname__)
    return name if module in ("builtins", "__main__") else f"{module}.{name}"


def _syntax(error: SyntaxError, sources: Sources) -> list[str]:
    if not isinstance(error.lineno, int) or error.filename not in sources:
        return []
    out = [f'  File "{error.filename}", line {error.lineno}\n']
    lines = sources[error.filename]
    if 0 < error.lineno <= len(lines):
        text = lines[error.lineno - 1]
        stripped = text.strip()
        out.append(f"    {stripped}\n")
        if isinstance(error.offset, int) and error.offset > 0:
            column = error.offset - 1 - (len(text) - len(text.lstrip()))
            out.append("    " + " " * max(0, min(column, len(stripped))) + "^\n")
    return out


def _format_one(error: BaseException, sources: Sources) -> list[str]:
    out = _format_frames(_frames(error.__traceback__, sources), sources)
    text = _text(error)
    if isinstance(error, SyntaxError):
        out += _syntax(error, sources)
        text = str(error.msg)
    out.append(f"{_name(error)}: {text}\n" if text else f"{_name(error)}\n")
    notes = getattr(error, "__notes__", None)
    if isinstance(notes, list):
        out += [f"{note}\n" for note in notes if isinstance(note, str)]
    if isinstance(error, BaseExceptionGroup):
        for number, inner in enumerate(error.exceptions[:_CHAIN_SHOWN], 1):
            out.append(f"  {number}. {_name(inner)}: {_text(inner)}\n")
    return out


def format_error(error: BaseException, sources: Sources) -> str:
    """The traceback of `error` with the exceptions that led to it.

    Args:
        error: Raised by a block.
        sources: Lines of every block; frames of other files are left out.
    """
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    joint = ""
    while current is not None and id(current) not in seen and len(seen) < _CHAIN_SHOWN:
        seen.add(id(current))
        parts.append("".join(_format_one(current, sources)) + joint)
        if current.__cause__ is not None:
            current = current.__cause__
            joint = "\nThe above exception was the direct cause of the following exception:\n\n"
        elif current.__suppress_context__:
            break
        else:
            current = current.__context__
            joint = "\nDuring handling of the above exception, another exception occurred:\n\n"
    return "".join(reversed(parts)).rstrip("\n")
