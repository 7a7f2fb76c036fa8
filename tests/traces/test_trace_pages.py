"""`traces view --web`: what a page shows is what the trace tells, and no text of a model's becomes part of the page."""

import http.client
import re
import tempfile
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from acted import acted
from click.testing import CliRunner, Result
from growth import assert_linear
from made_pages import ATTACKS, forgetful_trace, hostile_trace, with_results, write_runs
from made_traces import make_trace

from keepstate.cli.traces import command
from keepstate.errors import UserError
from keepstate.traces import write_trace
from keepstate.traces.pages import PageServer, page_of, write_pages
from keepstate.traces.pages.markup import MOST_CHARS, highlighted
from keepstate.traces.pages.turns import MOST_TURNS, HeldNames, MissingName, turns_of
from keepstate.traces.view import CONTROL
from keepstate.vocabulary import RuntimeName

TAGS = """html head meta link title style noscript body main nav a h1 h2 h3 p span kbd b fieldset legend label input
div section svg rect details summary dl dt dd pre code header article table thead tbody tr th td
ul li script form select option button"""


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_bytes().decode()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> list[str]:
        return [attrs["href"] or "" for tag, attrs in self.elements if tag == "a"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["view", *map(str, arguments)])


def test_names_grow_and_vanish_and_a_missing_one_names_the_turn_that_had_it() -> None:
    keeps = turns_of(forgetful_trace(RuntimeName.PERSISTENT))
    loses = turns_of(forgetful_trace(RuntimeName.FORGET))
    assert [turn.names for turn in keeps] == [
        HeldNames(("x",), (), ()),
        HeldNames((), ("x",), ()),
        HeldNames(("y",), ("x",), ()),
    ]
    assert [turn.names for turn in loses] == [
        HeldNames((), (), ("x",)),
        HeldNames((), (), ()),  # of a block that failed nobody knows what it had bound
        HeldNames((), (), ("y",)),
    ]
    assert [turn.missing for turn in loses] == [None, MissingName("x", 0), None]
    assert [turn.missed_variable for turn in loses] == [False, True, False]


def test_a_turn_is_its_thought_its_code_and_what_came_of_it() -> None:
    first, _, last = turns_of(forgetful_trace(RuntimeName.PERSISTENT))
    assert (first.before, first.code, first.after) == ("Step 0.", "x = 1", "")
    assert first.seen == (("output", "[]"),)
    assert (first.shown, last.shown) == (True, False)
    assert turns_of(with_results(make_trace(answers=["no code here"]), [acted()]))[0].before == "no code here"


def test_pages_have_stable_addresses_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs # 1?", tasks=2)
    (runs / "forget" / "broken.trace.json").write_text("{")
    written = write_pages([runs], tmp_path / "out")
    assert (written.start, written.episodes) == (tmp_path / "out" / "index.html", 4)
    assert [bad.path.name for bad in written.unreadable] == ["broken.trace.json"]
    trace = runs / "forget" / "knapsack-t1.trace.json"
    assert str(page_of(trace, runs)) == "episodes/forget/knapsack-t1.html"
    pages = sorted((tmp_path / "out").rglob("*.html"))
    assert len(pages) == 4 + 2 + 1
    for path in pages:
        for link in Page(path).links():
            place, _, anchor = link.partition("#")
            target = path.parent / unquote(place) if place else path
            assert target.is_file(), (path, link)
            if not place:
                assert f'id="{anchor}"' in path.read_text()


