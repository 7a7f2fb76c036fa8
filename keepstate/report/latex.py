"""The tables of a report for a paper: `report.tex`, to be read in with `\\input`. Needs LaTeX's package booktabs.

Columns are those that a page of print has room for; all stand in `report.md` and `report.json`. Intervals are set as
index and exponent, and the two cells of a comparison on two lines: in brackets and on one, the tables were 1.7 and 1.9
times as wide as the text of `article`; so they fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from keepstate.report.model import Report
from keepstate.report.tables import COLUMNS, COMPARISON_HEAD, called, comparison_row
from keepstate.traces.view import printable

CELLS = ("cell", "solved", "optimality %", "n", "corrected", "tokens", "missing %")
COMPARISONS = ("comparison", "n", "optimality, points", "verdict", "p (same), Holm", "tokens, median ratio")
_NUMBER = r"([-+]?[\d.,/]+)"
_INTERVAL = re.compile(rf"{_NUMBER} \({_NUMBER} to {_NUMBER}\)")
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "<": "$<$",
    ">": "$>$",
    "\N{EN DASH}": "--",
} | {sign: f"\\{sign}" for sign in "{}$&#%_"}


def latex(report: Report) -> str:
    """The cells and the comparisons of each group, a `tabular` each."""
    lines = [
        f"% {escaped(report.name)}: made by keepstate report; \\usepackage{{booktabs}}",
        "% an index and an exponent are the ends of a 95 % interval",
    ]
    columns = [column for column in COLUMNS if column.title in CELLS]
    places = [COMPARISON_HEAD.index(title) for title in COMPARISONS]
    for group in report.groups:
        lines += ["", f"% {escaped(group.title)}"]
        rows = [[column.text(figures) for column in columns] for figures in group.figures]
        lines += _tabular([called(column.title, group) for column in columns], rows)
        if group.comparisons:
            rows = [[comparison_row(comparison)[place] for place in places] for comparison in group.comparisons]
            lines += ["", *_tabular([called(title, group) for title in COMPARISONS], rows)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text as LaTeX prints it, in one line."""
    return re.sub(
        "|".join(map(re.escape, _ESCAPED)), lambda found: _ESCAPED[found[0]], " ".join(printable(text).split())
    )


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "{\\footnotesize\\setlength{\\tabcolsep}{4pt}"
    yield f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}"
    yield "\\toprule"
    yield " & ".join(_stacked("r", title.split(", ")) for title in head) + r" \\"
    yield "\\midrule"
    yield from map(_line, rows)
    yield "\\bottomrule"
    yield "\\end{tabular}}"


def _line(texts: Sequence[str]) -> str:
    return " & ".join(map(_cell, texts)) + r" \\[3pt]"


def _cell(text: str) -> str:
    if found := _INTERVAL.fullmatch(text):
        value, low, high = (number.replace(",", "{,}") for number in found.groups())
        return f"${value}_{{{low}}}^{{{high}}}$"
    if " vs " in text:
        return _stacked("l", text.replace(" vs ", "\nvs ").splitlines())
    return _stacked("r", text.replace(" (", "\n(").splitlines())


def _stacked(side: str, lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return escaped(lines[0])
    return f"\\shortstack[{side}]{{" + r" \\ ".join(map(escaped, lines)) + "}"
