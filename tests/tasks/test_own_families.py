"""A family of one's own: a file, a module or an entry point; its tools, its errors, and what it may leave out."""

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from keepstate import eventloop
from keepstate.agents.episode import run_episode
from keepstate.bench import BenchmarkConfig, TaskSource
from keepstate.bench.cells import make_cell
from keepstate.bench.run import play_cells
from keepstate.cli import cli
from keepstate.errors import UserError
from keepstate.files import content_hash, file_hash
from keepstate.models.scripted import ScriptedModel
from keepstate.models.teacher import ScriptedTeacher
from keepstate.runtimes import Sandbox
from keepstate.tasks import (
    ToolError,
    aside,
    environment_for,
    families,
    load_tasks,
    loading,
    make_tasks,
    reference_scores,
    starter,
    use_family,
    write_tasks,
)
from keepstate.tasks.checking import check_family
from keepstate.traces.record import Trace
from keepstate.vocabulary import Origin, RuntimeName

SMALL = '''
from typing import Literal
from keepstate.tasks import Environment, Family, Instance, Move, ToolError, Verdict, tool

class Play(Environment):
    def __init__(self, task):
        super().__init__(task)
        self.goal = "Say the word."
        self.right = False

    @tool
    def say(self, word: str, times: int = 1) -> str:
        """Say a word."""
        self.right = word == self.task.private["word"]
        return word * times

    @tool
    def pick(self, places: tuple[int, ...], how: Literal["up", "down"]) -> list[int]:
        """Pick places."""
        return sorted(places, reverse=how == "down")

    @tool
    def finish(self) -> None:
        """End."""
        self.finished = True

    def verdict(self):
        return Verdict(is_solved=self.right, score=float(self.right))

class Words(Family):
    difficulties = {"short": {"letters": 3}, "long": {"letters": 9}}
    environment = Play

    def sample(self, dice, parameters, rules):
        word = "".join(dice.choice("abc") for _ in range(parameters["letters"]))
        return Instance(public={}, private={"word": word})
'''


