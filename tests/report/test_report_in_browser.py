"""The report's page and the live page in a real browser: they load, sort, filter, switch and open, for everybody."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from in_browser import address, started, visiting
from made_results import Made, write_made_cell

from keepstate.live import LiveRow, LiveView, write_page
from keepstate.report import build_report
from keepstate.report.matrix import METRICS
from keepstate.train.progress import loss_curve
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

PERSISTENT, FORGET, REACT = RuntimeName
TASKS = 60


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cells of 60 tasks with pages of their traces: more rows than the table shows at once."""
    run = tmp_path_factory.mktemp("run")
    lost = Made(0.5, 5, 1_500, error_type="NameError", reason=FinishReason.TURN_LIMIT)
    hostile = Made(0.1, error_type="</script><img src=x onerror=alert(1)>")
    for adapter, runtime in ((PERSISTENT, PERSISTENT), (FORGET, FORGET), (PERSISTENT, FORGET), ("base", REACT)):
        made: list[Made | None] = [Made(1 - i / 100) if adapter == runtime else lost for i in range(TASKS)]
        made[8:10] = [hostile, Made(failure=Origin.SANDBOX)]
        write_made_cell(run, adapter, runtime, made.__getitem__, TASKS)
    build_report(run, pages=True)
    return run / "report"


def test_rows_are_found_sorted_and_lead_to_their_traces(browser: "Browser", report: Path) -> None:
    with visiting(browser, address(report)) as page:
        page.goto(address(report / "index.html"))
        rows, said = page.locator("#episodes-table tbody tr"), page.locator("#episodes-table [role=status]")
        assert (rows.count(), said.text_content()) == (100, "1 to 100 of 240")
        page.get_by_role("button", name="Next").click()
        assert said.text_content() == "101 to 200 of 240"
        page.get_by_role("search").get_by_label("cell").select_option("=persistent → forget")
        assert said.text_content() == "1 to 60 of 60"
        page.get_by_role("search").get_by_label("errors").select_option("=NameError")
        assert said.text_content() == "1 to 58 of 58"
        page.get_by_role("search").get_by_label("errors").select_option("any")
        page.get_by_role("search").get_by_label("cell").select_option("any")
        page.get_by_role("button", name="score").click()
        assert page.locator("th[aria-sort=ascending]").text_content() == "score"
        assert "0.100" in (rows.first.text_content() or "")
        page.get_by_label("task holds").fill("-00007")
        assert rows.count() == 4
        rows.first.get_by_role("link").click()
        assert "/traces/episodes/" in page.url
        page.get_by_role("link", name="side by side").first.click()
        assert "/traces/tasks/" in page.url
        assert page.locator("#t0 > :not([hidden])").count() >= 2


def test_the_matrix_shows_the_chosen_metric_and_claims_lead_to_figures(browser: "Browser", report: Path) -> None:
    with visiting(browser, address(report)) as page:
        page.goto(address(report / "index.html"))
        for metric in METRICS:
            page.locator(f"[name=group-1-metric][value={metric.key}]").check()
            assert [table.get_attribute("class") for table in page.locator(".matrix table:visible").all()] == [
                f"is-{metric.key}"
            ]
        page.locator(".headline a").first.click()
        assert page.evaluate("document.querySelector(':target').tagName") == "TR"


def test_all_figures_are_there_without_script(browser: "Browser", report: Path) -> None:
    with visiting(browser, address(report), java_script_enabled=False) as page:
        page.goto(address(report / "index.html"))
        assert page.locator("svg.drawing:visible").count() == 4
        assert page.locator(".headline:visible").count() == 1
        assert page.locator("#group-1-cells tbody tr:visible").count() == 4


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a run that is at work."""
    place = tmp_path_factory.mktemp("live") / "live.html"
    rows = [LiveRow(f"cell-{number}-" + 30 * "x", number, 9, (f"{number}/9", "12", "80 %")) for number in range(4)]
    curves = [loss_curve("forget", [(step, 3 / step) for step in range(1, 50)])]
    view = LiveView("12/36 episodes; 4 open", ("cell", "episodes", "tokens", "cached"), rows, ["t1: lost"], curves)
    write_page(place, view)
    return place


def test_a_live_page_looks_again_until_its_work_is_over(browser: "Browser", live: Path, tmp_path: Path) -> None:
    page_at, view = tmp_path / "live.html", LiveView("1/2")
    with pytest.MonkeyPatch.context() as patch, visiting(browser, address(tmp_path)) as page:
        patch.setattr("keepstate.live.SECONDS_BETWEEN_PAGES", 0.2)
        write_page(page_at, view)
        page.goto(address(page_at))
        write_page(page_at, LiveView("2/2"), ended="ended")
        page.get_by_text("2/2").wait_for()
        assert "ended" in page.title()
        write_page(page_at, LiveView("3/2"))
        time.sleep(0.5)
        assert page.get_by_text("3/2").count() == 0, "a page of what is over stays as it is"
    with visiting(browser, address(tmp_path)) as page:
        page_at.write_text(live.read_text().replace('data-written="', 'data-written="-'))
        page.goto(address(page_at))
        assert "the process may be gone" in (page.text_content("#age") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_them(browser: "Browser", report: Path, live: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    settings = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    for place in (report / "index.html", live):
        with visiting(browser, address(place.parent), **settings) as page:
            page.goto(address(place))
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            found = Axe().run(page).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            sizes = """[...document.querySelectorAll("svg text")].map((each) => {
                const { ownerSVGElement: svg } = each;
                return parseFloat(getComputedStyle(each).fontSize) * svg.clientWidth / svg.viewBox.baseVal.width;
            })"""
            assert min(page.evaluate(sizes)) >= 10, "no plot is scaled until nobody can read it"
