"""Reports from results on disk: figures, words, pages and pictures, whole and offline."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_results import Made, write_made_cell
from rich.console import Console

from keepstate.bench.results import read_results
from keepstate.cli import compare as compare_command
from keepstate.cli import report as report_command
from keepstate.errors import UserError
from keepstate.reports import build_report, compare_cells, make_report
from keepstate.reports.figures import cell_figures
from keepstate.reports.tables import print_report
from keepstate.tasks.policies import reference_scores
from keepstate.tasks.store import load_tasks, write_tasks
from keepstate.vocabulary import Adapter, Difficulty, FinishReason, Origin, RuntimeName

PERSISTENT, FORGET, REACT = RuntimeName


@pytest.fixture
def run(published: Path, tmp_path: Path) -> Path:
    """A copy of `published` to work on."""
    return Path(shutil.copytree(published, tmp_path / "published"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight cells of 24 tasks in which mismatch costs as published: errors in one, tokens in the other."""
    folder = tmp_path_factory.mktemp("made")
    n = 24

    def cell(adapter: Adapter, runtime: RuntimeName, made: list[Made | None]) -> None:
        write_made_cell(folder, adapter, runtime, lambda i: made[i], n)

    good = [Made(1.0 if i % 2 else 0.9, 3, 500 + i) for i in range(n)]
    slow = [Made(1.0 if i % 2 else 0.9, 5, 1_500 + 7 * i) for i in range(n)]
    lost = [Made(0.5 if i % 4 else 0.9, 5, 1_500 + 3 * i, error_type="NameError" if i % 4 else None) for i in range(n)]
    cell(Adapter.PERSISTENT, PERSISTENT, list(good))
    cell(Adapter.FORGET, PERSISTENT, list(slow))
    cell(Adapter.PERSISTENT, FORGET, list(lost))
    cell(Adapter.FORGET, FORGET, [*slow[:-1], Made(failure=Origin.SANDBOX)])
    cell(Adapter.REACT, REACT, [*good[:-1], None])
    for runtime in RuntimeName:
        cell(Adapter.BASE, runtime, [Made(0.0, 6, 900, reason=FinishReason.TURN_LIMIT)] * n)
    return folder


@pytest.fixture(scope="module")
def built(published: Path) -> Path:
    """The run with its report; not to be changed."""
    build_report(published)
    return published


def test_figures_are_those_of_the_episodes(run: Path) -> None:
    found = {cell.label: cell_figures(cell) for cell in read_results(run)}
    assert len(found) == 8
    mixed = found["persistent → forget"]
    assert mixed.n == 24
    assert mixed.missed is not None
    assert mixed.missed.value == 18 / 24
    assert mixed.optimality is not None
    assert mixed.optimality.value == pytest.approx((18 * 0.5 + 6 * 0.9) / 24)
    assert mixed.tokens is not None
    assert mixed.tokens.value == pytest.approx(5 * (1_600 + 3 * 11.5))
    assert mixed.completion_tokens is not None
    assert mixed.completion_tokens.value == 500
    assert mixed.cached_share == pytest.approx(0.5, abs=0.01)
    assert mixed.kind == "mismatched"
    assert mixed.rungs == ("namespaces",)
    assert found["forget → forget"].cell.not_graded == {Origin.SANDBOX: 1}
    assert found["forget → forget"].n == 23
    assert found["react → react"].cell.missing == 1
    assert found["base → react"].rungs == ("none",)


def test_tokens_that_were_not_counted_are_unknown_everywhere(tmp_path: Path) -> None:
    for adapter in (Adapter.PERSISTENT, Adapter.FORGET):
        write_made_cell(tmp_path, adapter, FORGET, lambda i: Made(1.0 - i / 20, prompt=None if i == 3 else 9), count=6)
    report = build_report(tmp_path)
    first, second = report.groups[0].figures
    assert (first.tokens, first.cached_share) == (None, pytest.approx(4 / 9))
    assert first.completion_tokens is not None
    assert first.completion_tokens.value == 300
    assert [comparison.tokens for comparison in report.groups[0].comparisons] == [None]
    assert any("the tokens of 1 episode are not known" in note for note in report.groups[0].notes)
    assert "times the tokens" not in " ".join(report.groups[0].headline)
    assert json.loads((tmp_path / "report/report.json").read_text())["groups"][0]["cells"][0]["tokens"] is None
    screen = StringIO()
    print_report(report, Console(file=screen, width=120))
    assert "–" in screen.getvalue()  # noqa: RUF001
    assert second.tokens is None


