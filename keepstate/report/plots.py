"""The plots, a drawing a group of cells: scores, tokens, both together, turns used, and the losses of the trainings.

Colour, shape and the words beside a mark say the same, so that none is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from keepstate.bench.results import Fit
from keepstate.drawing import (
    LEFT,
    RIGHT,
    WIDTH,
    Picture,
    Scale,
    across,
    bar,
    mark,
    moved,
    path,
    scale_to,
    stacked,
    text,
    upright,
)
from keepstate.report.figures import CellFigures
from keepstate.report.losses import Losses
from keepstate.report.model import CellGroup, Report
from keepstate.train.progress import loss_curve
from keepstate.train.scores import score_curve
from keepstate.vocabulary import FinishReason

ROW, HEAD, FOOT = 34, 44, 46
"""Pixels of a cell, of the title, and of the axis below."""
ENTRY = 16
"""Of a line of a legend."""
BADGE = 19
"""Of a numbered mark."""


@dataclass(frozen=True, slots=True)
class Plot:
    """What can be drawn of a group of cells."""

    name: str
    """Of its files."""
    title: str
    words: str
    """How to read it."""
    draw: Callable[[CellGroup], Picture | None]
    """None where no cell has what it shows."""


def optimality(group: CellGroup) -> Picture | None:
    """The mean score of each cell with its interval, floor and oracle marked."""
    scale, rows = Scale(0, 100), [figures for figures in group.figures if figures.optimality]
    bottom = HEAD + 26 + ROW * len(rows)
    marks = across(scale, HEAD, bottom, f"{group.measure} %, with 95 % interval")
    for place, (key, words) in enumerate((("blind", "floor"), ("oracle", "oracle"))):
        if key in group.references:
            at = 100 * group.references[key]
            marks += path(f"M{scale(at):g} {HEAD - 2 + 13 * place:g}V{bottom:g}", "dashed")
            beside, side = (5, "") if at < 50 else (-5, " end")
            marks += text(scale(at) + beside, HEAD + 9 + 13 * place, f"{words} {at:.0f}", "soft" + side)
    for row, figures in enumerate(rows):
        estimate, y = figures.optimality, HEAD + 40 + ROW * row
        assert estimate is not None
        ends = [100 * (estimate.value if end is None else end) for end in (estimate.low, estimate.high)]
        rule = path(f"M{scale(ends[0]):g} {y + 11:g}H{scale(ends[1]):g}", f"curve {_kind(figures)}")
        marks += _label(figures, y, f"{100 * estimate.value:.1f}") + rule
        marks += mark(scale(100 * estimate.value), y + 11, _place(figures))
    return _drawing(group, "scores", marks, bottom, rows)


def tokens(group: CellGroup) -> Picture | None:
    """The mean tokens of each cell, completions strongly coloured, with the interval of the median."""
    rows = [figures for figures in group.figures if figures.tokens]
    highest = [max(f.tokens.value, (f.median_tokens and f.median_tokens.high) or 0) for f in rows if f.tokens]
    scale, bottom = scale_to(max(highest, default=1)), HEAD + ROW * len(rows)
    marks = across(scale, HEAD - 4, bottom, "tokens of an episode, all calls")
    for row, figures in enumerate(rows):
        estimate, median, y = figures.tokens, figures.median_tokens, HEAD + 12 + ROW * row
        assert estimate is not None
        written = figures.completion_tokens.value if figures.completion_tokens else 0.0
        marks += _label(figures, y, f"{estimate.value:,.0f}")
        marks += bar(LEFT, y + 5, scale(estimate.value) - LEFT, 12, f"pale {_kind(figures)}")
        marks += bar(LEFT, y + 5, scale(written) - LEFT, 12, f"mark {_kind(figures)}")
        if median and median.low is not None and median.high is not None:
            marks += path(f"M{scale(median.low):g} {y + 11:g}H{scale(median.high):g}", "rule")
    return _drawing(group, "tokens", marks, bottom, rows)


def tokens_and_optimality(group: CellGroup) -> Picture | None:
    """Both together: a numbered mark a cell, named below. One that would hide another stands on a line beside."""
    rows = [figures for figures in group.figures if figures.tokens and figures.optimality]
    left, top, bottom = 40, HEAD + 16, HEAD + 236
    sideways = scale_to(max((f.tokens.value for f in rows if f.tokens), default=1), left, RIGHT)
    upwards = Scale(0, 100, bottom - BADGE, top)
    badges, taken = "", list[tuple[float, float]]()
    marks = upright(upwards, left, RIGHT, f"{group.measure} %") + across(
        sideways, top, bottom, "tokens of an episode, mean"
    )
    for number, figures in enumerate(rows, 1):
        assert figures.tokens is not None
        assert figures.optimality is not None
        x = sideways(figures.tokens.value)
        y = place = upwards(100 * figures.optimality.value)
        while any(abs(x - a) < BADGE and abs(y - b) < BADGE for a, b in taken):
            y += BADGE if place < (top + bottom) / 2 else -BADGE
        taken.append((x, y))
        marks += path(f"M{x:g} {place:g}V{y:g}", f"curve {_kind(figures)}")
        badges += moved(x, y, '<circle class="paper" r="9.5"/>' + f'<circle class="mark {_kind(figures)}" r="8.5"/>')
        badges += text(x, y + 4, str(number), "number")
        marks += text(LEFT, bottom + FOOT + ENTRY * number, f"{number}  {figures.cell.label}")
    return _drawing(group, "tokens against scores", marks + badges, bottom + 14 + ENTRY * len(rows), rows)


def turns(group: CellGroup) -> Picture | None:
    """How many episodes of each cell took how many turns, those strongly coloured that the limit ended."""
    rows = [figures for figures in group.figures if figures.cell.episodes]
    most = max((each.steps for figures in rows for each in figures.cell.episodes), default=1)
    scale, bottom = Scale(0.5, most + 0.5), HEAD + (ROW + 6) * len(rows)
    wide = max((RIGHT - LEFT) / most - 1, 1)
    marks = "".join(text(scale(each), bottom + 14, str(each), "soft middle") for each in _some(most))
    marks += text(LEFT, bottom + 30, "turns of an episode", "soft")
    for row, figures in enumerate(rows):
        episodes, y = figures.cell.episodes, HEAD + 12 + (ROW + 6) * row
        taken = Counter(each.steps for each in episodes)
        cut = Counter(each.steps for each in episodes if each.finish_reason is FinishReason.TURN_LIMIT)
        share = 100 * cut.total() / len(episodes)
        marks += _label(figures, y, f"{share:.0f} % at the limit") + path(f"M{LEFT} {y + 24:g}H{RIGHT}", "grid")
        for counts, kind in ((taken, "pale"), (cut, "mark")):
            for steps, count in sorted(counts.items()):
                high = round(19 * count / max(taken.values()), 1)
                marks += bar(scale(steps) - wide / 2, y + 24 - high, wide, high, f"{kind} {_kind(figures)}")
    return _drawing(group, "turns used", marks, bottom, rows)


PLOTS = (
    Plot("optimality", "Scores by cell", "Points with 95 % intervals; dashed lines: blind floor, oracle.", optimality),
    Plot(
        "tokens",
        "Tokens by cell",
        "Bars: mean of prompt and completion over all calls, the strong part is the completion. Lines: 95 % interval of"
        " the median, from 6 tasks on.",
        tokens,
    ),
    Plot(
        "tokens-optimality",
        "Tokens against scores",
        "Means of each cell: up is better, left is cheaper.",
        tokens_and_optimality,
    ),
    Plot(
        "turns",
        "Turns used",
        "Episodes by their turns, each cell on its own scale; the strong part was ended by the limit of turns.",
        turns,
    ),
)


def losses(trainings: Sequence[Losses]) -> list[Picture]:
    """The loss of each training by step, all on one scale, and below it what its checkpoints scored."""
    highest = max((loss for each in trainings for _, loss in each.points), default=1.0)
    pictures = []
    for each in trainings:
        pictures.append(loss_curve(each.adapter, each.points, highest))
        ends = each.points[0][0], each.points[-1][0]
        pictures += [score_curve(f"{each.adapter} in {runtime}", points, ends) for runtime, points in each.scores]
    return pictures


def drawn(report: Report, trainings: Sequence[Losses]) -> Iterator[tuple[str, Picture]]:
    """Every plot of the whole report, by the name of its files."""
    for plot in PLOTS:
        if pictures := [*filter(None, map(plot.draw, report.groups))]:
            yield plot.name, stacked(pictures)
    if trainings:
        yield "losses", stacked(losses(trainings))


def to_png(drawing: Picture) -> bytes:
    """A drawing as a PNG image of twice its size."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(drawing.document(), scale=2.0))


