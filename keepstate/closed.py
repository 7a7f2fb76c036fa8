"""The base of every model that is read from a file, and the one explanation of what is wrong with such a file.

Imports pydantic: modules that `keepstate --help` loads do not import this one.
"""

from __future__ import annotations

import difflib
import reprlib
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from keepstate.vocabulary import IN_WORDS

UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}
"""Kinds of faults: of a model, of a dataclass."""
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class Closed(BaseModel):
    """Frozen; an unknown key is an error. A field with an alias may be given under its own name too."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is wrong with a value, on one line each."""

    message: str
    """The place, what is wrong there, the value found, and how many further faults there are."""
    allowed: str
    """The keys allowed at that place, the likeliest one first; empty where they cannot be told."""


def explain(error: ValidationError, model: type[BaseModel]) -> Explanation:
    """The first fault that pydantic found, in plain words.

    Args:
        error: What `model` raised.
        model: The class whose keys are allowed.
    """
    first = error.errors(include_url=False)[0]
    place, kind = first["loc"], first["type"]
    keys = _keys(model, place)
    listed = f"allowed keys: {', '.join(keys)}" if keys else ""
    if kind in UNKNOWN_KEY:
        near = difflib.get_close_matches(str(place[-1]), keys, n=1, cutoff=0.5)
        listed = f"did you mean {near[0]}? {listed}" if near else listed
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return Explanation(f"{_fault(first)}{more}", listed)


def _fault(first: ErrorDetails) -> str:
    """Place, fault and value found."""
    place, kind = ".".join(map(str, first["loc"])), first["type"]
    if kind in UNKNOWN_KEY:
        return f"unknown key {place!r}"
    if kind == "missing":
        return f"missing key {place!r}"
    message = first["msg"].removeprefix("Value error, ")
    if kind in {"model_type", "dataclass_type"}:
        message = "a mapping of keys is needed"
    elif words := IN_WORDS.get(first.get("ctx", {}).get("pattern", "")):
        message = f"allowed are {words}"
    value = "null" if first["input"] is None else _SHORT.repr(first["input"])
    found = "" if kind == "value_error" else f" (found {value})"
    return f"{place}: {message}{found}" if place else f"{message}{found}"


def _keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Keys allowed at a place in `model`, as a file names them; empty where a field there is no model of ours."""
    for part in place:
        named = {field.alias or name: field for name, field in model.model_fields.items()}
        if part not in named:  # an index, a key of a mapping, or what is wrong
            continue
        inner = _models(named[str(part)].annotation)
        if len(inner) == 1:
            model = inner.pop()
        elif part is not place[-1]:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> set[type[BaseModel]]:
    """The models within an annotation such as `dict[str, Item] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for part in get_args(annotation) for model in _models(part)}