def test_floor_and_oracle_are_those_of_the_same_tasks(run: Path, tmp_path: Path) -> None:
    config = write_made_cell(tmp_path / "two", Adapter.BASE, REACT, lambda _: Made(0.5), count=5)
    tasks = config.tasks.load()
    write_tasks(tmp_path / "tasks", tasks)
    figures = cell_figures(read_results(tmp_path / "two")[0])
    scores = [reference_scores(task) for task in load_tasks(tmp_path / "tasks")]
    assert figures.floor == pytest.approx(sum(score["blind"] for score in scores) / 5)
    assert figures.oracle == pytest.approx(sum(score["oracle"] for score in scores) / 5)
    assert figures.corrected is not None
    assert figures.corrected.value == pytest.approx((0.5 - figures.floor) / (figures.oracle - figures.floor))


def test_a_reference_that_not_every_task_has_is_left_out(tmp_path: Path) -> None:
    write_made_cell(tmp_path, Adapter.BASE, REACT, lambda _: Made(0.5), count=2)
    cell = tmp_path / "base-react-mini/cell.json"
    shown = []
    for text in (cell.read_text(), re.sub(r',\s*"best": [0-9.]+', "", cell.read_text(), count=1)):
        cell.write_text(text)
        print_report(build_report(tmp_path), Console(file=(screen := StringIO()), width=120))
        shown.append("best known player" in screen.getvalue())
        assert "blind (the floor)" in screen.getvalue()
    assert shown == [True, False]


def test_the_headline_says_what_mismatch_cost_and_hedges(run: Path) -> None:
    group = make_report("r", read_results(run)).groups[0]
    first, second, reached, below = group.headline
    assert first.startswith("Running the persistent adapter in the forget runtime, in place of the adapter trained for")
    assert "cost 34.3 points of optimality (" in first
    assert "took 0.97 times the tokens (0.97 to 0.98)" in first
    assert "missed a variable in 73.9 % of episodes (" in first
    assert "(23 tasks, 95 % intervals)" in first
    assert second.startswith("Running the forget adapter in the persistent runtime")
    assert "left undecided whether optimality changes (+0.0 points" in second, "24 equal tasks prove no equivalence"
    assert re.search(r"took 4\.\d\d times the tokens \(4\.\d\d to 4\.\d\d\)", second)
    assert "match: solved 12 of 24 (persistent), 11 of 23 (forget), 11 of 23 (react)." in reached
    assert "The untrained base: solved 0 of 24 (persistent), 0 of 24 (forget), 0 of 24 (react)." in reached
    assert below == "Below what blind taking reaches on these tasks: base → persistent, base → forget, base → react."


def test_what_is_missing_is_told(run: Path, tmp_path: Path) -> None:
    (run / "react-react-mini" / "knapsack-mini-strict-s123456789-00000.trace.json").write_text("{")
    write_made_cell(run, Adapter.BASE, PERSISTENT, lambda _: Made(0.3), 24, limits={"turns": 9}, name="again")
    notes = " ".join(make_report("r", read_results(run)).groups[0].notes)
    assert "Not graded by a failure of ours, and in no figure: forget → forget 1 (sandbox 1)." in notes
    assert "react → react: 2 tasks not played yet" in notes
    assert "unreadable, left out: knapsack-mini-strict-s123456789-00000.trace.json: no valid JSON" in notes
    assert "Cells in the persistent runtime differ in limits: " in notes
    assert "base → persistent was measured 2 times" in notes


def test_cells_on_different_tasks_are_never_compared(run: Path) -> None:
    write_made_cell(run, Adapter.PERSISTENT, PERSISTENT, lambda _: Made(), 4, Difficulty.EASY)
    report = make_report("r", read_results(run))
    assert len(report.groups) == 2
    easy = next(group for group in report.groups if "easy" in group.title)
    assert easy.comparisons == ()
    assert easy.headline[0].startswith("No adapter was run both")
    cells = {cell.name: cell for cell in read_results(run)}
    with pytest.raises(UserError, match="no graded task in common"):
        compare_cells(cells["persistent-persistent-easy"], cells["persistent-persistent-mini"])


def test_one_episode_has_no_interval_anywhere(tmp_path: Path) -> None:
    for adapter in (Adapter.PERSISTENT, Adapter.FORGET):
        write_made_cell(tmp_path / "one", adapter, FORGET, lambda _: Made(0.8), count=1)
    report = build_report(tmp_path / "one")
    page = (tmp_path / "one/report/report.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| persistent → forget |"))
    assert " to " not in row
    assert "changed one score by +0.0 points, which shows nothing" in report.groups[0].headline[0]
    assert "one episode, so no interval" in " ".join(report.groups[0].notes)


