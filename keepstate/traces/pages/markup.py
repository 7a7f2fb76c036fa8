"""The HTML of pages: templates, and the policy that lets their own style and script run and nothing else.

Text of models, code and tools is escaped, cut, its control characters made visible, Python's words marked.

Pygments marks more kinds of words and takes 9 times as long (6 us a character; measured in one run): too much for the
pages of 10,000 episodes.
"""

from __future__ import annotations

import builtins
import functools
import keyword
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from keepstate import __version__
from keepstate.drawing import policy_hash
from keepstate.traces.observations import cut
from keepstate.traces.pages.turns import as_text
from keepstate.traces.view import printable

if TYPE_CHECKING:
    import jinja2

GENERATOR = "keepstate traces view"
"""What tells a page of ours, in its first kilobyte: a folder with another index is not written into."""
MOST_CALLS, MOST_NAMES = 250, 60
"""Of a turn."""
MOST_CHARS = 20_000
"""Of one text on a page: its head and tail, with what is left out told."""
_BUILTINS = "|".join(name for name in dir(builtins) if name[0].islower())
_CLOSED = r"(?:\\.|[^\\])*?(?:{0}|\Z)"
_STRING = "|".join(
    [*(mark + _CLOSED.format(mark) for mark in ("'{3}", '"{3}')), *(rf"{q}(?:\\.|[^\\{q}\n])*{q}?" for q in "'\"")]
)
_PYTHON = re.compile(
    rf"(?P<c>\#[^\n]*)|(?P<s>(?:\b[rbfuRBFU]{{1,2}})?(?:{_STRING}))|\b(?P<k>{'|'.join(keyword.kwlist)})\b"
    rf"|(?<!\.)\b(?P<b>{_BUILTINS})\b|(?P<n>\b\d[\w.]*)",
    re.DOTALL,
)
"""Comment, string, keyword, builtin, number: the group's name is the class. Broken code is marked as far as it goes."""


def shown(text: str) -> str:
    """`text`, cut to `MOST_CHARS`, with what no eye sees as escapes; not HTML yet, so it may stand in an attribute."""
    return printable(cut(text, MOST_CHARS))


def highlighted(code: str) -> Markup:
    """Python or JSON as HTML, its words marked."""
    code = shown(code)
    parts, end = [], 0
    for found in _PYTHON.finditer(code):
        parts += [escape(code[end : found.start()]), f'<span class="{found.lastgroup}">{escape(found[0])}</span>']
        end = found.end()
    return Markup("".join([*parts, escape(code[end:])]))


def frame(name: str) -> dict[str, Any]:
    """Style and script of a page, and the policy that lets these run and nothing else."""
    style, script, plain = (_template(file) for file in ("pages.css", f"{name}.js", "noscript.css"))
    policy = (
        f"default-src 'none'; style-src {policy_hash(style)} {policy_hash(plain)}; script-src {policy_hash(script)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    return {
        "style": Markup(style),
        "script": Markup(script),
        "noscript": Markup(plain),
        "policy": policy,
        "generator": f"{GENERATOR}, {__version__}",
    }


@functools.cache
def _template(name: str) -> str:
    return (files("keepstate.traces.pages") / "templates" / name).read_text(encoding="utf-8").strip()


@functools.cache
def environment() -> jinja2.Environment:
    """Where templates are made into HTML: every text in them goes through `shown`, then is escaped."""
    import jinja2

    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_template),
        finalize=lambda value: shown(value) if type(value) is str else value,  # what is Markup has been through it
    )
    made.filters |= {"code": highlighted, "as_text": as_text}
    made.globals |= {"most_calls": MOST_CALLS, "most_names": MOST_NAMES}
    return made
