"""Reports from results on disk: figures, words, pages and pictures, whole and offline."""

import base64
import csv
import hashlib
import html as html_lib
import io
import json
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from dataclasses import asdict
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from made_results import Made, write_made_cell
from pyarrow import parquet
from pydantic import TypeAdapter
from rich.console import Console

from keepstate import display
from keepstate.bench.benchmark_config import TaskSource, read_benchmark_config
from keepstate.bench.cells import make_cell
from keepstate.bench.results import read_results
from keepstate.cli import compare as compare_command
from keepstate.cli import main
from keepstate.cli import report as report_command
from keepstate.errors import UserError
from keepstate.files import content_hash, parse_json
from keepstate.report import build_report, compare_cells, episodes, latex, make_report
from keepstate.report.behind import commands_of, endings_by_cell, errors_by_cell, pairs_of, settings_of_cells
from keepstate.report.entries import ReportFile
from keepstate.report.figures import cell_figures
from keepstate.report.matrix import METRICS, STEPS, heat_map
from keepstate.report.plots import PLOTS
from keepstate.report.sentences import Table
from keepstate.report.significance import Conclusion
from keepstate.report.tables import markdown, print_comparison, print_report
from keepstate.tasks import reference_scores
from keepstate.tasks.store import load_tasks, write_tasks
from keepstate.traces.summary import write_summaries
from keepstate.traces.writer import remove_trace
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

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

    def cell(adapter: str, runtime: RuntimeName, made: list[Made | None]) -> None:
        write_made_cell(folder, adapter, runtime, lambda i: made[i], n)

    good = [Made(1.0 if i % 2 else 0.9, 3, 500 + i) for i in range(n)]
    slow = [Made(1.0 if i % 2 else 0.9, 5, 1_500 + 7 * i) for i in range(n)]
    lost = [Made(0.5 if i % 4 else 0.9, 5, 1_500 + 3 * i, error_type="NameError" if i % 4 else None) for i in range(n)]
    cell("persistent", PERSISTENT, list(good))
    cell("forget", PERSISTENT, list(slow))
    cell("persistent", FORGET, list(lost))
    cell("forget", FORGET, [*slow[:-1], Made(failure=Origin.SANDBOX)])
    cell("react", REACT, [*good[:-1], None])
    for runtime in RuntimeName:
        cell("base", runtime, [Made(0.0, 6, 900, reason=FinishReason.TURN_LIMIT)] * n)
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
    assert mixed.cell.fit == "mismatched"
    assert mixed.rungs == ("namespaces",)
    assert found["forget → forget"].cell.not_graded == {Origin.SANDBOX: 1}
    assert found["forget → forget"].n == 23
    assert found["react → react"].cell.missing == 1
    assert found["base → react"].rungs == ("none",)


def test_tokens_that_were_not_counted_are_unknown_everywhere(tmp_path: Path) -> None:
    for adapter in ("persistent", "forget"):
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
    screen = io.StringIO()
    print_report(report, Console(file=screen, width=120))
    assert "–" in screen.getvalue()  # noqa: RUF001
    assert second.tokens is None


def test_floor_and_oracle_are_those_of_the_same_tasks(run: Path, tmp_path: Path) -> None:
    config = write_made_cell(tmp_path / "two", "base", REACT, lambda _: Made(0.5), count=5)
    tasks = config.tasks.load()
    write_tasks(tmp_path / "tasks", tasks)
    figures = cell_figures(read_results(tmp_path / "two")[0])
    scores = [reference_scores(task) for task in load_tasks(tmp_path / "tasks")]
    assert figures.floor == pytest.approx(sum(score["blind"] for score in scores) / 5)
    assert figures.oracle == pytest.approx(sum(score["oracle"] for score in scores) / 5)
    assert figures.corrected is not None
    assert figures.corrected.value == pytest.approx((0.5 - figures.floor) / (figures.oracle - figures.floor))


def test_a_reference_that_not_every_task_has_is_left_out(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "base", REACT, lambda _: Made(0.5), count=2)
    cell = tmp_path / "base-react-mini/cell.json"
    shown = []
    for text in (cell.read_text(), re.sub(r',\s*"best": [0-9.]+', "", cell.read_text(), count=1)):
        cell.write_text(text)
        print_report(make_report("r", read_results(tmp_path)), Console(file=(screen := io.StringIO()), width=120))
        shown.append("\nbest " in screen.getvalue())
        assert "blind (the floor)" in screen.getvalue()
    assert shown == [True, False]


def test_the_headline_says_what_mismatch_cost_and_hedges(run: Path) -> None:
    group = make_report("r", read_results(run)).groups[0]
    first, second, reached, below, tied = group.headline
    assert "cannot be shown" in group.shows
    assert tied.startswith("Shown neither to differ nor to be equal: (")
    assert first.startswith("Running the persistent adapter in the forget runtime, in place of the adapter trained for")
    assert "cost 34.3 points of optimality (" in first
    assert "took 0.97 times the tokens on the median task (0.96 to 0.99)" in first
    assert "missed a variable in 73.9 % of episodes (" in first
    assert "(23 tasks, 95 % intervals)" in first
    assert second.startswith("Running the forget adapter in the persistent runtime")
    assert "left undecided whether optimality changes (+0.0 points" in second, "24 equal tasks prove no equivalence"
    assert re.search(r"took 4\.\d\d times the tokens on the median task \(4\.\d\d to 4\.\d\d\)", second)
    assert "match: solved 12 of 24 (persistent), 11 of 23 (forget), 11 of 23 (react)." in reached
    assert "The untrained base: solved 0 of 24 (persistent), 0 of 24 (forget), 0 of 24 (react)." in reached
    assert (
        below
        == "Below the floor, what playing blind reaches on these tasks: base → persistent, base → forget, base → react."
    )
    assert tied.startswith("Shown neither to differ nor to be equal: ("), "a tie is no equivalence"


