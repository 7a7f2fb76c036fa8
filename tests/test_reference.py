"""The reference pages say what the classes say."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from keepstate.reference import PAGES, page, pages, schemas
from keepstate.vocabulary import Origin


class Base(BaseModel):
    """What both have."""

    name: str
    """Whose | it is."""


class Inner(Base):
    """Within."""

    places: list[Annotated[int, Field(ge=1)]] = []
    origin: Origin | None = Field(default=None, alias="from")
    """Where it
    arose."""


class Outer(BaseModel):
    """The whole."""

    inner: Inner
    other: Inner = Inner(name="a", **{"from": None})


class Line(TypedDict):
    """A line."""

    number: int
    """Counted from 0."""


class LongerLine(Line):
    """A longer line."""

    pair: tuple[int, str]
    counts: dict[Origin, int]


@pytest.mark.parametrize(("path", "text"), list(pages()), ids=lambda each: each.name if isinstance(each, Path) else "")
def test_the_reference_pages_are_up_to_date(path: Path, text: str) -> None:
    assert path.read_text() == text, "run: python -m keepstate.reference"


@pytest.mark.parametrize("name", PAGES)
def test_every_key_and_every_choice_has_a_meaning(name: str) -> None:
    """But for those that can have one value only, such as the name of a format."""
    for kind, schema in PAGES[name].schemas().items():
        assert schema.get("description"), kind
        assert all(schema.get("meanings", {"": "none"}).values()), kind
        told = {key: field for key, field in schema.get("properties", {}).items() if "const" not in field}
        assert not [key for key, field in told.items() if not field.get("description")], kind


def test_a_page_holds_types_bounds_defaults_and_docstrings_of_bases_and_aliases_too() -> None:
    text = page("# Title", schemas(Outer, LongerLine))
    assert text.startswith("# Title")
    assert "| `inner` | [Inner](#inner) |  |  |" in text
    assert "## Inner\n\nWithin.\n" in text
    assert "| `name` | string |  | Whose \\| it is. |" in text
    assert "| `places` | list of integer (≥ 1) | `[]` |  |" in text
    assert "| `from` | [Origin](#origin) or null | `null` | Where it arose. |" in text
    assert "| `other` | [Inner](#inner) | its own |  |" in text
    assert "## LongerLine\n\nA longer line.\n" in text
    assert "| `number` | integer |  | Counted from 0. |" in text
    assert "| `pair` | list: integer, string |  |  |" in text
    assert "| `counts` | object of integer by [Origin](#origin) |  |  |" in text
    assert text.index("## Inner") < text.index("## Origin")
