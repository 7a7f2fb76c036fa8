"""What the pages point to is there: paths, links, commands; and what they say can be typed does what it should."""

import importlib.util
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typed import OPTION, find, options_of, wrong_commands

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "train/*.md", "benchmarks/**/*.md", "results/*/README.md")
    for page in ROOT.glob(pattern)
)
PAGES.remove(ROOT / "CHANGELOG.md")  # of its day
RUN = [page for page in PAGES if "<!-- run -->" in page.read_text()]
PATH = re.compile(r"`((?:keepstate|tests|train|benchmarks|docs|locks)/[^` ]*)`")
BLOCK = re.compile(r"<!-- run -->\n\n((?:    .*\n)+)")
"""Commands that a test runs, in the order of the page."""
FILE = re.compile(r'```json title="(.+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
"""A file that they read."""
TYPED = re.compile(r"^ {4}((?:keepstate|make) [a-z].*?)(?: +#.*)?$", re.MULTILINE)
"""A line of a block, without what is said of it."""
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_on_a_page_are_there(page: Path) -> None:
    text = re.sub(r"\\\n +", "", page.read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in [*TYPED.findall(text), *re.findall(r"`(keepstate [a-z][^`]*)`", text)]:
        if line.startswith("make "):
            words = [word for word in line.split()[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
            made = {word for word in words if re.match(r"(traces|train|bench)-", word)}
            assert set(words) - made <= targets, line
            continue
        assert list(wrong_commands(line)) == [], line
        command = find(re.findall(r"[a-z]+", re.split(r" [-A-Z{/.0-9<~]| \w*[._/]", line)[0])[1:])
        if command is not None:
            assert set(OPTION.findall(line.partition(", then")[0])) <= options_of(command), line


def test_every_page_has_its_place_on_the_site() -> None:
    """The strict build says so too, minutes later."""
    placed = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    there = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    beside = {"training.md", "gpu-results.md", "contributing.md", "changelog.md", "reference/commands.md"}
    parts = ("results", "navigation", "navigation-base", "rule-diagnosis", "second-round", "laptop")
    beside |= {f"study-{part}.md" for part in parts}
    assert set(placed) == there | beside
    assert len(placed) == len(set(placed))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_says_runs(page: Path, tmp_path: Path) -> None:
    for name, text in FILE.findall(page.read_text()):
        (tmp_path / name).write_text(text)
    script = "set -ex\n" + "".join(BLOCK.findall(page.read_text()))
    env = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_shows_the_cells_of_the_study() -> None:
    spec = importlib.util.spec_from_file_location("effect", ROOT / "docs" / "pictures" / "effect.py")
    assert spec is not None
    assert spec.loader is not None
    effect = sys.modules["effect"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(effect)
    assert effect.picture() == effect.PICTURE.read_text(), "run: python docs/pictures/effect.py"
    assert [(row.trained, row.played) for row in effect.rows()] == [
        ("persistent", "persistent"),
        ("forget", "persistent"),
        ("forget", "forget"),
        ("persistent", "forget"),
    ]
