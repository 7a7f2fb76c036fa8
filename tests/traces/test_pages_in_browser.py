"""Pages of traces in a real browser: nothing of a trace runs, keys and filters do, everybody can read them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from in_browser import address, started, visiting
from made_pages import forgetful_trace, hostile_trace, write_runs

from keepstate.traces import write_trace
from keepstate.traces.pages import PageServer, build, write_pages
from keepstate.vocabulary import RuntimeName

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

TASK = "tasks/knapsack-t0.html"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 episodes in three folders: more rows than this index shows at first."""
    folder = tmp_path_factory.mktemp("pages")
    runs = write_runs(folder / "runs", tasks=12)
    write_trace(runs / "again", forgetful_trace(RuntimeName.FORGET))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "ROWS_AT_FIRST", 20)
        write_pages([runs], folder / "out")
    return folder / "out"


@pytest.mark.parametrize("served", [False, True])
def test_nothing_that_a_trace_holds_runs_or_leaves(browser: "Browser", served: bool, tmp_path: Path) -> None:
    for runtime in (RuntimeName.PERSISTENT, RuntimeName.REACT):
        write_trace(tmp_path / "runs" / runtime, hostile_trace(runtime))
    out = tmp_path / "out"
    write_pages([tmp_path / "runs"], out)
    with PageServer(out, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = server.url if served else f"{address(out)}/"
        with visiting(browser, base) as page:
            for path in sorted(out.rglob("*.html")):
                page.goto(base + path.relative_to(out).as_posix())
                page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
                page.mouse.move(300, 300)
                page.keyboard.press("j")
                page.wait_for_timeout(100)
                assert page.title() not in ("ran", "1")
                assert page.locator("img, iframe, base, svg[onload], [onmouseover], main script").count() == 0
                assert "<script>document.title='ran'</script>" in (page.text_content("body") or "")
        server.shutdown()


def test_keys_go_from_turn_to_turn_to_errors_and_to_the_first_missing_variable(browser: "Browser", pages: Path) -> None:
    with visiting(browser, address(pages)) as page:
        page.goto(address(pages / TASK) + "#show=0,1")

        def after(key: str) -> str:
            page.keyboard.press(key)
            return str(page.evaluate("document.activeElement.id"))

        assert [after(key) for key in "jjnpk"] == ["t0", "t1", "t2", "t1", "t0"]
        assert after("e") == "t1"
        after("e")
        assert page.text_content("#said") == "no further error"
        after("j")
        assert after("m") == "t1"


def test_columns_are_chosen_by_the_address_and_by_boxes(browser: "Browser", pages: Path) -> None:
    with visiting(browser, address(pages)) as page:
        page.goto(address(pages / TASK) + "#show=0,2")
        shown = "document.querySelectorAll('#t0 > :not([hidden])').length"
        assert page.evaluate(shown) == 2
        page.get_by_role("checkbox").nth(1).check()
        assert page.evaluate(shown) == 3


def test_the_index_searches_filters_sorts_and_opens(browser: "Browser", pages: Path) -> None:
    with visiting(browser, address(pages)) as page:
        page.goto(address(pages / "index.html"))
        rows = page.locator("tbody tr:visible")
        assert (page.text_content("#said"), rows.count()) == ("25 of 25 episodes match", 20)
        page.get_by_role("button", name="Show 5 more").click()
        assert rows.count() == 25
        page.get_by_label("result").select_option("solved")
        assert rows.count() == 12
        page.get_by_label("result").select_option("")
        page.get_by_label("Search").fill("t1 nameerror")
        assert page.text_content("#said") == "3 of 25 episodes match"
        page.goto(address(pages / "index.html") + "#runtime=persistent&q=t1")
        assert rows.count() == 3
        page.get_by_role("button", name="score").click()
        page.get_by_role("button", name="task", exact=True).click()
        page.get_by_role("button", name="task", exact=True).click()
        assert (rows.first.locator("a").first.text_content() or "") == "knapsack-t11"
        rows.first.get_by_role("link", name="side by side").click()
        assert page.url == address(pages / "tasks/knapsack-t11.html") + "#show=0,1"
        page.get_by_role("link", name="forget").first.click()
        assert page.url == address(pages / "episodes/forget/knapsack-t11.html")


def test_all_is_there_without_script(browser: "Browser", pages: Path) -> None:
    with visiting(browser, address(pages), java_script_enabled=False) as page:
        page.goto(address(pages / "index.html"))
        assert page.locator("tbody tr:visible").count() == 25
        page.locator("tbody a").first.click()
        assert page.locator(".turn:visible").count() == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_them(browser: "Browser", pages: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    settings = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    with visiting(browser, address(pages), **settings) as page:
        for place in ("index.html#q=t1", TASK, "episodes/forget/knapsack-t0.html"):
            page.goto(address(pages) + "/" + place)
            found = Axe().run(page).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