pytestmark = pytest.mark.usefixtures("no_family_named")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes a family file, some lines of `SMALL` replaced."""

    def write(*changes: tuple[str, str], name: str = "words.py") -> Path:
        text = SMALL
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def keepstate(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


Written = Callable[..., Path]


def test_a_file_is_a_family_with_its_own_difficulties_and_says_where_its_tasks_came_from(written: Written) -> None:
    family = use_family(str(written()))
    assert family.name == "words"
    tasks = list(make_tasks("words", "long", 3, 7))
    assert [task.name for task in tasks] == [f"words-long-s7-0000{n}" for n in range(3)]
    assert len(tasks[0].private["word"]) == 9
    assert family.source is not None
    assert family.source.startswith("words.py sha256:")
    assert {task.family_source for task in tasks} == {family.source}
    with pytest.raises(UserError, match="no difficulty 'mini'") as error:
        list(make_tasks("words", "mini", 1, 0))
    assert error.value.hint == "difficulties: short, long"
    with pytest.raises(UserError, match="no rule set 'strict'"):
        list(make_tasks("words", "short", 1, 0, rules="strict"))


def test_what_an_agent_is_told_comes_from_signature_and_docstring(written: Written) -> None:
    tools = use_family(str(written())).environment.tools
    assert [f"{tool.signature}: {tool.description}" for tool in tools] == [
        "say(word: str, times: int = 1) -> str: Say a word.",
        "pick(places: tuple[int, ...], how: Literal['up', 'down']) -> list[int]: Pick places.",
        "finish() -> None: End.",
    ]


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("say", {"word": "a", "times": "2"}, "times must be an int, got str"),
        ("say", {"word": "a", "times": True}, "times must be an int, got bool"),
        ("say", {"times": 2}, "say takes word, times"),
        ("pick", {"places": [1, "2"], "how": "up"}, r"places must be tuple\[int, \.\.\.\], got list \(1: "),
        ("pick", {"places": [1], "how": "left"}, r"how must be Literal\['up', 'down'\], got str"),
        ("pick", {"places": {"a": {1, 2}}, "how": "up"}, "places must be .* got dict"),
    ],
)
def test_arguments_of_another_type_are_refused_in_words(
    written: Written, tool: str, arguments: dict[str, object], says: str
) -> None:
    use_family(str(written()))
    environment = environment_for(next(make_tasks("words", "short", 1, 0)))
    with pytest.raises(ToolError, match=says):
        environment.call(tool, arguments)
    assert environment.call("pick", {"places": [3, 1], "how": "up"}) == [1, 3]
    assert environment.call("say", {"word": "a"}) == "a"
    assert environment.call("say", {"times": 2, "word": "a"}) == "aa", "an object has no order"


def test_a_number_beyond_a_float_is_the_agents_mistake_and_no_failure_of_the_tool(written: Written) -> None:
    use_family(str(written(("times: int = 1) -> str", "times: float = 1) -> float"), ("word * times", "times"))))
    environment = environment_for(next(make_tasks("words", "short", 1, 0)))
    with pytest.raises(ToolError, match=r"times must be a float, got int .*finite"):
        environment.call("say", {"word": "a", "times": 10**400})
    assert environment.call("say", {"word": "a", "times": 2}) == 2.0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("from typing", "raise SystemExit(4)\nfrom typing", r"words\.py:2: loading .* failed: SystemExit: 4"),
        ("class Words(Family):", "class Words(Family:", r"words\.py:30: SyntaxError"),
        ("from typing", "from nowhere", r"words\.py:2: .*ModuleNotFoundError"),
        ("word: str, times", "word, times", r"words\.py:5: .*tool say \(words\.py:11\).* word has no type"),
        ('        """End."""\n', "", "tool finish .* has no docstring"),
        ("def verdict(self)", "def grade(self)", r"words\.py:30: Words has an environment, Play, without .* verdict"),
        ("def sample(", "def draw(", r"words\.py:30: Words has no method sample"),
        ('difficulties = {"short": {"letters": 3}, "long": {"letters": 9}}', "", "has no difficulties"),
        ("environment = Play", "environment = None", "has no environment"),
        ("def finish(", "def call(", "a tool cannot be called 'call'"),
        ("class Words(Family):", 'class Words(Family):\n    name = "My Words"', "'My Words' cannot name a family"),
        ("class Words(Family):", 'class Words(Family):\n    name = "knapsack"', "another family is called 'knapsack'"),
        (
            "class Words(Family):",
            "class Other(Family):\n    pass\n\nclass Words(Family):",
            "holds 2 families: Other, Words",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(written: Written, old: str, new: str, says: str) -> None:
    path = written((old, new))
    with pytest.raises(UserError, match=says):
        use_family(str(path))
    done = keepstate("tasks", "check", path)
    assert done.exit_code != 0
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("dice.choice", "__import__('random').choice", "sample of the family words failed: .* take chance from dice"),
        ('return Instance(public={}, private={"word": word})', "return word", "str is no Instance"),
        ('private={"word": word}', 'private={"word": {1, 2}}', "not JSON serializable"),
        ('parameters["letters"]', "parameters.letters", r"words\.py:35: sample .* AttributeError"),
        ('self.goal = "Say the word."', "pass", "has no text as its goal"),
        ("score=float(self.right)", "score=7.0", "verdict, before anything is done"),
        (
            "    def sample",
            '    def gold(self, task):\n        return [Move("finish")]\n\n    def sample',
            "its reference answer scores 0",
        ),
        (
            "    def sample",
            "    def reference_scores(self, task):\n        return {'blind': 0.0}\n\n    def sample",
            "gives blind; policies names none",
        ),
    ],
)
def test_a_promise_that_is_broken_is_told_by_check(written: Written, old: str, new: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        list(check_family(use_family(str(written((old, new)))), 5))


def test_what_a_family_leaves_out_is_said(written: Written, tmp_path: Path) -> None:
    path = written()
    told = keepstate("tasks", "check", path).stdout
    assert "no reference answer (gold): a score is no share of an optimum" in told
    assert "without blind and oracle no score is corrected for chance" in told
    assert "no plan: its traces need a model as teacher" in told
    use_family(str(path))
    tasks = list(make_tasks("words", "short", 2, 0))
    with pytest.raises(UserError, match="has no plan") as error:
        ScriptedTeacher(tasks[0], RuntimeName.REACT)
    assert "--teacher llm" in error.value.hint
    write_tasks(tmp_path / "tasks", tasks)
    shown = keepstate("tasks", "show", tmp_path / "tasks", "--family", path)
    assert shown.exit_code == 0
    assert "words has no reference answer" in shown.stdout
    one = keepstate("tasks", "show", tmp_path / "tasks" / f"{tasks[0].name}.json", "--hidden")
    assert "reference policies: none" in one.stdout
    assert f'word: "{tasks[0].private["word"]}"' in one.stdout


def test_a_later_stage_says_how_to_name_the_family(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written()
    assert keepstate("tasks", "generate", "--family", path, "--count", 2, "--out", tmp_path / "tasks").exit_code == 0
    monkeypatch.setattr(families, "_NAMED", {})
    with pytest.raises(UserError, match=r"of the family 'words', which was in words\.py") as error:
        load_tasks(tmp_path / "tasks")
    assert error.value.hint.startswith("name that file or module: --family words.py (if it was renamed: with name =")
    text = next((tmp_path / "tasks").iterdir()).read_text()
    assert str(tmp_path) not in text
    assert "words.py sha256:" in text


def test_a_module_and_an_entry_point_are_families_too(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(name="words_of_a_package.py")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "words_of_a_package.py").rename(tmp_path / "pack" / "words.py")
    assert use_family("pack.words").name == "words"
    entry = EntryPoint("offered", "pack.words:Words", families.GROUP)
    monkeypatch.setattr(families, "entry_points", lambda group: [entry] if group == families.GROUP else [])
    found = families.family("offered")
    assert type(found).__name__ == "Words"
    with pytest.raises(UserError, match="unknown task family 'nothing'") as error:
        families.family("nothing")
    assert "offered" in error.value.hint


def test_questions_come_from_a_file(written: Written, tmp_path: Path) -> None:
    rows = [{"question": f"Say {word}", "answer": word, "word": word} for word in ("aa", "bb", "cc", "dd")]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8-sig")
    source = """
    def instances(self, difficulty, rules):
        from pathlib import Path
        from keepstate.tasks import read_questions
        return read_questions(Path(__file__).with_name("questions.jsonl"))