def test_the_episodes_of_a_task_stand_side_by_side_turn_by_turn(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs")
    written = write_pages([runs / "forget" / "knapsack-t0.trace.json", runs / "persistent"], tmp_path / "out")
    assert written.start == tmp_path / "out" / "tasks" / "knapsack-t0.html"
    page = Page(written.start)
    cells = [attrs for tag, attrs in page.elements if tag == "article"]
    assert [cell["data-column"] for cell in cells] == ["0", "1"] * 3
    assert ["data-missing" in cell for cell in cells] == [False, False, False, True, False, False]
    assert "x had no value: turn 0 had defined it" in page.text
    alone = Page(tmp_path / "out" / page_of(runs / "forget" / "knapsack-t0.trace.json", runs))
    assert "../../tasks/knapsack-t0.html#show=0,1" in alone.links()
    assert write_pages([runs / "forget"], tmp_path / "one").start.name == "knapsack-t0.html"


def test_no_text_of_a_models_becomes_part_of_a_page(tmp_path: Path) -> None:
    for runtime in (RuntimeName.PERSISTENT, RuntimeName.REACT):
        write_trace(tmp_path / "runs" / runtime, hostile_trace(runtime))
    write_pages([tmp_path / "runs"], tmp_path / "out")
    pages = [Page(path) for path in (tmp_path / "out").rglob("*.html")]
    assert len(pages) == 4
    for page in pages:
        assert {tag for tag, _ in page.elements} <= set(TAGS.split())
        assert not [
            key for _, attrs in page.elements for key in attrs if key.startswith("on") or key in ("src", "style")
        ]
        assert not [link for link in page.links() if ":" in link]
        assert sum(tag == "script" for tag, _ in page.elements) == 1
        assert not CONTROL.search(page.source)
        assert "\\x1b[2J" in page.text
        assert ATTACKS[0] in page.text
        policy = next(attrs["content"] or "" for tag, attrs in page.elements if "http-equiv" in attrs)
        assert policy.startswith("default-src 'none'; ")
        assert not re.search(r"unsafe|https?:|\*|'self'", policy)


def test_what_is_too_much_for_a_page_is_cut_and_told(tmp_path: Path) -> None:
    many = MOST_TURNS + 500
    trace = make_trace(answers=["x" * 5_000_000, *["```python\n1\n```"] * (many - 1)], observation="y" * 100)
    path = write_trace(tmp_path, trace)
    page = Page(write_pages([path], tmp_path / "out").start)
    assert f"{5_000_000 - MOST_CHARS:,}".replace(",", "") + " characters left out" in page.text
    assert f"500 more turns are not on this page; all {many:,} are in {path}" in page.text
    assert len(page.source) < 2_000_000


@pytest.mark.parametrize(("begin", "mark"), [("", "'"), ('"""', "\\"), ("", "f"), ("", "("), ("", "#")])
def test_marking_the_words_of_hostile_code_takes_linear_time(begin: str, mark: str) -> None:
    assert_linear(highlighted, lambda length: begin + mark * length, 100_000)


def test_words_of_code_are_marked() -> None:
    text = str(highlighted("for x in range(10):  # <all>\n    print('a', rb\"b\")"))
    assert '<span class="k">for</span> x <span class="k">in</span> <span class="b">range</span>' in text
    assert '<span class="n">10</span>' in text
    assert '<span class="c"># &lt;all&gt;</span>' in text
    assert '<span class="s">&#39;a&#39;</span>, <span class="s">rb&#34;b&#34;</span>' in text


def test_a_folder_with_anothers_index_is_left_alone(tmp_path: Path) -> None:
    path = write_trace(tmp_path, make_trace())
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(UserError, match="of another program"):
        write_pages([path], tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "mine"
    for _ in range(2):
        write_pages([path], tmp_path / "out")


def test_the_server_answers_to_its_own_name_alone_and_lists_nothing(tmp_path: Path) -> None:
    write_pages([write_trace(tmp_path, make_trace())], tmp_path / "out")
    with PageServer(tmp_path / "out", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]

        def status(path: str, host: str = f"127.0.0.1:{port}") -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status

        assert status("/") == 200
        assert status("/episodes/") == 404
        assert status("/../knapsack-t0.trace.json") == 404
        assert status("/", host=f"evil.invalid:{port}") == 421
        with pytest.raises(UserError, match=f"port {port}"):
            PageServer(tmp_path, port)
        server.shutdown()


def test_the_terminal_shows_only_turns_with_errors_when_asked(tmp_path: Path) -> None:
    trace = forgetful_trace(RuntimeName.FORGET)
    text = run(write_trace(tmp_path, trace), "--errors-only").stdout
    assert "Step 1." in text
    assert "name 'x' is not defined" in text
    assert "Step 0." not in text
    assert "\x1b" not in text


def test_a_failure_of_ours_stands_on_the_page(tmp_path: Path) -> None:
    result = run(write_trace(tmp_path, make_trace(failed=True)), "--web", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (
        "A failure of ours ended it; it is not graded."
        in Page(next((tmp_path / "out").rglob("episodes/**/*.html"))).text
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs"], "--web"),
        (["runs", "--out", "x"], "belong to --web"),
        (["runs", "--web", "--errors-only"], "the key e"),
        (["runs", "--web", "--port", "1"], "belongs to --serve"),
        (["none", "--web"], "no such file or folder: none"),
        (["empty", "--web"], "no readable trace"),
        (["runs/forget/knapsack-t0.json", "--web"], "no readable trace"),
        (["runs", "--web", "--out", "runs/forget/knapsack-t0.json"], "cannot write"),
    ],
)
def test_bad_input_is_told_with_what_helps(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    write_runs(Path("runs"))
    for folder in ("empty", "temporary"):
        Path(folder).mkdir()
    result = run(*arguments)
    assert result.exit_code != 0
    told = f"{result.output} {result.exception} {getattr(result.exception, 'hint', '')}"
    assert words in told
    assert isinstance(result.exception, UserError | SystemExit)
    assert not list(Path("temporary").iterdir())


def test_files_that_are_none_are_named_and_make_exit_1(tmp_path: Path) -> None:
    (write_runs(tmp_path / "runs") / "x.trace.json").write_text("[]")
    result = run(tmp_path / "runs", "--web", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "x.trace.json: holds a JSON array" in Page(tmp_path / "out" / "index.html").text


def test_names_and_turns_of_an_action_that_did_not_run_are_unknown() -> None:
    trace = with_results(
        make_trace(answers=["a", "b"]), [acted(globals=(), error="x", error_type="SyntaxError"), acted(globals=("q",))]
    )
    assert [turn.names for turn in turns_of(trace)] == [None, HeldNames(("q",), (), ())]
