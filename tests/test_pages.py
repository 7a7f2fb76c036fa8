"""What the pages point to is there: paths, links, the files of the ten-minute tour."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "train/*.md", "benchmarks/**/*.md") for page in ROOT.glob(pattern)
)
PAGES.remove(ROOT / "CHANGELOG.md")  # of its day
PATH = re.compile(r"`((?:keepstate|tests|train|benchmarks|docs|locks)/[^` ]*)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """What a link may point to within a page: its headings, as hosts of Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for path in PATH.findall(text):
        assert list(ROOT.glob(re.sub(r"<\w+>", "*", path))), path
    for target, anchor in LINK.findall(text):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_the_tour_names_files_that_are_there() -> None:
    """In a cell of its table, a bare name is a sibling of the path before it, or within that folder."""
    table = [line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")]
    for cell in (cell for line in table for cell in line.split("|")):
        paths = re.findall(r"`([\w./<>*]+(?:\.py|/|\.jinja|\.yaml))`", cell)
        for path in paths:
            places = [ROOT, ROOT / "keepstate", (ROOT / paths[0]).parent, ROOT / paths[0]]
            assert any(list(place.glob(re.sub(r"<\w+>", "*", path))) for place in places), path