"""
    use_family(str(written(("    def sample(", source + "\n    def draw("))))
    train = list(make_tasks("words", "short", 3, 0))
    assert {task.public["question"] for task in train} < {row["question"] for row in rows}
    assert train == list(make_tasks("words", "short", 3, 0))
    (other,) = make_tasks("words", "short", 1, 5, apart_from=train)
    assert other.private["word"] not in {task.private["word"] for task in train}
    with pytest.raises(UserError, match="has 4 tasks of short, 3 of them not apart from those given; 2 were asked for"):
        list(make_tasks("words", "short", 2, 5, apart_from=train))
    (tmp_path / "questions.jsonl").write_text('{"question": "a"}')
    with pytest.raises(UserError, match=r"questions\.jsonl:1: no 'question' .* or no 'answer'"):
        list(make_tasks("words", "short", 1, 0))
    (tmp_path / "questions.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"questions\.jsonl holds no question"):
        list(make_tasks("words", "short", 1, 0))


@pytest.mark.parametrize("command", ["check", "generate"])
def test_a_family_without_tasks_says_so_and_asks_for_no_zero(written: Written, command: str, tmp_path: Path) -> None:
    path = written(
        ("    def sample(", "    def instances(self, difficulty, rules):\n        return []\n\n    def draw(")
    )
    options = [path] if command == "check" else ["--family", path, "--out", tmp_path / "tasks"]
    result = keepstate("tasks", command, *options)
    assert isinstance(result.exception, UserError)
    assert "the family words has 0 tasks of short" in result.exception.message
    assert result.exception.hint == "give words more tasks"


async def said(task_of: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 30) -> Trace:
    use_family(str(task_of))
    monkeypatch.setattr(aside, "SECONDS", seconds)
    task = next(make_tasks("words", "short", 1, 0))
    calls = json.dumps([{"tool": "say", "args": {"word": task.private["word"]}}, {"tool": "finish", "args": {}}])
    return await run_episode(task, runtime=RuntimeName.REACT, model=ScriptedModel([f"Thought: x\nAction: {calls}"]))


async def test_an_episode_is_played_and_its_trace_names_the_file(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = await said(written(), monkeypatch)
    assert trace.verdict is not None
    assert (trace.failure, trace.verdict.score) == (None, 1.0)
    assert trace.versions["family"].startswith("words.py sha256:")


async def test_what_an_agent_may_leave_out_it_may_leave_out_in_every_runtime(written: Written) -> None:
    use_family(str(written()))
    task = next(make_tasks("words", "short", 1, 0))
    word = task.private["word"]
    code = f"On.\n```python\nprint(say({word!r}), say({word!r}, 2), say({word!r}, times=3))\nfinish()\n```"
    async with Sandbox(allow_unsafe=True) as sandbox:
        trace = await run_episode(task, runtime=RuntimeName.FORGET, model=ScriptedModel([code]), sandbox=sandbox)
    assert trace.verdict is not None
    assert trace.verdict.score == 1.0
    assert [call.output for call in trace.steps[0].interpreter_result.results[:3]] == [word, word * 2, word * 3]


@pytest.mark.parametrize(
    ("old", "new", "origin", "says"),
    [
        ("return word * times", "return 1 / 0", Origin.TASK, r"tool say: ZeroDivisionError: .* \(words\.py:\d+\)"),
        ("return word * times", "raise SystemExit(3)", Origin.TASK, r"tool say: SystemExit: 3 \(words\.py:\d+\)"),
        ("return word * times", "return {1}", Origin.TASK, "tool say: TypeError: .*not JSON serializable"),
        (
            "return word * times",
            "import threading; threading.Event().wait()",
            Origin.TASK,
            r"tool say did not return within 0\.3 s \(words\.py:15\)",
        ),
        ("return Verdict(", "return 5, dict(", Origin.GRADER, "verdict: "),
        (
            "return Verdict(",
            "1 / 0; return Verdict(",
            Origin.GRADER,
            r"verdict: ZeroDivisionError: .* \(words\.py:\d+\)",
        ),
        (
            "return Verdict(",
            "import threading; threading.Event().wait(); return Verdict(",
            Origin.GRADER,
            r"verdict did not return within 0\.3 s \(words\.py:\d+\)",
        ),
        ("super().__init__(task)", "1 / 0", Origin.TASK, r"words\.py:7: Play\(task\) of the family words failed"),
    ],
)
async def test_what_raises_or_hangs_is_our_failure_with_its_place_and_never_a_zero(
    written: Written, monkeypatch: pytest.MonkeyPatch, old: str, new: str, origin: Origin, says: str
) -> None:
    trace = await said(written((old, new)), monkeypatch, 0.3)
    assert trace.verdict is None
    assert trace.failure is not None
    assert trace.failure.origin is origin
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(trace.failure.message)


def test_the_starter_works_and_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "my_tasks.py"
    assert keepstate("tasks", "new", path).exit_code == 0
    assert path.read_text() == Path(starter.__file__).read_text().replace("FILE.py", "my_tasks.py")
    told = keepstate("tasks", "check", path)
    assert told.exit_code == 0
    assert "reference answers score 1 and end the episode: 30 of 30" in told.stdout
    again = keepstate("tasks", "new", path)
    assert again.exit_code != 0


def test_a_collection_of_another_version_of_the_file_is_refused(tmp_path: Path) -> None:
    path, traces = tmp_path / "mine.py", tmp_path / "traces"
    assert keepstate("tasks", "new", path).exit_code == 0
    made = ["--family", path, "--count", 2, "--out", tmp_path / "tasks"]
    assert keepstate("tasks", "generate", *made).exit_code == 0
    collect = [
        "traces",
        "collect",
        "--family",
        path,
        "--tasks",
        tmp_path / "tasks",
        "--runtime",
        "react",
        "--out",
        traces,
    ]
    assert keepstate(*collect).exit_code == 0
    before = {file: file.read_bytes() for file in traces.rglob("*.trace.json")}
    path.write_text(path.read_text() + "\n# graded otherwise\n")
    command = [sys.executable, "-m", "keepstate", *map(str, collect)]
    later = subprocess.run(command, check=False, capture_output=True, text=True)
    assert later.returncode == 2
    assert "family file mine: mine.py sha256:" in later.stderr
    assert len(before) == 2
    assert {file: file.read_bytes() for file in traces.rglob("*.trace.json")} == before


REFERENCE = "    def reference_scores(self, task):\n        {}\n\n    def sample"


@pytest.mark.parametrize("command", ["show", "check", "bench"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("import threading; threading.Event().wait()", "did not return within 0.3 s"),
        ("while True: pass", "did not return within 0.3 s"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
    ],
)
def test_references_that_raise_or_hang_are_told_with_their_line(
    written: Written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, says: str, command: str
) -> None:
    path = written(("    def sample", REFERENCE.format(body)))
    monkeypatch.setattr(aside, "SECONDS", 0.3)
    family = use_family(str(path))
    tasks = list(make_tasks("words", "short", 2, 0))
    source = TaskSource(folder=tmp_path)
    config = BenchmarkConfig(name="a", adapter="base", runtime=RuntimeName.REACT, tasks=source)
    cell = make_cell(config, tmp_path / "run", tasks=tasks)
    commands: dict[str, Callable[[], object]] = {
        "show": lambda: reference_scores(tasks[0]),
        "check": lambda: list(check_family(family, 2)),
        "bench": lambda: eventloop.run(play_cells([cell])),
    }
    with pytest.raises(UserError) as caught:
        commands[command]()
    assert caught.value.message == f"words.py:35: reference_scores of the family words {says}"
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 10, "pytest's own"
    assert caught.value.hint == "mend that file, then prove it with: keepstate tasks check words.py"


async def test_a_plan_that_hangs_is_a_failure_of_its_own_episode_alone(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = """
    def plan(self, task, dice):
        import threading
        from keepstate.tasks import Step
        if task.task_id.endswith("0"):
            threading.Event().wait()
        yield Step("x", [Move("finish")])

    def sample"""
    use_family(str(written(("    def sample", plan))))
    monkeypatch.setattr(aside, "SECONDS", 0.3)
    react = RuntimeName.REACT
    hangs, ends = await asyncio.gather(
        *(
            run_episode(task, runtime=react, model=ScriptedTeacher(task, react))
            for task in make_tasks("words", "short", 2, 0)
        )
    )
    assert hangs.failure is not None
    assert hangs.failure.message == "the scripted teacher, after turn 0, did not return within 0.3 s (words.py:39)"
    assert ends.failure is None


SCRIPT = """
    def script(self, task, runtime, *, seed, tool_calls):
        from keepstate.tasks.plan import codeact, react
        class Script:
            def answer(self, messages, turn):
                word = task.private["word"]
                if runtime == "react":
                    return react("x", [("say", {"word": word}), ("finish", {})])
                code = f"say({word!r})" if turn == 0 else "finish()"
                return codeact("x", "say('zz')\\n" + code if CHANGE else code)
        return Script()

    def sample"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("False", ""),
        (
            "runtime == 'forget'",
            'in forget: its script makes other calls than in persistent: ["say",{"times":1,"word":"zz"}] instead of ',
        ),
        ("runtime == 'forget' and 1 / 0", "in forget: its script failed: the scripted teacher cannot go on"),
    ],
)
def test_a_script_of_its_own_is_played_in_every_runtime_by_check(written: Written, change: str, says: str) -> None:
    path = written(("    def sample", SCRIPT.replace("CHANGE", change)))
    result = keepstate("tasks", "check", path, "--count", 1, "--allow-unsafe")
    if says:
        assert isinstance(result.exception, UserError)
        assert says in result.exception.message
    else:
        assert (
            "the script plays 2 tasks by the same calls in persistent, forget, react, mean score 1.0" in result.stdout
        )


