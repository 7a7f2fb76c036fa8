"""Every command, every fault: whatever is typed, a command says what is wrong and what to do, without a traceback.

Driven over the tree of commands, so that a new one is tried too; what it needs to be called at all stands in `FILLED`.
"""

import re
from pathlib import Path

import click
import pytest
from typed import leaves, wrong_commands

from keepstate.cli import cli, run

FILLED = {
    "family": "my_tasks.py",
    "parts": "tokenizer",
    "runtime": "persistent",
    "shell": "fish",
    "url": "http://[::1]:9",
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
    assert said(typed(name, ""), capsys)[0] == 2
