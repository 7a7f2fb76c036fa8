"""Reports of adapters with any names: what they were trained for decides what is compared, and how it is called."""

import html
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import Made, write_made_cell
from rich.console import Console

from keepstate.bench.results import Fit, read_results
from keepstate.report import build_report, make_report
from keepstate.report.model import CellGroup
from keepstate.report.sentences import SHOWN
from keepstate.report.statistics import bounded_mean
from keepstate.report.tables import print_report
from keepstate.train.trained_for import TrainedFor
from keepstate.vocabulary import RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName
BOTH = TrainedFor(runtimes=(PERSISTENT, FORGET))
SCORES = (0.9, 0.5, 1.0, 0.7, 0.8, 0.6)


def seed(runtime: RuntimeName, number: int) -> TrainedFor:
    """One of several trainings of a runtime's adapter."""
    return TrainedFor(runtimes=(runtime,), training=str(list(RuntimeName).index(runtime)) * 64, seed=number)


def cell(
    run: Path, adapter: str, runtime: RuntimeName, score: Callable[[int], float], of: TrainedFor | None, **more: object
) -> None:
    """A cell of six tasks whose adapter has a card, or none."""
    write_made_cell(run, adapter, runtime, lambda i: Made(score(i)), len(SCORES), trained_for=of, **more)


def only_group(run: Path) -> CellGroup:
    (group,) = make_report("r", read_results(run)).groups
    return group


def compared(group: CellGroup) -> list[str]:
    return [f"{c.first.label} vs {c.second.label}" for c in group.comparisons]


def test_names_say_nothing_where_there_is_a_card(tmp_path: Path) -> None:
    """Two adapters of odd names do what `persistent` and `forget` do, sentence by sentence."""
    names = {"Qwen/keep": TrainedFor(runtimes=(PERSISTENT,)), "z-9": TrainedFor(runtimes=(FORGET,))}
    for adapter, of in names.items():
        for runtime in (PERSISTENT, FORGET):
            lower = 0.0 if runtime in of.runtimes else 0.4
            cell(tmp_path, adapter, runtime, lambda i, by=lower: SCORES[i] - by, of, name=f"{adapter[-1]}-{runtime}")
    group = only_group(tmp_path)
    assert compared(group) == [
        "Qwen/keep → forget vs z-9 → forget",
        "z-9 → persistent vs Qwen/keep → persistent",
        "Qwen/keep → forget vs Qwen/keep → persistent",
        "z-9 → persistent vs z-9 → forget",
        "Qwen/keep → persistent vs z-9 → forget",
    ]
    assert group.headline[0].startswith(
        "Running the Qwen/keep adapter in the forget runtime, in place of the adapter trained for it (z-9), changed"
    )
    assert "match: solved 1 of 6 (Qwen/keep → persistent), 1 of 6 (z-9 → forget)." in " ".join(group.headline)
    build_report(tmp_path)
    for path in ("report.md", "index.html", "optimality.svg"):
        assert "Qwen/keep" in (tmp_path / "report" / path).read_text()


def test_a_card_overrules_a_name(tmp_path: Path) -> None:
    cell(tmp_path, "persistent", FORGET, lambda i: SCORES[i], TrainedFor(runtimes=(FORGET,)))
    (found,) = read_results(tmp_path)
    assert found.fit is Fit.MATCHED


def test_mixed_against_specialists(tmp_path: Path) -> None:
    for runtime in (PERSISTENT, FORGET):
        cell(tmp_path, str(runtime), runtime, lambda i: SCORES[i], None)
        cell(tmp_path, "mixed", runtime, lambda i: SCORES[i] - 0.3, BOTH)
        cell(tmp_path, "base", runtime, lambda _: 0.0, None)
    group = only_group(tmp_path)
    assert compared(group) == [
        "mixed → persistent vs persistent → persistent",
        "mixed → forget vs forget → forget",
        "persistent → persistent vs forget → forget",
        "mixed → persistent vs mixed → forget",
        "persistent → persistent vs base → persistent",
        "forget → forget vs base → forget",
        "mixed → persistent vs base → persistent",
        "mixed → forget vs base → forget",
    ]
    assert group.headline[0].startswith(
        "Running the mixed adapter in the persistent runtime, in place of the adapter trained for it alone, changed"
    )
    assert not any("nothing can be said of a mismatch" in sentence for sentence in group.headline)
    assert [f.cell.label for f in group.figures][:3] == [
        "base → persistent", "persistent → persistent", "mixed → persistent"
    ]  # fmt: skip