def test_what_a_file_imports_of_its_own_folder_is_part_of_its_digest(written: Written, tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name, text in {"beside": "import deeper.more\nWORD = 1\n", "deeper/more": "", "unused": ""}.items():
        (tmp_path / f"{name}.py").write_text(text)

    def source(name: str) -> str | None:  # a file is loaded once: another name for each version
        path = written(("class Play", "from beside import WORD\n\n\nclass Play"), name=f"{name}.py")
        assert sorted(loading._imported(path, tmp_path, None)) == ["beside.py", "deeper/more.py", f"{name}.py"]
        path.rename(tmp_path / "mine.py")
        loading.from_file.cache_clear()
        return loading.from_file(tmp_path / "mine.py").source

    first = source("first")
    (tmp_path / "unused.py").write_text("1")
    assert source("second") == first
    (tmp_path / "deeper/more.py").write_text("1")
    assert source("third") != first
    alone = written()
    assert loading.from_file(alone).source == f"words.py sha256:{file_hash(alone)}"


def test_a_helper_of_another_familys_folder_is_never_taken_for_ones_own(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helpers_of_a_family.py").write_text(f"WORD = {folder!r}\n")
        text = SMALL.replace("class Play", "from helpers_of_a_family import WORD\n\n\nclass Play")
        (tmp_path / folder / f"{folder}.py").write_text(textwrap.dedent(text))
    loading.from_file(tmp_path / "one/one.py")
    with pytest.raises(UserError, match=r"two\.py imports helpers_of_a_family, .* Python has it from .*one"):
        loading.from_file(tmp_path / "two/two.py")


def test_what_a_module_imports_of_its_own_package_is_part_of_its_digest(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packed" / "inner"
    package.mkdir(parents=True)
    imports = "import json, elsewhere\nfrom ..above import A\nfrom . import beside\n\n\nclass Play"
    written(("class Play", imports), name="own.py").rename(package / "own.py")
    (tmp_path / "elsewhere.py").write_text("import packed.unused")
    for name in ("__init__", "above", "unused", "inner/beside"):
        (package.parent / f"{name}.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = loading.from_module("packed.inner.own")
    names = ("__init__.py", "above.py", "inner/beside.py", "inner/own.py")
    hashes = {f"packed/{name}": file_hash(package.parent / name) for name in names}
    assert found.source == f"packed.inner.own sha256:{content_hash(hashes)}"
