"""Every command of every page is run: as it stands, in a folder where all that pages name is there (`workshop.py`).

Blocks marked `<!-- run -->` are run by `test_pages.py` in an empty folder. `ELSEWHERE` is the one list of those that
neither runs, each with the reason and with what runs it; `KEEPSTATE` and `PYTHON` of the workshop are what is put to a
command: a training ends before its first step (`--dry-run`), a server is a stub.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from bench.stub_server import Rule, StubServer, look_then_finish, serving
from test_pages import BLOCK, PAGES, ROOT
from workshop import environment, write_workshop

from keepstate.cli import cli
from keepstate.errors import UserError
from keepstate.traces import Trace, iter_traces
from keepstate.traces.exporters import to_messages

PROGRAMS = r"keepstate|make|python3?|\.venv\S*/python|pip|docker|ray|kubectl|ssh|bash|git|export|KEEPSTATE_HOME=\S+|\."
TYPED = re.compile(rf"^ {{4}}((?:{PROGRAMS}) [\w./-](?!- ).*?)(?: +# .*)?$", re.MULTILINE)
INLINE = re.compile(r"`(keepstate [a-z][^`]*)`")
ELSEWHERE = {
    r"make (setup-dev|lint|docs)\b": ("takes minutes", ".ci/run"),
    r"make test-current|keepstate setup .* --engines": ("installs gigabytes of other engines", "make test-current"),
    r"make audit": ("asks services for advisories", "make audit"),
    r"make test": ("is what runs this", ".ci/run"),
    r"(make|keepstate) demo": ("trains and serves for minutes", "tests/e2e/test_demo.py"),
    r"keepstate dataset check|make train-mixed|python train/": ("asks Axolotl", "tests/dataset/test_axolotls_proof.py"),
    r"keepstate serve --base": ("asks torch", "tests/serve/test_nf4.py"),
    r"keepstate setup ray": ("puts 240 MB into the environment of the tests", "make setup-ray"),
    r"keepstate setup serve-ray": ("puts .4 GiB into the environment of a server", ""),
    r"keepstate .* --engine ray": ("needs the extra [ray]", "tests/bench/test_cluster.py"),
    r"ray start": ("opens a cluster on this machine", "tests/bench/test_cluster.py"),
    r"kubectl": ("needs a cluster", "tests/cli/test_launch.py"),
    r"docker": ("needs a daemon", "tests/test_dockerfiles.py"),
    r"ssh": ("needs another machine", ""),
    r"\.venv-serve/bin/python benchmarks/gpu|\.venv-train/bin/python benchmarks/gpu/attention": (
        "needs a GPU and torch",
        "",
    ),
    r"pip wheel": ("takes a minute", "tests/e2e/test_wheel.py"),
    r"pip install uv|bash locks/compile\.sh|git ": ("changes the lock files of the checkout", ""),
    r"python -m pytest": ("is what runs this", "make test-core"),
}
"""By what a command begins with: why it is not run here, and the test, script or target that runs it, if any does."""
SECONDS = 100.0
"""For one command, of which each takes less than one."""
SERVES = re.compile(r"Ctrl-C|Serving HTTP")


def is_whole(line: str) -> bool:
    """Whether a command in a sentence can be typed: more than its name or one of its options is mentioned."""
    words = shlex.split(line)[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words and (inner := command.get_command(click.Context(cli), words[0])):
        command, words = inner, words[1:]
    try:
        with suppress(UserError):  # of a value: FILE is none
            command.make_context("", list(words))
    except (click.UsageError, click.exceptions.Exit):
        return False
    return bool(words)


def commands(page: Path) -> list[str]:
    """What a page says to type, without what a test of `test_pages.py` runs."""
    text = re.sub(r"\\\n +", "", BLOCK.sub("", page.read_text()))
    inline = [" ".join(line.split()) for line in INLINE.findall(text)]
    return [*TYPED.findall(text), *filter(is_whole, inline)]


def elsewhere(line: str) -> str | None:
    return next((pattern for pattern in ELSEWHERE if re.match(pattern, line)), None)


def _of_pages() -> dict[Path, list[str]]:
    """The commands to run, each on the first page that has it."""
    found: dict[Path, list[str]] = {}
    seen: set[str] = set()
    for page in PAGES:
        new = [line for line in dict.fromkeys(commands(page)) if line not in seen and elsewhere(line) is None]
        seen.update(new)
        found |= {page: new} if new else {}
    return found


OF_PAGES = _of_pages()


@pytest.fixture(scope="module")
def stub() -> Iterator[StubServer]:
    with serving(StubServer()) as served:
        yield served


def address(stub: StubServer) -> str:
    return stub.url.removesuffix("/v1")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, stub: StubServer) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workshop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEEPSTATE_HOME", str(folder))
        patch.setenv("KEEPSTATE_DEVICE", "cuda")
        patch.chdir(folder)
        write_workshop(folder, address(stub))
        stub.rule = as_taught(folder / "teacher")
        yield folder


def as_taught(folder: Path) -> Rule:
    """The answers of recordings where a conversation is one of theirs."""
    taught: dict[tuple[str, str], list[str]] = {}
    for _, trace in iter_traces(folder):
        assert isinstance(trace, Trace)
        texts = [message["content"] for message in to_messages(trace)["messages"]]
        taught[texts[0], texts[1]] = texts[2::2]

    def answer(request: dict[str, Any]) -> str:
        system, goal = (message["content"] for message in request["messages"][:2])
        known = taught.get((system, goal), [])
        return known[len(request["messages"]) // 2 - 1] if known else look_then_finish(request)

    return answer


def filled(line: str, server: str) -> str:
    """With something of the workshop for each word that stands for something of the reader's."""
    places = {
        "http://127.0.0.1:8000": server, "https://HOST": server, "URL": f"{server}/v1", "--model NAME": "--model base",
        "theirs=FOLDER": "theirs=out/qwen3-8b-persistent-a100", "--lora ...": "--lora out/qwen3-8b-persistent-a100",
        "....trace.json": "*-00000.trace.json", "/srv/keepstate": "$PWD", "show FOLDER": "show data/tasks/train",
        "THEIRS.yaml --tasks FOLDER": "cell.yaml --tasks data/tasks/train",
        "--tasks FOLDER": "--tasks data/tasks/train --out data/llm", "FOLDER": "runs/bench", "RUN": "runs/bench",
        "import FILE": "import memory.json", "run FILE": "run cell.yaml", "file FILE": "file key", "8001": "0",
        "out/.../evals": "runs/bench", " ...": "",
    }  # fmt: skip
    for word, place in places.items():
        line = line.replace(word, place)
    return line


