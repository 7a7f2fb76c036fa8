"""The tools of a task as functions of the interpreter: each call is a question to the host, which runs it.

Nothing of a task is known here but names, parameters and descriptions.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from mmap import MAP_PRIVATE, mmap
from types import CodeType, FunctionType
from typing import Any

from . import wire

globals()["__builtins__"] = dict(vars(builtins))  # functions below keep working when model code patches `builtins`


MAX_ARGUMENT_BYTES = 1 << 16
"""Of one tool call, as JSON: all of them are recorded."""
MAX_NESTING = 64
MAX_INT_BITS = 14_000
"""So that it has fewer than the 4,300 digits that Python reads."""
PROBE = 1 << 16
HEAP_RESERVE = 4 << 20
"""Bytes of address space given back when model code has used up the rest, so that we can still say so."""


class ToolError(Exception):
    """The task refused a call."""


class ToolCallLimit(BaseException):
    """The cap on tool calls is reached. Not an `Exception`: the block must end, whatever it catches."""


class TimeLimit(BaseException):
    """The block used up its time."""


for _kind in (ToolError, ToolCallLimit, TimeLimit):
    _kind.__module__ = "builtins"  # shown by its bare name, as the built-in errors are

Call = Callable[[str, dict[str, Any]], tuple[Any, BaseException | None]]
"""Asks the host to run a tool with arguments by name; returns its result, or None and what is to be raised."""


def make_tools(descriptions: list[dict[str, Any]], call: Call) -> dict[str, Callable[..., Any]]:
    """One function a tool, with the signature that the agent was told: Python itself refuses a wrong call.

    Args:
        descriptions: `name`, `parameters` (names), `defaults` (JSON, by name) and `doc` of each; from the host.
        call: How to run one.
    """
    functions: dict[str, Callable[..., Any]] = {}
    space = {"_call": call, "__builtins__": {}, "__name__": "tools"}
    for tool in descriptions:
        name, parameters, defaults = tool["name"], tool["parameters"], tool["defaults"]
        taken = tuple(defaults[each] for each in parameters if each in defaults)
        functions[name] = made = FunctionType(_code(name, parameters), space, name, taken)
        made.__doc__ = tool["doc"]
    return functions


def _compiled(name: str, parameters: Sequence[str]) -> CodeType:
    arguments = ", ".join(f"{parameter!r}: {parameter}" for parameter in parameters)
    source = (
        f"def {name}({', '.join(parameters)}):\n    _result, _error = _call({name!r}, {{{arguments}}})\n"
        "    if _error is not None: raise _error\n    return _result"  # raised here: no frame of ours in its trace
    )
    return next(each for each in compile(source, "<tools>", "exec").co_consts if isinstance(each, CodeType))


_BLANKS = [f"_{place}" for place in range(8)]
_FORMS = [_compiled("_name", _BLANKS[:count]) for count in range(len(_BLANKS) + 1)]
"""Of tools with so many parameters, made in the zygote: to compile five takes a worker a third of a millisecond."""


def _code(name: str, parameters: Sequence[str]) -> CodeType:
    """What `_compiled` makes of them."""
    if len(parameters) > len(_BLANKS):
        return _compiled(name, parameters)
    form, words = _FORMS[len(parameters)], {"_name": name, **dict(zip(_BLANKS, parameters, strict=False))}
    constants = [
        words.get(each, each)
        if isinstance(each, str)
        else tuple(map(words.__getitem__, each))
        if isinstance(each, tuple)
        else each
        for each in form.co_consts
    ]
    names = (*parameters, *form.co_varnames[len(parameters) :])
    return form.replace(co_name=name, co_qualname=name, co_consts=tuple(constants), co_varnames=names)


def encode_call(question: dict[str, Any], arguments: dict[str, Any]) -> bytes:
    """The frame that asks for a tool call.

    Raises:
        TypeError: An argument is no JSON value, is nested too deeply, or a number in it is too large.
        ValueError: The arguments are too long.
    """
    question["arguments"] = arguments
    try:
        frame = wire.encode(question)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{question['tool']}(): an argument is no JSON value: {error}") from None
    except RecursionError:
        _check(question["tool"], arguments)
        raise  # it is not the arguments: the caller is near the limit of recursion
    if len(frame) > 4000 or frame.count(b"[") + frame.count(b"{") > MAX_NESTING:  # else it has neither
        if len(frame) > MAX_ARGUMENT_BYTES and (size := len(wire.encode(arguments))) > MAX_ARGUMENT_BYTES:
            too_long = f"the arguments are too long: {size} bytes as JSON, {MAX_ARGUMENT_BYTES} are allowed in one call"
            raise ValueError(f"{question['tool']}(): {too_long}")
        _check(question["tool"], arguments)
    return frame


def _check(tool: str, arguments: dict[str, Any]) -> None:
    """Refuse what the host would not read: the interpreter would be lost."""
    level: list[Any] = [arguments]
    for _ in range(MAX_NESTING):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list | tuple):
                inner += value
            elif isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
                raise TypeError(f"{tool}(): an integer of more than {MAX_INT_BITS} bits is no argument")
        if not inner:
            return
        if len(inner) > MAX_ARGUMENT_BYTES:  # lists within lists may hold one another many times
            break
        level = inner
    raise TypeError(f"{tool}(): the arguments are nested more than {MAX_NESTING} levels deep")


class Reserve:
    """Address space that is kept back for the time when model code has used up all the rest."""

    def __init__(self) -> None:
        self._mapping: mmap | None = None
        self.hold()

    def hold(self) -> None:
        """Keep it back, unless it is kept.

        Raises:
            MemoryError: There is none to be had.
        """
        if self._mapping is None:
            try:
                self._mapping = mmap(-1, HEAP_RESERVE, MAP_PRIVATE)  # shared memory would be a file: 30 us instead of 3
            except OSError:
                raise MemoryError from None

    def release_if_full(self) -> None:
        """Give it up where little else is left. Trying takes 2 us, giving it up and keeping it back again 10."""
        try:
            mmap(-1, PROBE, MAP_PRIVATE).close()  # touches no page
        except OSError:
            self.release()

    def release(self) -> bool:
        """Give it up, so that a little can be done; whether there was any."""
        held, self._mapping = self._mapping, None
        if held is None:
            return False
        held.close()
        return True