def test_what_is_missing_is_told(run: Path, tmp_path: Path) -> None:
    (run / "react-react-mini" / "knapsack-mini-strict-s123456789-00000.trace.json").write_text("{")
    write_made_cell(run, "base", PERSISTENT, lambda _: Made(0.3), 24, limits={"turns": 9}, name="again")
    notes = " ".join(make_report("r", read_results(run)).groups[0].notes)
    assert "Not graded by a failure of ours, and in no figure: forget → forget 1 (sandbox 1)." in notes
    assert "react → react: 1 task not played yet;" in notes
    assert "unreadable, left out: knapsack-mini-strict-s123456789-00000.trace.json: no valid JSON" in notes
    assert "Cells in the persistent runtime differ in limits: " in notes
    labels = [figures.cell.label for figures in make_report("r", read_results(run)).groups[0].figures]
    assert len(set(labels)) == len(labels), "two cells of the base in one runtime are told apart"
    assert "base → persistent (again)" in labels


def test_cells_on_different_tasks_are_never_compared(run: Path) -> None:
    write_made_cell(run, "persistent", PERSISTENT, lambda _: Made(), 4, "easy")
    report = make_report("r", read_results(run))
    assert len(report.groups) == 2
    easy = next(group for group in report.groups if "easy" in group.title)
    assert easy.comparisons == ()
    assert easy.headline[0].startswith("In no runtime was an adapter run beside the one trained for that runtime")
    assert easy.shows.startswith("Without a comparison, 4 tasks show nothing of a difference")
    cells = {cell.name: cell for cell in read_results(run)}
    with pytest.raises(UserError, match="was not played on the tasks of"):
        compare_cells(cells["persistent-persistent-easy"], cells["persistent-persistent-mini"])


def test_one_episode_has_no_interval_anywhere(tmp_path: Path) -> None:
    for adapter in ("persistent", "forget"):
        write_made_cell(tmp_path / "one", adapter, FORGET, lambda _: Made(0.8), count=1)
    report = build_report(tmp_path / "one")
    page = (tmp_path / "one/report/report.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| persistent → forget |"))
    assert " to " not in row
    assert "changed one score by +0.0 points, which shows nothing" in report.groups[0].headline[0]
    assert "one task, so no interval" in " ".join(report.groups[0].notes)
    assert report.groups[0].shows.startswith("One task shows nothing of a difference: equivalence within 5 points")


def test_a_cell_without_a_graded_episode_is_shown_as_such(tmp_path: Path) -> None:
    write_made_cell(tmp_path / "none", "base", REACT, lambda _: Made(failure=Origin.MODEL), count=3)
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
        self.text = io.StringIO()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text.write(data)


def test_the_page_is_one_file_with_nothing_from_elsewhere(built: Path) -> None:
    source = (built / "report/index.html").read_text()
    page = Page()
    page.feed(source)
    assert [link for link in page.links if not link.startswith("#")] == []
    assert page.tags.count("script") == 2, "the rows, and what shows them"
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    assert "@import" not in source
    assert re.findall(r"url\((?!#)", source) == []
    assert page.tags.count("svg") == len(PLOTS) + len(make_report("r", read_results(built)).groups[0].comparisons)
    assert page.tags.count("table") == 7 + len(METRICS)
    ids = re.findall(r'\bid="([^"]+)"', source)
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.links} <= set(ids), "every link of the page leads somewhere"
    assert '<html lang="en">' in source
    assert "prefers-color-scheme: dark" in source
    text = page.text.getvalue()
    for label in ("persistent → forget", "base → react", "missing %", "oracle %"):
        assert label in text


def test_the_policy_of_the_page_allows_its_own_style_and_no_other(built: Path) -> None:
    source = (built / "report/index.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', source)
    for name in ("style", "script"):
        (own,) = re.findall(rf"<{name}>(.*?)</{name}>", source, re.DOTALL)
        allowed = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"; {name}-src 'sha256-{allowed}';" in html_lib.unescape(policy)
    assert html_lib.unescape(policy).startswith("default-src 'none';")
    assert not re.search(r'\sstyle="|\son[a-z]+="', source), "what the policy forbids"


def test_every_claim_of_the_headline_leads_to_its_figures(published: Path) -> None:
    group = make_report("r", read_results(published)).groups[0]
    cost = group.claims[0]
    assert (cost.table, cost.row) == (Table.COMPARISONS, 0)
    assert group.comparisons[0].first.label == "persistent → forget"
    assert {claim.table for claim in group.claims[2:]} == {Table.CELLS}


def test_the_matrix_holds_every_cell_with_the_base_first(published: Path) -> None:
    group = make_report("r", read_results(published)).groups[0]
    rows = {metric.key: dict(heat_map(group, metric)) for metric in METRICS}
    assert list(rows["optimality"]) == ["base", "persistent", "forget", "react"]
    mismatch, match, unplayed = (rows["missing"]["persistent"][place] for place in (1, 0, 2))
    assert unplayed is None, "persistent was not played in react"
    assert mismatch is not None
    assert match is not None
    assert (mismatch.text.split()[0], mismatch.shade, mismatch.matched) == ("75.0", 4, False)
    assert (match.text.split()[0], match.shade, match.matched) == ("0.0", 0, True)
    strongest = [cell.shade for row in rows["tokens"].values() for cell in row if cell]
    assert max(shade for shade in strongest if shade is not None) == STEPS - 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_of_the_matrix_can_be_read_on_every_shade(scheme: str) -> None:
    """The contrast that WCAG 2.2 asks of text: 4.5 at least."""
    style = (resources.files("keepstate.report") / "templates/report.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+);", part)) for part in style.split("@media", 2)[:2])
    colours = light | dark if scheme == "dark" else light
    for shade in range(STEPS):
        text = colours["on-strongest" if shade == STEPS - 1 else "text"]
        for kind in ("more", "less"):
            assert contrast(text, colours[f"{kind}-{shade}"]) >= 4.5, (kind, shade)


