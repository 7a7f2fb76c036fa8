"""A family of one's own through every stage, as its user meets them: his folder, his file, and a wheel of keepstate.

The wheel is unpacked beside him and found before the checkout; what it depends on is that of the environment here.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bench.stub_server import StubServer, serving
from made_tokenizers import make_tokenizer

from keepstate.places import SHIPPED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "sql_questions.py"


class User:
    """Somebody in a folder of his own."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONSAFEPATH": "1"}

    def run(self, *arguments: object, code: int = 0) -> str:
        """Both streams of a command."""
        command = [sys.executable, "-m", "keepstate", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", folder, SHIPPED], check=True)
    (wheel,) = folder.glob("*.whl")
    shutil.unpack_archive(wheel, folder / "package", "zip")
    return folder / "package"


@pytest.fixture
def user(package: Path, tmp_path: Path) -> User:
    """Who has the wheel alone."""
    user = User(tmp_path, package)
    where = [sys.executable, "-c", "import keepstate; print(keepstate.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=user.environment, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(package)
    return user


def asks_and_answers(request: dict[str, object]) -> str:
    """A model that looks, and then says 7."""
    messages = request["messages"]
    assert isinstance(messages, list)
    tool, arguments = (
        ("query", {"sql": "SELECT count(*) FROM orders"}) if len(messages) == 2 else ("answer", {"number": 7})
    )
    if '"tool"' in messages[0]["content"]:
        return f"Thought: on\nAction: {json.dumps([{'tool': tool, 'args': arguments}])}"
    return f"On.\n```python\nprint({tool}(**{arguments!r}))\n```"


def through_every_stage(user: User, file: str, difficulty: str) -> str:
    """Proves, samples, collects, builds, plays and reports; what the report says."""
    assert "to their end, mean score 1.000" in user.run("tasks", "check", file)
    for split, seed in (("train", 0), ("eval", 9)):
        made = ("--difficulty", difficulty, "--count", 6, "--seed-start", seed, "--out", f"tasks/{split}")
        user.run("tasks", "generate", "--family", file, *made)
    hint = user.run("traces", "collect", "--tasks", "tasks/train", code=2)
    assert f"--family {file}" in hint
    train = ("--family", file, "--tasks", "tasks/train", "--allow-unsafe")
    collected = user.run("traces", "collect", *train, "--out", "tr")
    assert collected.count("6 recorded, 0 kept, mean score 1.000, solved 6") == 3
    assert "0 broken, 0 tasks not in every folder" in user.run("traces", "check", "--paired", "tr")
    make_tokenizer("chatml", user.folder / "tokenizer")
    built = user.run(
        "dataset", "build", "--traces", "tr", "--out", "data", "--tokenizer", "tokenizer", "--template", "chatml"
    )
    assert built.count("6 rows of 6 traces") == 3
    with serving(StubServer(rule=asks_and_answers)) as stub:
        taught = ("--teacher", "llm", "--base-url", stub.url, "--model", "base", "--runtime", "react", "--out", "llm")
        assert "6 recorded" in user.run("traces", "collect", *train, *taught)
        (user.folder / "configs").mkdir()
        cell = {"name": "mine", "adapter": "base", "runtime": "react", "base_url": stub.url}
        source = {"folder": "../tasks/eval", "family": f"../{file}"}
        (user.folder / "configs" / "cell.yaml").write_text(yaml.safe_dump({**cell, "tasks": source}))
        played = user.run("bench", "run", "configs/cell.yaml", "--run", "one")
        assert "graded 6 / not graded 0" in played
        user.run("bench", "matrix", "--family", file, "--difficulty", difficulty, "--count", 2, "--adapter", "base",
                 "--base-url", stub.url, "--allow-unsafe", "--run", "two")  # fmt: skip
    record = json.loads((user.folder / "runs" / "one" / "mine" / "cell.json").read_text())
    assert record["config"]["family"].startswith(f"{file} sha256:")
    assert str(user.folder) not in json.dumps(record).replace(record["server"]["base_url"], "")
    return " ".join((user.run("report", "runs/one") + user.run("report", "runs/two")).split())


def test_the_example_goes_through_every_stage(user: User) -> None:
    shutil.copy(EXAMPLE, user.folder)
    report = through_every_stage(user, "sql_questions.py", "mini")
    assert "sql_questions mini, 6 tasks" in report
    assert "blind (the floor)" in report


def test_what_tasks_new_writes_goes_through_every_stage_with_its_own_tools(user: User) -> None:
    user.run("tasks", "new", "my_tasks.py")
    path = user.folder / "my_tasks.py"
    text = path.read_text().replace("def compare(", "def query(").replace('"compare"', '"query"')
    path.write_text(text.replace("def finish(", "def answer(").replace('"finish"', '"answer"'))
    assert "my_tasks easy, 6 tasks" in through_every_stage(user, "my_tasks.py", "easy")


def test_what_a_family_lacks_is_said_by_the_report(user: User) -> None:
    text = EXAMPLE.read_text()
    head, tail = text[: text.index("    def gold(")], text[text.index("    def plan(") :]
    head = head.replace('            reference={"answer": answer},\n', "")
    head = head.replace('    policies = {"blind": "answers 0 without a query", "oracle": "knows the answer"}\n', "")
    (user.folder / "bare.py").write_text(head + tail)
    report = through_every_stage(user, "bare.py", "easy")
    assert "The best answers of bare are not known: a score is no share of an optimum." in report
    assert "no score is corrected for chance" in report
    assert "optimality" not in report
