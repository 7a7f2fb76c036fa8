"""Drawings as SVG for pages: marks at their places, coloured by class, so that each dresses them for light and dark.

    Picture("losses", 120, curve([(0, 100), (200, 20)], "kind-0") + text(10, 110, "step"))

All are as wide as a phone shows without scaling, so their words have the size of other words. Knows nothing of what is
drawn, and uses no library: a drawing takes less than a millisecond.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 360
"""Of every drawing, in pixels of CSS."""
LEFT, RIGHT = 12, WIDTH - 14
"""Where its data begin and end."""
CHARACTER = 6.6
"""Width of one, on average, at 12 pixels."""
COLOURS = {
    "text": "#1b1b1b",
    "soft": "#555555",
    "line": "#d5d5d5",
    "paper": "#ffffff",
    "kind-0": "#0063a3",
    "kind-1": "#c2500a",
    "kind-2": "#6b6b6b",
    "kind-3": "#8a6d00",
}
"""By the name of their variable on a page, which may dress them otherwise. The kinds differ with any colour vision."""
SHAPES = ("M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z", "M0-6L6 0L0 6L-6 0z", "M-5-5H5V5H-5z", "M0-6L6 5H-6z")
"""Of the kinds: circle, diamond, square, triangle."""
STYLE = """
.drawing text { font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--text); }
.drawing text { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
.drawing .soft { fill: var(--soft); }
.drawing .title { font-weight: 600; font-size: 13px; }
.drawing .middle { text-anchor: middle; }
.drawing .end { text-anchor: end; }
.drawing .grid { fill: none; stroke: var(--line); }
.drawing .rule { fill: none; stroke: var(--text); stroke-width: 1.5; }
.drawing .dashed { fill: none; stroke: var(--text); stroke-dasharray: 4 3; opacity: .65; }
.drawing .kind-0 { color: var(--kind-0); }
.drawing .kind-1 { color: var(--kind-1); }
.drawing .kind-2 { color: var(--kind-2); }
.drawing .kind-3 { color: var(--kind-3); }
.drawing .mark { fill: currentColor; }
.drawing .pale { fill: currentColor; opacity: .4; }
.drawing .curve { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.drawing .paper { fill: var(--paper); }
.drawing .number { fill: var(--paper); font-weight: 600; font-size: 11px; text-anchor: middle; stroke: none; }
"""


def policy_hash(text: str) -> str:
    """As a page's content security policy names an element of style or script by what is between its tags."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture. `words` say what it shows, for those who do not see it."""

    words: str
    height: float
    marks: str

    def element(self) -> str:
        """For a page that has `STYLE` and the variables."""
        size = f'width="{WIDTH}" height="{self.height:g}" viewBox="0 0 {WIDTH} {self.height:g}"'
        return f'<svg class="drawing" {size} role="img" aria-label="{escape(self.words)}">{self.marks}</svg>'

    def document(self) -> str:
        """A file of its own, in its light dress."""
        style = re.sub(r"var\(--([\w-]+)\)", lambda found: COLOURS[found[1]], STYLE)
        ground = f'<rect class="paper" width="{WIDTH}" height="{self.height:g}"/>'
        opened, rest = self.element().split(">", 1)
        named = opened.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
        return f"{named}><style>{style}</style>{ground}{rest}\n"


def stacked(drawings: Iterable[Picture]) -> Picture:
    """Several as one, below each other."""
    words, marks, height = [], "", 0.0
    for each in drawings:
        marks += moved(0, height, each.marks)
        height += each.height
        words.append(each.words)
    return Picture("; ".join(words), height, marks)


@dataclass(frozen=True, slots=True)
class Scale:
    """Places of values from `low` to `high`, which lie at `start` and `end`."""

    low: float
    high: float
    start: float = LEFT
    end: float = RIGHT

    def __call__(self, value: float) -> float:
        """The place of a value; one beyond the ends lies at the end."""
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values, three to seven of them."""
        step = _round(((self.high - self.low) or 1.0) / 6)
        return [each * step for each in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]


def scale_to(most: float, start: float = LEFT, end: float = RIGHT) -> Scale:
    """From zero to a round value at or above `most`."""
    step = _round((most or 1.0) / 6)
    return Scale(0.0, math.ceil((most or 1.0) / step - 1e-9) * step, start, end)


def _round(step: float) -> float:
    """The smallest of 1, 2, 5, 10, ... not below a step."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def across(scale: Scale, top: float, bottom: float, title: str) -> str:
    """A horizontal axis below, with grid lines up to `top`; takes 36 pixels below `bottom`."""
    lines = "".join(f"M{scale(tick):g} {top:g}V{bottom:g}" for tick in scale.ticks())
    places = [(scale(tick), figure(tick)) for tick in scale.ticks()]
    words, free = "", math.inf
    for x, value in reversed(places):  # the last one says how far it goes; one that has no room beside it is left out
        kept, width = _kept_inside(x), CHARACTER * len(value)
        left = x - {"end": 1.0, "middle": 0.5}.get(kept, 0.0) * width
        if left + width < free:
            words, free = text(x, bottom + 14, value, f"soft {kept}") + words, left - CHARACTER / 2
    return path(lines, "grid") + words + text(scale.start, bottom + 30, title, "soft")


def upright(scale: Scale, left: float, right: float, title: str) -> str:
    """A vertical axis on the left, with grid lines to `right` and its title above."""
    lines = "".join(f"M{left:g} {scale(tick):g}H{right:g}" for tick in scale.ticks())
    words = "".join(text(left - 5, scale(tick) + 4, figure(tick), "soft end") for tick in scale.ticks())
    return path(lines, "grid") + words + text(LEFT, min(scale.start, scale.end) - 10, title, "soft")


def _kept_inside(x: float) -> str:
    return "end" if x > RIGHT - 16 else "" if x < LEFT + 16 else "middle"


def figure(value: float) -> str:
    """A value beside an axis."""
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def text(x: float, y: float, words: str, kind: str = "", room: float = WIDTH) -> str:
    """Words; what does not fit into `room` pixels is cut, and whole where the pointer rests."""
    most = int(room / CHARACTER)
    shown = words if len(words) <= most else words[: most - 1] + "…"
    whole = "" if shown is words else f"<title>{escape(words)}</title>"
    return f'<text class="{kind.strip()}" x="{x:g}" y="{y:g}">{escape(shown)}{whole}</text>'


def path(lines: str, kind: str) -> str:
    """Lines, in the words of SVG."""
    return f'<path class="{kind}" d="{lines}"/>'


def curve(points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through points."""
    return path("M" + "L".join(f"{x:g} {y:g}" for x, y in points), f"curve {kind}")


def bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A filled rectangle."""
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{max(height, 0):g}"/>'


def mark(x: float, y: float, kind: int) -> str:
    """The shape of a kind."""
    return f'<path class="mark kind-{kind}" transform="translate({x:g} {y:g})" d="{SHAPES[kind]}"/>'


def moved(x: float, y: float, marks: str) -> str:
    """Marks at another place."""
    return f'<g transform="translate({x:g} {y:g})">{marks}</g>'