def run(line: str, folder: Path, server: str) -> tuple[int, str]:
    """Exit code and all words of a line; one that serves gets Ctrl-C once it does."""
    process = subprocess.Popen(
        ["bash", "-ec", line], cwd=folder, env=environment(folder, server), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    watch = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    watch.start()
    said, is_served = "", False
    try:
        for words in process.stdout:
            said += words
            if SERVES.search(words) and not is_served:
                is_served = True
                os.killpg(process.pid, signal.SIGINT)
        code = process.wait()
    finally:
        watch.cancel()
    return 0 if is_served and code in (0, 2, 130, -signal.SIGINT) else code, said


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", OF_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_of_a_page_run(page: Path, made: Path, stub: StubServer, tmp_path: Path) -> None:
    folder = tmp_path / "workshop"
    shutil.copytree(made, folder, symlinks=True)
    if any("tasks new" in line for line in OF_PAGES[page]):
        (folder / "my_tasks.py").unlink()
    wrong = []
    for line in OF_PAGES[page]:
        code, said = run(filled(line, address(stub)), folder, address(stub))
        if code and not (code == 1 and "left out: " in said):  # as is told, of a react agent in another runtime
            wrong.append(f"exit {code}: {line}\n{said[-2000:]}")
    assert not wrong, "\n\n".join(wrong)


def test_what_is_run_elsewhere_is() -> None:
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci/run").read_text()
    used = {pattern for page in PAGES for line in commands(page) if (pattern := elsewhere(line))}
    assert used == ELSEWHERE.keys()
    for pattern, (why, by) in ELSEWHERE.items():
        assert why
        if by.startswith("make "):
            assert re.search(rf"^{by.removeprefix('make ')}:", makefile, re.MULTILINE), pattern
        elif by:
            assert (ROOT / by).exists(), by
        if by == ".ci/run":
            targets = re.findall(r"[a-z-]+", pattern.removeprefix("make ").removesuffix(r"\b"))
            assert all(re.search(rf"\b{target}\b", ci) for target in targets), pattern
