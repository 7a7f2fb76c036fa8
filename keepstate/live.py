"""A page that shows work while it lasts: `live.html`, written anew beside it every few seconds, and left as it ended.

It holds what the process knows and asks for nothing: open it from the disk, or through any web server. A page that was
not written for a while says so: its process is gone. `keepstate.display` writes it, what it shows says who is at work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from keepstate import __version__
from keepstate.drawing import STYLE, Picture, policy_hash
from keepstate.files import write_atomic

if TYPE_CHECKING:
    import jinja2

LIVE_FILE = "live.html"
SECONDS_BETWEEN_PAGES = 5.0


@dataclass(frozen=True, slots=True)
class LiveRow:
    """One piece of the work."""

    name: str
    done: float
    total: float
    texts: Sequence[str]
    """Under the head, behind the name and the bar."""


@dataclass(frozen=True, slots=True)
class LiveView:
    """What a page shows."""

    line: str
    """How far all of it is."""
    head: Sequence[str] = ()
    rows: Sequence[LiveRow] = ()
    errors: Sequence[str] = ()
    """The newest last."""
    pictures: Sequence[Picture] = field(default=())


def write_page(path: Path, view: LiveView, *, ended: str = "") -> None:
    """Write the page.

    Args:
        path: Where.
        view: What it shows.
        ended: How the work ended; empty while it lasts: the page then reloads itself.

    Raises:
        UserError: It cannot be written.
    """
    now = datetime.now(UTC)
    page = _template().render(
        title=f"{path.resolve().parent.name}: {ended or 'at work'}",
        view=view,
        ended=ended,
        written=int(now.timestamp()),
        at=now.isoformat(" ", "seconds").removesuffix("+00:00"),
        seconds=SECONDS_BETWEEN_PAGES,
        version=__version__,
    )
    write_atomic(path, page, durable=False)


@cache
def _template() -> jinja2.Template:
    import jinja2  # 0.1 s
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["element"] = lambda picture: Markup(picture.element())
    style, script = STYLE + _own("live.css"), _own("live.js")
    environment.globals |= {
        "style": Markup(style),
        "script": Markup(script),
        "policy": f"default-src 'none'; style-src {policy_hash(style)}; script-src {policy_hash(script)};"
        " base-uri 'none'; form-action 'none'",
    }
    return environment.from_string(_own("live.html.jinja"))


def _own(name: str) -> str:
    return (files("keepstate") / "live_page" / name).read_text(encoding="utf-8").strip()
