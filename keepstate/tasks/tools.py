"""Tools: typed methods of an environment that an agent may call. Their signature and docstring are what it is told.

    @tool
    def ask(self, number: int) -> str:
        \"\"\"Whether the hidden number is lower or higher.\"\"\"

Arguments come from model-written code: each is checked against its type, without conversion, before the method runs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from keepstate.closed import Closed

ECHO_CHARS = 60
"""Most characters of the agent's own words that a refusal repeats."""
_MARK = "__keepstate_tool__"
_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
_ADAPTERS = {int: "an int", float: "a float", str: "a str", bool: "a bool", list: "a list", dict: "a dict"}

Method = TypeVar("Method", bound=Callable[..., Any])


class Parameter(Closed):
    """One argument of a tool."""

    name: str
    type: str
    optional: bool = False
    default: Any = None
    """Taken where the agent leaves it out, if it is `optional`."""


class Tool(Closed):
    """What an agent is told about one tool."""

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    returns: str = "None"

    @property
    def signature(self) -> str:
        """The Python signature, e.g. `inspect(item_id: str) -> str`."""
        arguments = (f"{p.name}: {p.type}" + (f" = {p.default!r}" if p.optional else "") for p in self.parameters)
        return f"{self.name}({', '.join(arguments)}) -> {self.returns}"


class ToolError(Exception):
    """A tool refused a call; the agent sees the message: a Python exception in CodeAct, an error line in ReAct."""


def tool(method: Method) -> Method:
    """Offer a method of an `Environment` to the agent."""
    setattr(method, _MARK, True)
    return method


@dataclass(frozen=True)
class BoundTool:
    """A tool and the method behind it."""

    told: Tool
    method: Callable[..., Any]
    types: Mapping[str, Any]
    """Type of each argument, in order."""
    defaults: Mapping[str, Any]
    result: Any
    """Type of what it returns."""

    @classmethod
    def of(cls, name: str, method: Callable[..., Any]) -> BoundTool:
        """The tool that `method` is.

        Raises:
            TypeError: It lacks a docstring or a type, or an argument is of a kind that no tool can have.
        """
        where = f"tool {name} ({_line(method)})"
        if not (told := " ".join((inspect.getdoc(method) or "").split())):
            raise TypeError(f"{where} has no docstring: it is what the agent is told")
        hints = get_type_hints(method)
        types, parameters, defaults = {}, [], {}
        for parameter in list(inspect.signature(method).parameters.values())[1:]:
            if parameter.kind is not _POSITIONAL:
                raise TypeError(f"{where}: {parameter.name} is no plain argument, as in f(self, a: int, b: str)")
            if parameter.name not in hints:
                raise TypeError(f"{where}: its argument {parameter.name} has no type")
            optional = parameter.default is not inspect.Parameter.empty
            types[parameter.name] = hint = hints[parameter.name]
            if optional:
                defaults[parameter.name] = json.loads(json.dumps(parameter.default, allow_nan=False))
            parameters.append(
                Parameter(
                    name=parameter.name,
                    type=_text(hint),
                    optional=optional,
                    default=defaults.get(parameter.name),
                )
            )
        if "return" not in hints:
            raise TypeError(f"{where} does not say what it returns, as in f(self) -> str (or -> None)")
        made = Tool(name=name, description=told, parameters=tuple(parameters), returns=_text(hints["return"]))
        bound = cls(made, method, types, defaults, hints["return"])
        try:
            _ = bound.checks, bound.result_check, bound.order
        except PydanticUserError as error:
            raise TypeError(f"{where} has a type that cannot be checked: {error}".partition("\n")[0]) from error
        return bound

    @cached_property
    def checks(self) -> dict[str, TypeAdapter[Any] | None]:
        """Of each argument; None for `str`, which needs none."""
        return {name: None if hint is str else _check_of(hint) for name, hint in self.types.items()}

    @cached_property
    def order(self) -> list[str]:
        """Names of all arguments."""
        return list(self.types)

    @cached_property
    def result_check(self) -> TypeAdapter[Any]:
        """Of what it returns."""
        return TypeAdapter(self.result)

    def names(self, arguments: Any) -> bool:
        """Whether `arguments` has the names of this tool's arguments, in any order, some with a default left out."""
        if not isinstance(arguments, dict):
            return False
        if list(arguments) == self.order:
            return True
        return self.types.keys() - self.defaults.keys() <= arguments.keys() <= self.types.keys()

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the method takes them.

        Raises:
            ToolError: One is of another type.
        """
        made = {}
        for name, value in arguments.items():
            check = self.checks[name]
            if check is None:
                if not isinstance(value, str):
                    raise ToolError(f"{name} must be a str, got {type(value).__name__}")
                made[name] = value
                continue
            try:  # as JSON, where a list may be a tuple and a text a date, but "5" is no number
                made[name] = check.validate_json(json.dumps(value, allow_nan=False), strict=True)
            except ValidationError as error:
                raise ToolError(f"{name} must be {_kind(self.types[name])}, got {_found(value, error)}") from None
            except (TypeError, ValueError, RecursionError):
                raise ToolError(f"{name} must be {_kind(self.types[name])}, got {type(value).__name__}") from None
        return made


def tools_of(kind: type) -> dict[str, BoundTool]:
    """The tools that a class has, its bases' first, in the order of their definition.

    Raises:
        TypeError: One is none; names it with its line.
    """
    found: dict[str, BoundTool] = {}
    for owner in reversed(kind.__mro__):
        for name, value in vars(owner).items():
            if getattr(value, _MARK, False):
                found[name] = BoundTool.of(name, value)
    return found


def echo(value: object) -> str:
    """What the agent sent, short enough to repeat."""
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    text = text.encode("utf-8", "replace").decode()
    return repr(text if len(text) <= ECHO_CHARS else text[:ECHO_CHARS] + "…")


def _check_of(hint: Any) -> TypeAdapter[Any]:
    """What checks a type. An agent's 10**400 is no float: as infinity it would come back as a failure of the tool's."""
    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))
    except PydanticUserError:  # a model, dataclass or TypedDict has a config of its own
        return TypeAdapter(hint)


def _kind(hint: Any) -> str:
    return _ADAPTERS.get(hint) or _text(hint)


def _found(value: Any, error: ValidationError) -> str:
    """The type found; for a value within a list and the like also where, and what is wrong there."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "finite_number" and not place:
        return f"{type(value).__name__} ({first['msg']})"
    return type(value).__name__ + (f" ({echo(place)[1:-1]}: {first['msg']})" if place else "")


def _text(hint: Any) -> str:
    """A type as an agent reads it: `list[str]`, `int | None`."""
    if hint is type(None):
        return "None"
    return inspect.formatannotation(hint).replace("typing.", "").replace("NoneType", "None")


def _line(method: Callable[..., Any]) -> str:
    """`my_tasks.py:31`."""
    code = method.__code__
    return f"{code.co_filename.rpartition('/')[2]}:{code.co_firstlineno}"
