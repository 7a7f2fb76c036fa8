"""Draws `effect.svg` from the cells of the study (docs/study.md) on tasks like those of the training.

Run: `python docs/pictures/effect.py`. A test compares picture and table.
"""

import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "results" / "full-knapsack" / "README.md"
PICTURE = HERE / "effect.svg"
ROW = re.compile(
    r"^\| easy \| (\w+) → (\w+) \| (\d+) \| ([\d.]+) \[([\d.]+), ([\d.]+)\] \| ([\d., ]+)"
    r" \| \d+/\d+ \| (\d+)/(\d+) \| ([\d,]+) \|$",
    re.MULTILINE,
)
WORDS = {"persistent": "keeps variables", "forget": "starts empty each step"}
WIDTH, TOP, STEP = 440, 124, 66
"""Narrow, so that its words can be read on a phone."""
LEFT, SCORE, TOKENS, MISSING, BAR = 20, 190, 236, 352, 52
"""Where columns begin, the length of the scale of scores, and that of the longest bar of tokens."""
STYLE = """\
  svg { font: 13px system-ui, sans-serif; }
  .card { fill: #ffffff; } text { fill: #1d2b2a; stroke: #ffffff; stroke-width: 4px; paint-order: stroke; }
  .head { font-size: 17px; font-weight: 600; }
  .quiet { fill: #5b6b69; font-size: 12px; } .axis { stroke: #c9d3d1; }
  .whisker { stroke: #1d2b2a; stroke-width: 1.5; } .match { fill: #0f7b6c; } .clash { fill: #c2571a; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #1e2129; } text { fill: #e4eae9; stroke: #1e2129; }
    .quiet { fill: #a3b0ae; } .axis { stroke: #45505a; }
    .whisker { stroke: #e4eae9; } .match { fill: #37b7a3; } .clash { fill: #ec8a4b; }
  }"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    trained: str
    played: str
    tasks: int
    trainings: int
    optimality: float
    low: float
    high: float
    tokens: int
    missing: float


def rows() -> list[Row]:
    """The four pairs of the two runtimes that execute code, matched ones first for each place of use."""
    found = {}
    for trained, played, tasks, *score, each, missing, episodes, tokens in ROW.findall(
        TABLE.read_text(encoding="utf-8")
    ):
        optimality, low, high = map(float, score)
        share, trainings = round(100 * int(missing) / int(episodes)), len(each.split(", "))
        read = (int(tasks), trainings, optimality, low, high, int(tokens.replace(",", "")), share)
        found[trained, played] = Row(trained, played, *read)
    pairs = [(trained, played) for played in WORDS for trained in (played, *(w for w in WORDS if w != played))]
    return [found[pair] for pair in pairs]


def picture() -> str:
    """The SVG."""
    lines = rows()
    height = TOP + STEP * len(lines) + 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH * 1.2:g}"'
        f' height="{height * 1.2:g}" role="img" aria-labelledby="t">',
        f'<title id="t">{title(lines)}</title>',
        f"<style>\n{STYLE}\n</style>",
        f'<rect class="card" width="{WIDTH}" height="{height}" rx="8"/>',
        f'<text class="head" x="{LEFT}" y="32">Same model, same tasks: only the</text>',
        f'<text class="head" x="{LEFT}" y="52">Python interpreter differs</text>',
        f'<text class="quiet" x="{LEFT}" y="80">score, % of the best</text>',
        f'<text class="quiet" x="{TOKENS}" y="80">tokens an episode</text>',
        f'<text class="quiet" x="{MISSING}" y="80">variable gone</text>',
    ]
    for mark in (0, 50, 100):
        x = LEFT + SCORE * mark / 100
        out.append(f'<line class="axis" x1="{x:g}" y1="100" x2="{x:g}" y2="{TOP + STEP * len(lines) - 26}"/>')
        out.append(f'<text class="quiet" x="{x:g}" y="96" text-anchor="{"middle" if mark else "start"}">{mark}</text>')
    for number, row in enumerate(lines):
        out += _row(row, TOP + STEP * number, max(row.tokens for row in lines))
    notes = (
        f"SmolLM2-135M, {lines[0].trainings} trainings, {lines[0].tasks} tasks a line, 95 % intervals.",
        "Green: used as trained. Orange: used otherwise.",
    )
    for number, note in enumerate(notes):
        out.append(f'<text class="quiet" x="{LEFT}" y="{height - 36 + 18 * number}">{note}</text>')
    return "\n".join([*out, "</svg>", ""])


def title(lines: list[Row]) -> str:
    """The same in words, for those who do not see it."""
    each = [
        f"trained where the interpreter {WORDS[row.trained]}, used where it {WORDS[row.played]}:"
        f" score {row.optimality:g} % ({row.low:g} to {row.high:g}), {row.tokens:,} tokens,"
        f" {row.missing:g} % of the episodes asked for a variable that was gone"
        for row in lines
    ]
    return "; ".join(each)


def _row(row: Row, y: int, most: int) -> list[str]:
    kind = "match" if row.trained == row.played else "clash"
    low, high, at = (LEFT + SCORE * value / 100 for value in (row.low, row.high, row.optimality))
    bar = BAR * row.tokens / most
    return [
        f'<text x="{LEFT}" y="{y}">trained: {WORDS[row.trained]}; used: {WORDS[row.played]}</text>',
        f'<line class="whisker" x1="{low:.1f}" y1="{y + 20}" x2="{high:.1f}" y2="{y + 20}"/>',
        f'<circle class="{kind}" cx="{at:.1f}" cy="{y + 20}" r="6"/>',
        f'<rect class="{kind}" x="{TOKENS}" y="{y + 13}" width="{bar:.1f}" height="14" rx="2"/>',
        f'<text x="{TOKENS + bar + 6:.1f}" y="{y + 25}">{row.tokens:,}</text>',
        f'<text x="{MISSING}" y="{y + 25}">{row.missing:g} %</text>',
    ]


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