def test_an_adapter_of_unknown_training_is_shown_as_such(tmp_path: Path) -> None:
    cell(tmp_path, "theirs", REACT, lambda i: SCORES[i], None)
    cell(tmp_path, "react", REACT, lambda i: SCORES[i], None)
    cell(tmp_path, "base", REACT, lambda _: 0.0, None)
    group = only_group(tmp_path)
    assert compared(group) == [
        "react → react vs base → react", "theirs → react vs base → react", "theirs → react vs react → react"
    ]  # fmt: skip
    assert "Trained for what is not known: solved 1 of 6 (theirs → react)." in " ".join(group.headline)
    build_report(tmp_path)
    assert "unknown" in (tmp_path / "report/optimality.svg").read_text()
    cells = json.loads((tmp_path / "report/report.json").read_text())["groups"][0]["cells"]
    assert [c["trained_for"] for c in cells] == [[], ["react"], None]


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Three trainings of two adapters: those of the second are ten points apart, and lower."""
    for number in (1, 2, 3):
        for runtime, low in ((PERSISTENT, 0.0), (FORGET, 0.1 * number)):
            cell(
                tmp_path, f"{runtime}-seed{number}", FORGET, lambda i, by=low: SCORES[i] - by, seed(runtime, number)
            )  # fmt: skip
    return tmp_path


def test_of_a_long_headline_the_first_sentences_are_seen_at_once(tmp_path: Path) -> None:
    for number in range(1, 11):
        for runtime in (PERSISTENT, FORGET):
            cell(tmp_path, f"{runtime}-seed{number}", FORGET, lambda i: SCORES[i], seed(runtime, number))
    console = Console(file=(terminal := io.StringIO()), width=500)
    report = build_report(tmp_path)
    print_report(report, console)
    (group,) = report.groups
    hidden = len(group.headline) - SHOWN
    assert hidden > 2
    printed = terminal.getvalue()
    assert (printed.count("• "), f"{hidden} sentences more: report.md" in printed) == (SHOWN + 1, True)
    page = (tmp_path / "report/index.html").read_text()
    seen, folded = page.split(f"<summary>{hidden} sentences more</summary>")
    for number, sentence in enumerate(group.headline):
        words = html.escape(sentence, quote=False).replace("'", "&#39;")
        assert (words in seen, words in folded) == (number < SHOWN, number >= SHOWN)
        assert f"- {sentence}" in (tmp_path / "report/report.md").read_text()


def test_trainings_are_compared_seed_by_seed_and_their_spread_is_shown(seeds: Path) -> None:
    group = only_group(seeds)
    assert compared(group) == [f"persistent-seed{n} → forget vs forget-seed{n} → forget" for n in (1, 2, 3)]
    persistent, forget, difference = group.repeats
    assert persistent.each_training == pytest.approx([0.75] * 3)
    assert persistent.spread == pytest.approx(0)
    assert forget.each_training == pytest.approx([0.65, 0.55, 0.45])
    assert forget.spread == pytest.approx(0.1)
    assert difference.each_training == pytest.approx([0.1, 0.2, 0.3])
    arms = "persistent-seed1/2/3 → forget vs forget-seed1/2/3 → forget"
    assert f"Over 3 trainings with different seeds, {arms}" in " ".join(group.headline)
    assert "came to +10.0 to +30.0 points (standard deviation 10.0)" in " ".join(group.headline)
    build_report(seeds)
    for path in ("report.md", "index.html"):
        page = (seeds / "report" / path).read_text()
        assert "+10.0, +20.0, +30.0" in page


def test_adapters_are_named_in_the_order_of_their_figures(tmp_path: Path) -> None:
    for name, number in (("persistent", 42), ("persistent-seed1", 1), ("persistent-seed2", 2)):
        cell(tmp_path, name, FORGET, lambda i, by=number: SCORES[i] - 0.01 * by, seed(PERSISTENT, number))
    (repeats,) = only_group(tmp_path).repeats
    assert repeats.label == "persistent-seed1 / persistent-seed2 / persistent → forget"
    assert repeats.each_training == pytest.approx([0.74, 0.73, 0.33])


def test_trainings_are_no_more_tasks(seeds: Path) -> None:
    """Eighteen episodes of six tasks have the interval of six."""
    for repeats in only_group(seeds).repeats:
        assert repeats.optimality.n == 6
    persistent = only_group(seeds).repeats[0].optimality
    alone = bounded_mean(SCORES)
    assert alone is not None
    assert (persistent.low, persistent.high) == pytest.approx((alone.low, alone.high), rel=0.01), "but for the draws"


def test_draws_of_a_task_are_clustered_and_are_no_trainings(tmp_path: Path) -> None:
    for draw in (0, 1):
        cell(
            tmp_path, "base", REACT, lambda i, by=draw: SCORES[i] - 0.2 * by, None, name=f"draw-{draw}", seed=draw
        )  # fmt: skip
    (repeats,) = only_group(tmp_path).repeats
    assert (repeats.trainings, repeats.optimality.n, repeats.spread) == (1, 6, None)
    assert repeats.optimality.value == pytest.approx(0.65)


def test_cells_under_other_limits_repeat_nothing(tmp_path: Path) -> None:
    for turns in (5, 6):
        cell(
            tmp_path, "base", REACT, lambda i: SCORES[i], None, name=f"turns-{turns}", limits={"turns": turns}
        )  # fmt: skip
    assert only_group(tmp_path).repeats == ()


def test_a_task_that_one_training_lacks_is_in_no_mean(tmp_path: Path) -> None:
    for number in (1, 2):
        of = seed(FORGET, number)
        made = [None if i + number == 6 else Made(SCORES[i]) for i in range(6)]
        write_made_cell(tmp_path, f"forget-{number}", FORGET, lambda i, all=made: all[i], 6, trained_for=of)
    (repeats,) = only_group(tmp_path).repeats
    assert repeats.optimality.n == 4
    assert repeats.each_training == pytest.approx([(sum(SCORES) - SCORES[4] - SCORES[5]) / 4] * 2)
    assert repeats.spread == 0


@pytest.mark.parametrize(
    ("adapter", "runtimes"),
    [("base", ()), ("persistent", (PERSISTENT,)), ("react", (REACT,))],
)
def test_a_cell_of_an_earlier_version_is_what_its_name_says(
    adapter: str, runtimes: tuple[RuntimeName, ...], tmp_path: Path
) -> None:
    cell(tmp_path, adapter, REACT, lambda i: SCORES[i], None)
    path = tmp_path / f"{adapter}-react-mini/cell.json"
    old = json.loads(path.read_text())
    del old["trained_for"]
    path.write_text(json.dumps(old))
    assert read_results(tmp_path)[0].trained_for == TrainedFor(runtimes=runtimes)


def test_a_sweep_is_compared_where_all_else_is_equal_and_its_draws_are_no_tasks(tmp_path: Path) -> None:
    for calls in (25, 80):
        for draw in (0, 1):
            cell(
                tmp_path, "base", REACT, lambda i, by=calls / 800 - draw / 10: SCORES[i] - 0.1 + by, None,
                name=f"c{calls}-{draw}", seed=draw, limits={"tool_calls": calls},
            )  # fmt: skip
    group = only_group(tmp_path)
    assert [f.cell.told_apart_by for f in group.figures] == [
        f"tool calls {calls}, seed {draw}" for calls in (25, 80) for draw in (0, 1)
    ]
    assert compared(group) == [
        f"base → react (tool calls 25, seed {draw}) vs base → react (tool calls 80, seed {draw})" for draw in (0, 1)
    ]
    assert [repeats.label for repeats in group.repeats] == [
        "base → react (tool calls 25)", "base → react (tool calls 80)",
        "base → react (tool calls 25) vs base → react (tool calls 80)",
    ]  # fmt: skip
    for repeats in group.repeats[:2]:
        assert (repeats.optimality.n, repeats.trainings, repeats.spread) == (6, 1, None)
        assert repeats.spread_of_draws == pytest.approx(0.1 / 2**0.5)
    assert group.repeats[2].spread_of_draws == pytest.approx(0)
    assert group.repeats[2].optimality.value == pytest.approx(-55 / 800)


def test_a_sweep_of_the_base_says_what_its_settings_changed(tmp_path: Path) -> None:
    for calls in (25, 80):
        made = Made(0.2 + 0.005 * (calls - 25))
        write_made_cell(
            tmp_path, "base", RuntimeName.REACT, lambda _, made=made: made, 12, name=f"c{calls}",
            limits={"tool_calls": calls},
        )  # fmt: skip
    first, second, *_ = (str(claim) for claim in make_report("r", read_results(tmp_path)).groups[0].headline)
    assert "Only the untrained base was played" in first
    assert "tool calls 25) in place of base → react (tool calls 80) changed optimality (-27.5 points" in second