def _drawing(group: CellGroup, what: str, marks: str, bottom: float, cells: Sequence[CellFigures]) -> Picture | None:
    """With its title above and the legend of the kinds of `cells` below the axis; None without cells."""
    if not cells:
        return None
    legend, there = "", {figures.cell.fit for figures in cells}
    for place, fit in enumerate(Fit):
        if fit in there:
            y, bottom = bottom + FOOT, bottom + ENTRY
            legend += mark(LEFT + 6, y, place) + text(LEFT + 18, y + 4, fit, "soft")
    title = text(LEFT, 22, group.title, "title", RIGHT - LEFT)
    return Picture(f"{group.title}: {what}; the same figures are in the tables", bottom + FOOT, title + marks + legend)


def _label(figures: CellFigures, y: float, value: str) -> str:
    room = WIDTH - 2 * LEFT - 7 * len(value) - 10
    return text(LEFT, y, figures.cell.label, room=room) + text(RIGHT, y, value, "soft end")


def _place(figures: CellFigures) -> int:
    return [*Fit].index(figures.cell.fit)


def _kind(figures: CellFigures) -> str:
    return f"kind-{_place(figures)}"


def _some(most: int) -> Iterator[int]:
    """Turns that are named below: at most ten."""
    step = -(-most // 10)
    yield from (each for each in range(1, most + 1) if each % step == 0 or each == 1)