def contrast(one: str, other: str) -> float:
    """Of two colours, by WCAG."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_episode_is_a_row_for_programs_with_why_it_has_no_score(built: Path) -> None:
    with (built / "report/episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 24
    lost = [row for row in rows if row["status"].startswith("not")]
    assert [(row["cell"], row["status"], row["score"]) for row in lost] == [
        ("forget → forget", "not graded: sandbox", ""),
        ("react → react", "not played", ""),
    ]
    (missed,) = {row["errors"] for row in rows if row["missing variable"] == "yes"}
    assert missed == "NameError"
    table = json.loads(re.findall(r"episodes-data\">(.*?)</script>", (built / "report/index.html").read_text())[0])
    columns = [title for title, _ in table["columns"]]
    for row, shown in zip(rows, table["rows"], strict=True):
        for (title, numeric), value in zip(table["columns"], shown, strict=True):
            said = "" if value is None else str(value if numeric else table["texts"][value])
            assert said == row[title]
    assert columns[-1] == "finish reason"
    base = next(row for row in rows if row["cell"] == "base → react")
    assert (base["score"], base["finish reason"], base["tokens"]) == ("0.0", "turn_limit", "6000")


def test_no_word_of_a_model_is_a_formula_in_a_spreadsheet(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "rows_of", lambda _: [("=1+1", "@x", "-1", "\n=1", "Error", -1.5, None)])
    text = episodes.csv_of(make_report("r", read_results(published))).split("\n", 1)[1]
    assert text.startswith("'=1+1,'@x,'-1,\"'\n=1\",Error,-1.5,\n")


def test_a_word_of_a_model_that_is_no_unicode_goes_into_parquet(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "rows_of", lambda _: [("\ud800", *[None] * (len(episodes.HEAD) - 1))])
    episodes.write_parquet(make_report("r", read_results(published)), tmp_path / "episodes.parquet")
    assert parquet.read_table(tmp_path / "episodes.parquet").column("cell")[0].as_py() == "\\ud800"


def test_words_from_files_cannot_become_markup(run: Path) -> None:
    (run / "react-react-mini" / "<img src=x>.trace.json").write_text("{")
    build_report(run)
    assert "<img src=x>" not in (run / "report/index.html").read_text()


def test_what_stands_behind_the_figures_is_counted_and_joined_task_by_task(published: Path) -> None:
    group = make_report("r", read_results(published)).groups[0]
    head, rows = errors_by_cell(group)
    errors = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert errors["persistent → forget"] == {
        "cell": "persistent → forget",
        "no error": "6 (25 %)",
        "NameError": "18 (75 %)",
    }
    head, rows = endings_by_cell(group)
    endings = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert endings["base → react"] == {"cell": "base → react", "finished": "0", "turn_limit": "24 (100 %)"}
    pairs = pairs_of(group.comparisons[0])
    assert (pairs.before, pairs.after) == ("forget → forget", "persistent → forget")
    assert pairs.counts == {"worse": 17, "same": 6, "better": 0}, "every fourth task of 23 scores .9 in both"
    lines = re.findall("M[^M]+", dict(pairs.paths)["worse"])
    assert sorted(lines) == ["M30 10L190 70", "M30 22L190 70"], "from 1 and .9 to .5, each once"
    same, (head, rows) = settings_of_cells(group)
    assert dict(same)["versions.keepstate"]
    assert dict(same)["limits.turns"] == "40"
    assert {"runtime", "digest", "rungs"} <= set(head)
    assert len(rows) == 8


def test_rows_lead_to_the_pages_of_their_traces(tmp_path: Path) -> None:
    made = [Made(0.5), Made(failure=Origin.SANDBOX), None]
    write_made_cell(tmp_path, "base", REACT, lambda i: made[i], 3)
    result = CliRunner().invoke(report_command.command, [str(tmp_path), "--pages", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    source = (tmp_path / "out/index.html").read_text()
    table = json.loads(re.findall(r"episodes-data\">(.*?)</script>", source)[0])
    pages = [row[-1] if row[-1] is None else table["texts"][row[-1]] for row in table["rows"]]
    assert pages[2] is None, "not played"
    for page in pages[:2]:
        assert "<html" in (tmp_path / "out/traces" / unquote(page)).read_text()
        assert re.fullmatch(r"episodes/[\w%/.-]+", page)
    assert (tmp_path / "out" / re.findall(r'href="(traces/[^"]+)"', source)[0]).exists()


def test_a_task_whose_name_is_markup_stays_a_text(run: Path) -> None:
    hostile = "</script><img src=x onerror=alert(1)>\u2028]]>"
    cell = json.loads((run / "react-react-mini/cell.json").read_text())
    cell["tasks"][hostile] = {"hash": "0" * 64}
    (run / "react-react-mini/cell.json").write_text(json.dumps(cell))
    build_report(run)
    source = (run / "report/index.html").read_text()
    data = re.findall(r'id="episodes-data">(.*?)</script>', source)[0]
    assert hostile in json.loads(data)["texts"]
    assert not set("<>&") & set(data)
    assert "<img" not in source
    script = (resources.files("keepstate.report") / "templates/report.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval", script)


def test_pictures_are_written_and_hold_every_cell(built: Path) -> None:
    run = built
    for name in [plot.name for plot in PLOTS]:
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
    assert figures["schema"] == "keepstate.report.v2"
    cell = next(c for c in figures["groups"][0]["cells"] if c["name"] == "persistent-forget-mini")
    assert cell["missed"]["value"] == 0.75
    assert cell["optimality"]["n"] == 24
    documented = TypeAdapter(ReportFile).validate_python(figures)
    assert json.loads(json.dumps(asdict(documented))) == figures, "not as docs/reference/report.md has it"


def test_the_terminal_table_fits_eighty_columns(run: Path) -> None:
    screen = io.StringIO()
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
    assert {row["verdict"] for row in whole} == {"the same episodes"}
    write_made_cell(tmp_path / "other", "base", REACT, lambda _: Made(), 2, "easy")
    result = CliRunner().invoke(compare_command.command, [str(run), str(tmp_path / "other")])
    assert isinstance(result.exception, UserError)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "keepstate.cell.v0"}', '{"schema": "keepstate.cell.v1"}'])
def test_a_broken_cell_file_is_named(content: str, run: Path) -> None:
    (run / "react-react-mini" / "cell.json").write_text(content)
    with pytest.raises(UserError, match=r"react-react-mini/cell\.json: not a keepstate\.cell\.v1 file"):
        build_report(run)


def test_cells_of_one_adapter_are_told_apart_in_rows_headlines_and_comparisons(tmp_path: Path) -> None:
    for seed, score in ((1, 1.0), (2, 0.2), (3, 0.3)):
        name = f"persistent-seed{seed}"
        write_made_cell(tmp_path, "persistent", PERSISTENT, lambda _, s=score: Made(s), name=name, model=name)
    write_made_cell(tmp_path, "forget", PERSISTENT, lambda _: Made(0.5), name="forget")
    group = make_report("r", read_results(tmp_path)).groups[0]
    labels = [figures.cell.label for figures in group.figures]
    assert labels == [f"persistent → persistent (persistent-seed{i})" for i in (1, 2, 3)] + ["forget → persistent"]
    assert [c.second.label for c in group.comparisons] == labels[:3]
    for number, sentence in enumerate(group.headline[:3], start=1):
        assert f"trained for it (persistent-seed{number})" in sentence
    assert "12 of 12 (persistent, persistent-seed1), 0 of 12 (persistent, persistent-seed2)" in group.headline[3]
    rows = markdown(make_report("r", read_results(tmp_path)))
    assert rows.count("| forget → persistent vs persistent → persistent (persistent-seed") == 3


def test_runs_of_several_sampling_seeds_are_compared_seed_by_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        for adapter in ("persistent", "forget"):
            write_made_cell(tmp_path, adapter, FORGET, lambda _: Made(0.5), name=f"{adapter}-{seed}", seed=seed)
    group = make_report("r", read_results(tmp_path)).groups[0]
    assert [(c.first.label, c.second.label) for c in group.comparisons] == [
        (f"persistent → forget (seed {seed})", f"forget → forget (seed {seed})") for seed in (0, 1)
    ]


def test_one_adapter_in_two_runtimes_is_compared_model_by_model(tmp_path: Path) -> None:
    for model in ("one", "two"):
        for runtime in (PERSISTENT, FORGET):
            write_made_cell(
                tmp_path, "persistent", runtime, lambda _: Made(0.5), 3, name=f"{runtime}-{model}", model=model
            )
    group = make_report("r", read_results(tmp_path)).groups[0]
    assert [(c.first.label, c.second.label) for c in group.comparisons] == [
        (f"persistent → forget ({model})", f"persistent → persistent ({model})") for model in ("one", "two")
    ]


def test_a_terminal_without_arrows_and_a_folder_whose_name_is_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    write_made_cell(folder, "base", REACT, lambda _: Made(0.5), count=2)
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "argv", ["keepstate", "report", str(folder)])
    with pytest.raises(SystemExit, match="0"):
        main()
    screen.flush()
    assert b"base \\u2192 react" in screen.buffer.getvalue()  # type: ignore[attr-defined]
    assert (folder / "report/report.md").read_text().startswith("# \\udcff: what match")
    assert parse_json((folder / "report/report.json").read_bytes())["name"] == "\udcff"


def repeated(folder: Path) -> Path:
    """A folder of 4 tasks, each under three ids."""
    tasks = TaskSource(difficulty="mini", count=4).load()
    write_tasks(
        folder, [task.model_copy(update={"task_id": f"{task.task_id}-r{i}"}) for task in tasks for i in range(3)]
    )
    return folder


def test_repeats_of_a_task_are_averaged_and_count_once(tmp_path: Path) -> None:
    tasks = TaskSource(folder=repeated(tmp_path / "tasks"))
    write_made_cell(tmp_path / "run", "persistent", PERSISTENT, lambda i: Made(float(i % 3 == 0 or i < 6)), tasks=tasks)
    write_made_cell(tmp_path / "run", "forget", PERSISTENT, lambda i: Made(0.5), tasks=tasks)
    report = make_report("r", read_results(tmp_path / "run"))
    group = report.groups[0]
    assert "4 tasks" in group.title
    first = group.figures[0]
    assert first.optimality is not None
    assert (first.n, first.optimality.n) == (4, 4)
    assert first.optimality.value == pytest.approx(2 / 3)
    assert first.solved is not None
    assert (first.solved.value, first.solved.n) == (pytest.approx(2 / 3), 4)
    (comparison,) = group.comparisons
    assert comparison.n == 4
    assert comparison.optimality.difference.value == pytest.approx(0.5 - 2 / 3), "no episode is dropped"
    note = "Every cell: 12 graded episodes of 4 tasks: repeats of a task are averaged, and n counts tasks."
    assert [each for each in group.notes if "repeats" in each] == [note]
    cells = [str(tmp_path / "run" / f"{adapter}-persistent-mini") for adapter in ("forget", "persistent")]
    result = CliRunner().invoke(compare_command.command, cells)
    assert "12 graded episodes of 4 tasks: repeats of a task are averaged" in " ".join(result.stdout.split())


def test_cells_of_other_tasks_are_not_compared_and_what_differs_is_named(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "persistent", PERSISTENT, lambda _: Made(0.9), count=12)
    write_made_cell(tmp_path, "forget", PERSISTENT, lambda _: Made(0.5), count=14)
    (group,) = make_report("r", read_results(tmp_path)).groups
    assert "12 to 14 tasks" in group.title
    assert group.comparisons == ()
    names = ", ".join(
        sorted(path.name.split(".")[0] for path in (tmp_path / "forget-persistent-mini").glob("*.trace.json"))[-2:]
    )
    assert group.headline[0] == (
        "Nothing can be said of forget → persistent against persistent → persistent: their tasks are not the same,"
        " persistent → persistent lacks 2 tasks (" + names + ")."
    )
    assert "cells of other tasks are not compared" in " ".join(group.notes)
    cells = [str(tmp_path / f"{adapter}-persistent-mini") for adapter in ("persistent", "forget")]
    refused = CliRunner().invoke(compare_command.command, cells)
    assert isinstance(refused.exception, UserError)
    assert refused.exception.message == (
        "forget-persistent-mini was not played on the tasks of persistent-persistent-mini: it has beyond 2 tasks"
        f" ({names})"
    )


def test_what_could_not_be_compared_is_said_as_it_is(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "persistent", PERSISTENT, lambda i: Made(0.9) if i < 6 else None)
    write_made_cell(tmp_path, "forget", PERSISTENT, lambda i: Made(0.2) if i >= 6 else None)
    (group,) = make_report("r", read_results(tmp_path)).groups
    assert group.comparisons == ()
    assert group.headline[0] == (
        "Nothing can be said of forget → persistent against persistent → persistent: no task is graded in both"
        " (6 tasks and 6 tasks graded)."
    )
    assert "In no runtime" not in " ".join(group.headline)


@pytest.mark.parametrize(("count", "claimed"), [(3, False), (5, False), (6, True), (12, True)])
def test_a_claim_on_tokens_needs_an_interval(count: int, claimed: bool, tmp_path: Path) -> None:
    for adapter, prompt in (("persistent", 900), ("forget", 1800)):
        write_made_cell(tmp_path, adapter, PERSISTENT, lambda i, p=prompt: Made(0.9, prompt=p + 10 * i), count=count)
    (group,) = make_report("r", read_results(tmp_path)).groups
    assert ("times the tokens" in group.headline[0]) is claimed


def test_no_claim_on_tokens_where_the_interval_holds_one(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "persistent", PERSISTENT, lambda i: Made(0.9, prompt=1000))
    write_made_cell(tmp_path, "forget", PERSISTENT, lambda i: Made(0.9, prompt=20_000 if i == 3 else 990 + i))
    (group,) = make_report("r", read_results(tmp_path)).groups
    assert "token" not in group.headline[0]
    assert group.comparisons[0].tokens_in_all == pytest.approx(2.44, abs=0.1)


def test_the_report_says_what_its_tasks_can_show(tmp_path: Path) -> None:
    for adapter in ("persistent", "forget"):
        write_made_cell(
            tmp_path, adapter, FORGET, lambda i, a=adapter: Made([0.5, 0.9][i % 2 and a == "forget"]), count=10
        )
    report = make_report("r", read_results(tmp_path))
    (group,) = report.groups
    found = re.search(r"Equivalence within 5 points cannot be shown with 10 tasks: about (\d+) are needed", group.shows)
    assert found
    assert int(found[1]) == group.comparisons[0].optimality.tasks_needed
    assert int(found[1]) > 150
    assert group.shows in markdown(report)


@pytest.mark.parametrize(
    ("count", "spread", "words"),
    [
        (70, 0.0, "70 tasks are enough to show equivalence within 5 points"),
        (70, 0.3, "Equivalence within 5 points is hard to show in 1 of 1 comparisons with 70 tasks: about "),
        (50, 0.0, "Equivalence within 5 points cannot be shown with 50 tasks: about 59 are needed"),
    ],
)
def test_what_tasks_can_show_agrees_with_the_verdict(count: int, spread: float, words: str, tmp_path: Path) -> None:
    for adapter, way in (("persistent", 1), ("forget", -1)):
        write_made_cell(tmp_path, adapter, FORGET, lambda i, w=way: Made(0.5 + w * (-1) ** i * spread / 2), count=count)
    (group,) = make_report("r", read_results(tmp_path)).groups
    assert group.shows.startswith(words)
    assert (group.comparisons[0].verdict is Conclusion.EQUIVALENT) == ("are enough" in group.shows)


def test_references_are_those_of_the_graded_tasks(tmp_path: Path) -> None:
    config = write_made_cell(tmp_path, "base", REACT, lambda i: Made(0.5) if i in (2, 7) else None)
    tasks = [config.tasks.load()[i] for i in (2, 7)]
    (group,) = make_report("r", read_results(tmp_path)).groups
    blind = sum(reference_scores(task)["blind"] for task in tasks) / 2
    assert group.references["blind"] == pytest.approx(blind)
    assert group.figures[0].floor == pytest.approx(blind)
    screen = io.StringIO()
    print_report(make_report("r", read_results(tmp_path)), Console(file=screen, width=80))
    row = next(line for line in screen.getvalue().splitlines() if line.startswith("blind (the floor)"))
    assert row.split()[-2:] == ["0/2", f"{100 * blind:.1f}"]


@pytest.mark.parametrize("left", [("blind", "oracle"), ()])
def test_a_family_with_fewer_reference_policies(left: tuple[str, ...], tmp_path: Path) -> None:
    write_made_cell(tmp_path, "base", REACT, lambda _: Made(0.5), count=2)
    path = tmp_path / "base-react-mini" / "cell.json"
    cell = json.loads(path.read_text())
    for entry in cell["tasks"].values():
        for policy in [name for name in entry if name not in (*left, "hash")]:
            del entry[policy]
    path.write_text(json.dumps(cell))
    report = build_report(tmp_path)
    assert set(report.groups[0].references) == set(left)
    screen = io.StringIO()
    print_report(report, Console(file=screen, width=80))
    assert ("blind (the floor)" in screen.getvalue()) is ("blind" in left)
    assert "greedy" not in screen.getvalue()


def test_brackets_in_what_users_named_are_printed_as_they_are(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "base", REACT, lambda _: Made(0.3), 2)
    (tmp_path / "base-react-mini" / "[red] [bold]\x1b]0;x\x07.trace.json").write_text("{")
    path = tmp_path / "base-react-mini" / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"difficulty": "[/x] mini"}))
    again = write_made_cell(tmp_path, "base", REACT, lambda _: Made(0.3), 2, name="again", model="[/red]|m")
    report = make_report("[/r]", read_results(tmp_path))
    screen = io.StringIO()
    print_report(report, Console(file=screen, width=200))
    print_comparison(compare_cells(*read_results(tmp_path)), Console(file=screen, width=80))
    assert not {"\x1b", "\x07"} & set(screen.getvalue())
    for words in ("[red] [bold]\\x1b]0;x\\x07.trace.json", "[/x] mini", f"base → react ({again.model})"):
        assert words in screen.getvalue()
    for block in markdown(report).split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.strip().splitlines()}) == 1


def test_a_cell_compared_with_itself_is_named_as_such(run: Path, tmp_path: Path) -> None:
    cell = run / "base-react-mini"
    copy = Path(shutil.copytree(cell, tmp_path / "copy"))
    for other in (cell, copy):
        result = CliRunner().invoke(compare_command.command, [str(cell), str(other)])
        said = " ".join(result.stdout.split())
        assert "the same episodes on both sides: every difference is zero by construction" in said
        assert "undecided" not in said
        assert "(" not in said.partition("optimality")[2], "no interval"


def test_two_plays_without_a_difference_are_not_the_same_cell(tmp_path: Path) -> None:
    for run in ("a", "b"):
        write_made_cell(tmp_path / run, "base", REACT, lambda _: Made(0.5))
    (a,), (b,) = read_results(tmp_path / "a"), read_results(tmp_path / "b")
    comparison = compare_cells(a, b)
    assert comparison.verdict is Conclusion.UNDECIDED
    screen = io.StringIO()
    print_comparison(comparison, Console(file=screen, width=200))
    assert screen.getvalue().startswith("a/base-react-mini vs b/base-react-mini (12 tasks in common)")
    assert "the difference is the same on each of the 12 tasks; others may differ" in screen.getvalue()


def test_whole_runs_pair_every_cell_and_name_those_left_over(tmp_path: Path) -> None:
    for run in ("a", "b"):
        for seed in (0, 1):
            write_made_cell(tmp_path / run, "base", REACT, lambda _: Made(0.5), name=f"react-{seed}", seed=seed)
    write_made_cell(tmp_path / "a", "base", FORGET, lambda _: Made(0.5), name="alone")
    result = CliRunner().invoke(compare_command.command, [str(tmp_path / "a"), str(tmp_path / "b"), "--json"])
    assert [(row["first"], row["second"]) for row in json.loads(result.stdout)] == [
        ("react-0", "react-0"),
        ("react-1", "react-1"),
    ]
    assert "without their like in the other: alone" in result.stderr


def test_a_score_that_is_none_enters_no_figure(tmp_path: Path) -> None:
    bad = ["NaN", "-Infinity", "1e400", "true", '"0.7"', "1.0000001", "-0.1"]
    write_made_cell(tmp_path, "persistent", PERSISTENT, lambda _: Made(0.5), count=10)
    for score, path in zip(bad, sorted(tmp_path.glob("*/*.trace.json")), strict=False):
        path.write_text(re.sub(r'"score": [0-9.]+', f'"score": {score}', path.read_text()))
    report = build_report(tmp_path)
    (figures,) = report.groups[0].figures
    assert figures.n == 3
    assert figures.optimality is not None
    assert figures.optimality.value == 0.5
    assert len(figures.cell.unreadable) == len(bad)
    assert " ".join(report.groups[0].notes).count("unreadable, left out: knapsack-mini") == len(bad)
    parse_json((tmp_path / "report/report.json").read_text())


def test_an_episode_that_cannot_be_read_is_not_said_to_be_not_played(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "persistent", PERSISTENT, lambda i: None if i == 2 else Made(0.5), count=4)
    broken = sorted(tmp_path.glob("*/*.trace.json"))[0]
    broken.write_text(re.sub(r'"score": [0-9.]+', '"score": null', broken.read_text()))
    report = make_report("r", read_results(tmp_path))
    rows = list(csv.DictReader(io.StringIO(episodes.csv_of(report))))
    assert [row["status"] for row in rows] == ["unreadable", "graded", "not played", "graded"]
    notes = " ".join(report.groups[0].notes)
    assert "persistent → persistent: 1 task not played yet; the figures are of the others." in notes
    assert f"unreadable, left out: {broken.name}: verdict.score: Input should be a valid number (found null)" in notes


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("num_steps", "-3"),
        ("num_steps", "1" + 400 * "0"),
        ("errors", '{"NameError": -1}'),
        ("metrics", '{"weight": 1.7e308}'),
    ],
)
def test_what_no_mean_can_be_made_of_is_a_broken_file(place: str, value: str, tmp_path: Path) -> None:
    write_made_cell(tmp_path, "persistent", PERSISTENT, lambda _: Made(0.5), count=4)
    for path in sorted(tmp_path.glob("*/*.trace.json"))[:2]:
        path.write_text(re.sub(rf'"{place}": ?(\d+|{{[^}}]*}})', f'"{place}": {value}', path.read_text()))
    (cell,) = read_results(tmp_path)
    assert len(cell.episodes) == len(cell.unreadable) == 2
    assert all(place in reason for reason in cell.unreadable)
    make_report("r", [cell])
    write_summaries(cell.folder)


def test_an_error_that_was_counted_no_time_is_none(tmp_path: Path) -> None:
    write_made_cell(tmp_path, "persistent", PERSISTENT, lambda _: Made(0.5), count=4)
    path = next(tmp_path.glob("*/*.trace.json"))
    path.write_text(
        path.read_text()
        .replace('"errors": {}', '"errors": {"NameError": 0}')
        .replace('"errors":{}', '"errors":{"NameError":0}')
    )
    (cell,) = read_results(tmp_path)
    assert len(cell.episodes) == 4
    assert not any(episode.missed_variable for episode in cell.episodes)


def with_config(run: Path, name: str, **changes: object) -> None:
    """Change what a `cell.json` says of its config."""
    path = run / name / "cell.json"
    cell = json.loads(path.read_text())
    cell["config"] |= changes
    path.write_text(json.dumps(cell))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": "b" * 64}, "The adapter persistent was not played with the same weights in all cells"),
        ({"adapter_config": {"lora_alpha": 999}}, "The adapter persistent was not played with the same configuration"),
        ({"template": "b" * 64}, "The cells were played with different chat templates"),
        ({"kv_cache": "fp8"}, "The cells were played with different key-value caches"),
        ({"base": {"weights": "a" * 64, "tokenizer": "b"}}, "The cells were played on different base models"),
    ],
)
def test_one_adapter_with_other_contents_in_another_cell_is_said(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    known = {"weights": "a" * 64, "adapter_config": {"lora_alpha": 16}, "base": {"weights": "a" * 64, "tokenizer": "a"}}
    known |= {"template": "a" * 64, "kv_cache": "as-model"}
    for adapter, runtime in (("persistent", PERSISTENT), ("persistent", FORGET), ("forget", FORGET)):
        write_made_cell(tmp_path, adapter, runtime, lambda _: Made(0.5), count=2)
        weights = {"weights": "c" * 64} if adapter == "forget" else {}
        with_config(tmp_path, f"{adapter}-{runtime}-mini", **known | weights)
    assert "persistent was" not in "".join(make_report("r", read_results(tmp_path)).groups[0].notes)
    with_config(tmp_path, "persistent-forget-mini", **changes)
    assert sum(said in note for note in make_report("r", read_results(tmp_path)).groups[0].notes) == 1
    cells = [str(tmp_path / f"persistent-{runtime}-mini") for runtime in (PERSISTENT, FORGET)]
    assert said in " ".join(CliRunner().invoke(compare_command.command, cells).stdout.split())


def test_a_comparison_says_what_of_the_cells_is_in_no_figure(tmp_path: Path) -> None:
    lost = Made(failure=Origin.SANDBOX)
    write_made_cell(tmp_path / "a", "base", REACT, lambda i: [Made(), lost, None, Made()][i], count=4)
    write_made_cell(tmp_path / "b", "base", REACT, lambda _: Made(), count=4)
    min((tmp_path / "b").glob("*/*.trace.json")).write_text("{")
    cells = [str(tmp_path / run) for run in "ab"]
    printed = " ".join(CliRunner().invoke(compare_command.command, cells).stdout.split())
    (row,) = json.loads(CliRunner().invoke(compare_command.command, [*cells, "--json"]).stdout)
    for said in (
        "figure: base → react (a/base-react-mini) 1 (sandbox 1).",
        "base → react (a/base-react-mini): 1 task not played yet",
        "base → react (b/base-react-mini): unreadable, left out: knapsack-mini",
    ):
        assert said in printed
        assert said in " ".join(row["notes"])


def test_cells_without_a_common_task_say_how_much_of_them_there_is(run: Path) -> None:
    for path in (run / "react-react-mini").glob("*.trace.json"):
        path.write_text("{")
    cells = {cell.name: cell for cell in read_results(run)}
    words = r"react-react-mini \(0 of 24 tasks graded, 23 unreadable\) and base-react-mini \(24 of 24 tasks graded\)"
    with pytest.raises(UserError, match=words):
        compare_cells(cells["react-react-mini"], cells["base-react-mini"])


@pytest.mark.parametrize(
    "edit",
    [
        {"adapter": "a b"},
        {"trained_for": {"runtimes": ["reset"]}},
        {"family": "\ud800"},
        {"tasks": {"t": {"hash": "x", "blind": "high"}}},
        {"tasks": {"a\0b": {"hash": "x"}}},
        {"config": {"runtime": "react"}},
        {"config": {"runtime": "react", "seed": 0, "limits": {"turns": "40"}}},
        {"config": {"runtime": "react", "seed": 0, "limits": {"turns": 10**400}}},
        {"config": {"runtime": "react", "seed": 0, "limits": {}, "base": "qwen"}},
    ],
)
def test_a_cell_file_with_a_wrong_value_is_named(edit: dict[str, object], run: Path) -> None:
    path = run / "react-react-mini" / "cell.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(UserError, match=r"react-react-mini/cell\.json: not a keepstate\.cell\.v1 file: \w+") as caught:
        read_results(path.parent)
    assert "Value error" not in caught.value.message


@pytest.mark.parametrize("margin", ["nan", "inf", "0", "2"])
def test_a_margin_that_is_none_is_refused(margin: str, run: Path) -> None:
    result = CliRunner().invoke(report_command.command, [str(run), "--margin", margin])
    assert result.exit_code == 2
    assert "--margin" in result.output


def test_how_agents_use_their_runtimes_is_told_of_cells_and_of_mismatches(tmp_path: Path) -> None:
    for adapter, code in (("persistent", "print(x)"), ("forget", "import x\nprint(x)")):
        write_made_cell(tmp_path, adapter, PERSISTENT, lambda _, code=code: Made(code=code), 8)
    report = build_report(tmp_path)
    (group,) = report.groups
    found = {figures.cell.adapter: figures.behaviour for figures in group.figures}
    assert found["forget"].redundancy == pytest.approx(2 * 2 / (3 * 6))
    assert (found["persistent"].redundancy, found["persistent"].imports, found["forget"].imports) == (0, 0, 1)
    written = parse_json((tmp_path / "report/report.json").read_bytes())["groups"][0]
    assert {cell["adapter"]: cell["behaviour"]["imports"] for cell in written["cells"]} == {
        "persistent": 0,
        "forget": 1,
    }
    said = (
        "forget → persistent against persistent → persistent, on the median task: state use -0.67 (-0.67 to -0.67),"
        " imports an action +1.00 (+1.00 to +1.00), life of names -2.00 (-2.00 to -2.00), redundancy in points +22.2"
        " (+22.2 to +22.2)."
    )
    for page in ("report.md", "index.html"):
        assert said in (tmp_path / "report" / page).read_text()
    cells = [str(tmp_path / f"{adapter}-persistent-mini") for adapter in ("forget", "persistent")]
    shown = CliRunner().invoke(compare_command.command, cells)
    assert "redundancy in points +22.2" in " ".join(shown.output.split())
    alike = CliRunner().invoke(compare_command.command, [cells[0], str(shutil.copytree(cells[0], tmp_path / "copy"))])
    assert alike.exit_code == 0


def test_a_report_says_how_far_it_is_without_a_terminal(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0.001)
    build_report(published, tmp_path)
    said = capsys.readouterr().err
    assert re.search(r"reading episodes: \d+/192\n", said)
    assert re.search(r"figures of cells: \d/8\n", said)


def test_tables_for_a_paper_hold_every_cell_and_no_sign_that_latex_reads(run: Path) -> None:
    (group,) = build_report(run).groups
    lines = (run / "report/report.tex").read_text().splitlines()
    tables = [line for line in lines if " & " in line]
    assert {line.count(" & ") for line in tables} == {6, 5}, "seven columns of cells, six of comparisons"
    assert sum("$\\rightarrow$" in line for line in tables) == 8 + len(group.comparisons)
    assert r"& $0/24_{0.0}^{13.8}$ & $60.0_{49.8}^{69.3}$ & 24 &" in next(
        line for line in tables if line.startswith(r"persistent $\rightarrow$ forget & ")
    )
    assert any(
        line.startswith(r"\shortstack[l]{persistent $\rightarrow$ forget \\ vs forget $\rightarrow$ forget} & ")
        for line in tables
    )
    assert latex.escaped("a_b\n50 % & {x}^~\\ <→\x1b") == (
        r"a\_b 50 \% \& \{x\}\textasciicircum{}\textasciitilde{}\textbackslash{} $<$$\rightarrow$\textbackslash{}x1b"
    )


def test_parquet_is_refused_before_all_work_where_its_library_is_missing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pyarrow is not installed") as refused:
        build_report(published, tmp_path / "out", parquet=True)
    assert "pip install pyarrow" in refused.value.hint
    assert not (tmp_path / "out").exists()


def test_a_report_says_which_commands_play_its_cells_again(run: Path, tmp_path: Path) -> None:
    group = make_report("r", read_results(run)).groups[0]
    unknown, serve, again, _ = commands_of(group)
    assert unknown.endswith(" is not known: persistent, forget, react")
    assert serve == "keepstate serve --port 8000"
    played = [read_benchmark_config(Path(path)) for path in re.findall(r"\S+cell\.yaml", again)]
    assert {config.name for config in played} == {figures.cell.name for figures in group.figures}
    for config in played:
        digest = json.loads((run / config.name / "cell.json").read_text())["digest"]
        assert content_hash(make_cell(config, tmp_path).decisive) == digest
    build_report(run)
    assert html_lib.escape(again) in (run / "report/index.html").read_text()
    (run / "react-react-mini/cell.yaml").unlink()
    assert commands_of(make_report("r", read_results(run)).groups[0]) == []


def test_pages_of_traces_that_are_gone_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_made_cell(tmp_path / "run", "base", REACT, lambda _: Made(), 3)
    build_report(tmp_path / "run", tmp_path / "out", pages=True)
    assert "gone" not in capsys.readouterr().err
    remove_trace(next((tmp_path / "run").rglob("*.trace.json")))
    build_report(tmp_path / "run", tmp_path / "out", pages=True)
    assert "1 pages of episodes that are gone lie there still" in capsys.readouterr().err