def test_a_cell_without_a_graded_episode_is_shown_as_such(tmp_path: Path) -> None:
    write_made_cell(tmp_path / "none", Adapter.BASE, REACT, lambda _: Made(failure=Origin.MODEL), count=3)
    build_report(tmp_path / "none")
    row = next(
        line for line in (tmp_path / "none/report/report.md").read_text().splitlines() if "base → react |" in line
    )
    assert "| 0/0 |" in row
    assert "| 3 (model 3) |" in row


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = StringIO()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text.write(data)


def test_the_page_is_one_file_without_script_or_anything_from_elsewhere(built: Path) -> None:
    source = (built / "report/index.html").read_text()
    page = Page()
    page.feed(source)
    assert [link for link in page.links if not link.startswith("#")] == []
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    assert "@import" not in source
    assert re.findall(r"url\((?!#)", source) == []
    assert page.tags.count("svg") == 4, "two plots, light and dark"
    assert page.tags.count("table") == 2
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert '<html lang="en">' in source
    assert "prefers-color-scheme: dark" in source
    text = page.text.getvalue()
    for label in ("persistent → forget", "base → react", "missing %", "oracle %"):
        assert label in text


def test_words_from_files_cannot_become_markup(run: Path) -> None:
    (run / "react-react-mini" / "<img src=x>.trace.json").write_text("{")
    build_report(run)
    assert "<img src=x>" not in (run / "report/index.html").read_text()


def test_pictures_are_written_and_hold_every_cell(built: Path) -> None:
    run = built
    for name in ("optimality", "tokens"):
        drawing = ET.fromstring((run / f"report/{name}.svg").read_text())
        words = " ".join(drawing.itertext())
        for cell in read_results(run):
            assert cell.label in words
        assert (run / f"report/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "floor" in " ".join(ET.fromstring((run / "report/optimality.svg").read_text()).itertext())


def test_the_same_results_give_the_same_files(built: Path, tmp_path: Path) -> None:
    build_report(built, tmp_path / "b")
    for path in (built / "report").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_figures_are_there_for_programs(built: Path) -> None:
    figures = json.loads((built / "report/report.json").read_text())
    assert figures["schema"] == "keepstate.report.v1"
    cell = next(c for c in figures["groups"][0]["cells"] if c["name"] == "persistent-forget-mini")
    assert cell["missed"]["value"] == 0.75
    assert cell["optimality"]["n"] == 24


def test_the_terminal_table_fits_eighty_columns(run: Path) -> None:
    screen = StringIO()
    print_report(make_report("r", read_results(run)), Console(file=screen, width=80))
    lines = screen.getvalue().splitlines()
    row = next(line for line in lines if line.startswith("persistent → forget"))
    assert row.split()[3:] == ["0/24", "60.0", *row.split()[5:]]
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("blind (the floor)") for line in lines)


def test_markdown_tables_are_whole(built: Path) -> None:
    for block in (built / "report/report.md").read_text().split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().splitlines()}) == 1


def test_report_command(run: Path) -> None:
    result = CliRunner().invoke(report_command.command, [str(run)])
    assert result.exit_code == 0, result.output
    assert "persistent → persistent" in result.stdout
    assert f"report: {run}/report/index.html" in result.stderr


@pytest.mark.parametrize(("content", "message"), [(None, "no such folder"), ([], "no benchmark results in")])
def test_a_folder_without_results_is_refused(content: list[str] | None, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if content is not None:
        folder.mkdir()
    with pytest.raises(UserError, match=message):
        build_report(folder)


def test_compare_command(run: Path, tmp_path: Path) -> None:
    arguments = [str(run / "forget-persistent-mini"), str(run / "persistent-persistent-mini")]
    result = CliRunner().invoke(compare_command.command, arguments)
    assert result.exit_code == 0, result.output
    assert "forget-persistent-mini vs persistent-persistent-mini (24 tasks in common)" in result.stdout
    assert "within 5 points: p = " in result.stdout
    rows = json.loads(CliRunner().invoke(compare_command.command, [*arguments, "--json"]).stdout)
    assert rows[0]["tokens"]["value"] > 4
    whole = json.loads(CliRunner().invoke(compare_command.command, [str(run), str(run), "--json"]).stdout)
    assert len(whole) == 8
    assert {row["optimality"]["difference"]["value"] for row in whole} == {0.0}
    write_made_cell(tmp_path / "other", Adapter.BASE, REACT, lambda _: Made(), 2, Difficulty.EASY)
    result = CliRunner().invoke(compare_command.command, [str(run), str(tmp_path / "other")])
    assert isinstance(result.exception, UserError)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "keepstate.cell.v0"}', '{"schema": "keepstate.cell.v1"}'])
def test_a_broken_cell_file_is_named(content: str, run: Path) -> None:
    (run / "react-react-mini" / "cell.json").write_text(content)
    with pytest.raises(UserError, match=r"react-react-mini/cell\.json: not a keepstate\.cell\.v1 file"):
        build_report(run)
