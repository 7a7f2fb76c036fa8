"""`traces check`, `stats` and `view`: a trace that lies is found, arms that differ are named, figures are right."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from episode_notes import note_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from keepstate.cli.traces import command
from keepstate.dataset.sample import Refused, check_messages
from keepstate.display import CountDisplay
from keepstate.errors import UserError
from keepstate.models.base import Message
from keepstate.traces import parse_trace, read_trace, summary, write_trace
from keepstate.traces.check import check_folders, trace_problems, turns_problem
from keepstate.traces.exporters import to_atif
from keepstate.traces.record import Trace, TraceError
from keepstate.traces.schema import trace_json
from keepstate.traces.summary import summarise, write_summaries
from keepstate.traces.view import show
from keepstate.vocabulary import RuntimeName


def tampered(**changes: Any) -> list[str]:
    """What the check says of a trace after `changes` (path with dots = value)."""
    value = json.loads(trace_json(note_episode(["a", "b", "c"])))
    for path, new in changes.items():
        *parents, last = path.split("__")
        place = value
        for part in parents:
            place = place[int(part) if part.isdecimal() else part]
        place[int(last) if last.isdecimal() else last] = new
    return list(trace_problems(parse_trace(json.dumps(value).encode())))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_an_untouched_trace_is_whole() -> None:
    assert tampered() == []
    assert list(trace_problems(note_episode([]))) == []
    assert list(trace_problems(note_episode(["a"], failure="x"))) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"messages__0__content": "other"}, "turn 0: what was sent is no prefix"),
        ({"messages__3__content": "other"}, "step 0: message 3 is not its observation"),
        ({"messages__4__content": "other"}, "step 1: message 4 is not its answer"),
        ({"messages__1__role": "system"}, "message 1 is the system's, the user's was due"),
        ({"messages": []}, "turn 0: 2 messages were sent after 0"),
        ({"summary__num_steps": 7}, "summary counts 7 steps, there are 3"),
        ({"summary__finish_reason": "turn_limit"}, "events say finished"),
        ({"failure": {"origin": "model", "message": ""}}, "graded all the same"),
    ],
)
def test_a_trace_that_contradicts_itself_is_found(changes: dict[str, Any], words: str) -> None:
    assert any(words in problem for problem in tampered(**changes))


def test_the_verdict_beside_it_must_agree(tmp_path: Path) -> None:
    for number in range(3):
        write_trace(tmp_path, note_episode(["x"], task_id=f"t{number}"))
    (tmp_path / "knapsack-t0.json").unlink()
    (tmp_path / "knapsack-t1.json").write_text('{"status": "completed"}')
    report = check_folders([tmp_path])
    assert report.checked == 3
    assert [reasons[0].split(":")[0] for reasons in report.problems.values()] == [
        "no verdict beside it",
        "verdict knapsack-t1.json differs from the trace's own",
    ]


def test_arms_must_hold_the_same_tasks(tmp_path: Path) -> None:
    for arm, numbers in (("persistent", (0, 1, 2)), ("forget", (0, 2))):
        for number in numbers:
            write_trace(tmp_path / arm, note_episode(["x"], task_id=f"t{number}", secret=number))
    assert check_folders([tmp_path]).good
    assert check_folders([tmp_path], paired=True).unpaired == {"knapsack-t1": [str(tmp_path / "forget")]}
    result = run("check", "--paired", tmp_path / "persistent", tmp_path / "forget")
    assert result.exit_code == 1
    assert "knapsack-t1: not in" in result.stdout
    assert "5 traces checked, 0 broken, 1 tasks not in every folder" in result.stderr


@pytest.mark.parametrize("name", ["check", "stats"])
def test_what_reads_many_traces_shows_how_many(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write_trace(tmp_path / str(number), note_episode(["a"]))
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(CountDisplay, "__call__", lambda _, state: seen.append(state))
    assert run(name, tmp_path).exit_code == 0
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_check_names_the_broken_and_exits_1(tmp_path: Path) -> None:
    write_trace(tmp_path, note_episode(["x"]))
    assert run("check", tmp_path).exit_code == 0
    (tmp_path / "z.trace.json").write_text("{")
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "z.trace.json: no valid JSON" in result.stdout
    assert "2 traces checked, 1 broken" in result.stderr


@pytest.mark.parametrize("name", ["check", "stats"])
def test_nothing_to_read_is_for_the_user(tmp_path: Path, name: str) -> None:
    assert isinstance(run(name, tmp_path / "no").exception, UserError)
    assert isinstance(run(name, tmp_path).exception, UserError)


def test_averages_are_over_graded_episodes() -> None:
    traces = [
        note_episode(["a", "b"], error_type="NameError"),
        note_episode(["a"], score=0.5),
        note_episode(["a"], failure="worker died", error_type="NameError"),
    ]
    figures = summarise(traces)
    assert (figures["num_tasks_executed"], figures["num_graded"], figures["num_tasks_solved"]) == (3, 2, 1)
    assert figures["num_not_graded"] == {"sandbox": 1}
    assert (figures["average_is_solved"], figures["average_score"], figures["average_steps"]) == (0.5, 0.75, 1.5)
    assert figures["average_total_tokens"] == (36 + 13) / 2
    assert figures["missing_variable_share"] == 0.5
    assert figures["metrics"]["value"] == {"mean": 2.0, "median": 2.0, "min": 2.0, "max": 2.0}
    assert figures["finish_reasons"] == {"failed": 1, "finished": 2}


def test_tokens_that_nobody_counted_are_unknown(tmp_path: Path) -> None:
    unknown = note_episode(["a"], counted=False)
    assert unknown.summary.token_usage.total_tokens is None
    figures = summarise([unknown, note_episode(["a"])])
    assert (figures["average_total_tokens"], figures["average_completion_tokens"]) == (None, None)
    assert figures["average_score"] == 1.0
    path = write_trace(tmp_path, unknown)
    assert read_trace(path) == unknown
    shown = run("view", path).output
    assert "unknown prompt + unknown completion" in shown
    assert "turn 0 (unknown tokens" in shown
    assert "metrics" not in to_atif(unknown)["steps"][-1]


def test_negative_tokens_are_refused_and_older_traces_without_counts_read() -> None:
    value = json.loads(trace_json(note_episode(["a"])))
    value["summary"]["token_usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert parse_trace(json.dumps(value).encode()).summary.token_usage.total_tokens == 0
    value["summary"]["token_usage"]["prompt_tokens"] = -5
    with pytest.raises(TraceError, match="greater than or equal to 0"):
        parse_trace(json.dumps(value).encode())


def test_nothing_graded_is_not_zero() -> None:
    figures = summarise([note_episode([], failure="x")])
    assert figures["average_score"] is None
    assert figures["average_is_solved"] is None


def test_summaries_by_agent(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", note_episode(["x"]))
    write_trace(tmp_path / "b", note_episode(["x"], runtime=RuntimeName.REACT))
    (tmp_path / "bad.trace.json").write_text("")
    assert [path.name for path in write_summaries(tmp_path)] == [
        "summary_codeact-knapsack.json",
        "summary_react-knapsack.json",
    ]
    assert json.loads((tmp_path / "summary_react-knapsack.json").read_text())["num_tasks_executed"] == 1


def test_a_file_where_a_folder_is_needed_is_told_its_folder(tmp_path: Path) -> None:
    (tmp_path / "one.trace.json").write_text("{}")
    error = run("stats", tmp_path / "one.trace.json").exception
    assert isinstance(error, UserError)
    assert error.hint == f"name the folder that holds it: {tmp_path}"


def test_stats_of_folders(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", note_episode(["x"]))
    write_trace(tmp_path / "b", note_episode(["x"], failure="gone", runtime=RuntimeName.FORGET))
    rows = json.loads(run("stats", "--json", tmp_path).stdout)
    assert [(row["runtime"], row["tasks"], row["num_graded"]) for row in rows] == [
        ("forget", "knapsack mini", 0),
        ("persistent", "knapsack mini", 1),
    ]
    table = run("stats", tmp_path / "a", tmp_path / "b")
    assert table.exit_code == 0
    assert "sandbox 1" in table.stdout
    (tmp_path / "bad.trace.json").write_text("")
    assert run("stats", tmp_path).exit_code == 1


def test_view_sends_no_control_characters(tmp_path: Path) -> None:
    trace = note_episode(
        ["[red]not markup[/red] \x1b[2J\x1b]0;title\x07 \u202eevil\ud800", '{"output":"\\u001b[31mx"}', "end"]
    )
    screen = io.StringIO()
    show(trace, Console(file=screen, width=200, force_terminal=False))
    text = screen.getvalue()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]not markup[/red] \\x1b[2J" in text
    assert "\\x1b[31mx" in text
    path = write_trace(tmp_path, note_episode(["hello"], failure="worker died"))
    result = run("view", path)
    assert result.exit_code == 0
    assert "hello" in result.stdout
    assert "worker died" in result.stdout


def test_help_of_the_group_names_every_command() -> None:
    text = run("--help").stdout
    for name in ("collect", "import", "check", "stats", "view"):
        assert f"  {name}  " in text


NO_SCORES = ["NaN", "Infinity", "-Infinity", "1e400", "true", '"0.7"', "1.0000001", "-0.1", "[]"]


@pytest.mark.parametrize("score", NO_SCORES)
def test_a_score_that_is_none_makes_a_broken_file(score: str, tmp_path: Path) -> None:
    path = write_trace(tmp_path, note_episode(["x"]))
    good = path.read_text()
    assert good.count('"score": 1.0') == 1
    path.write_text(good.replace('"score": 1.0', f'"score": {score}'))
    assert len(check_folders([tmp_path]).problems) == 1
    path.write_text(good)
    beside = tmp_path / "knapsack-t0.json"
    beside.write_text(beside.read_text().replace('"score": 1.0', f'"score": {score}'))
    assert "verdict knapsack-t0.json" in str(check_folders([tmp_path]).problems.values())


@pytest.mark.parametrize("metric", ["NaN", "1e999", '"many"'])
def test_a_metric_that_is_no_number_makes_a_broken_file(metric: str, tmp_path: Path) -> None:
    path = write_trace(tmp_path, note_episode(["x"]))
    path.write_text(path.read_text().replace('"value": 2.0', f'"value": {metric}'))
    assert [path] == list(check_folders([tmp_path]).problems)


def test_summaries_keep_no_conversation_while_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = note_episode(["a", "b"], error_type="NameError")
    write_trace(tmp_path, trace)
    kept = list[Trace]()

    def noting(traces: Iterable[Trace]) -> summary.EpisodeFigures:
        kept.extend(traces)
        return summarise(kept)

    monkeypatch.setattr(summary, "summarise", noting)
    (path,) = write_summaries(tmp_path)
    assert [(each.messages, each.events) for each in kept] == [((), ())]
    assert json.loads(path.read_text()) == json.loads(json.dumps(summarise([trace])))


def test_one_definition_of_a_missing_variable() -> None:
    for name, missed in (("NameError", True), ("UnboundLocalError", True), ("KeyError", False)):
        trace = note_episode(["a"], error_type=name)
        assert trace.missed_variable is missed
        assert summarise([trace])["missing_variable_share"] == float(missed)


@pytest.mark.parametrize("count", ["-5", "1.5", "NaN", "true", '"7"', "99999999999999999999999"])
def test_a_count_of_tokens_that_is_none_makes_a_broken_file(count: str, tmp_path: Path) -> None:
    path = write_trace(tmp_path, note_episode(["x"]))
    path.write_text(path.read_text().replace('"prompt_tokens": 10', f'"prompt_tokens": {count}'))
    assert [path] == list(check_folders([tmp_path]).problems)


ROLES = st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=6)


@given(ROLES, st.booleans())
@settings(deadline=None)
def test_what_is_lawful_is_one_rule_of_traces_and_data_sets(roles: list[Any], alternate: bool) -> None:
    if alternate:  # at random few are lawful
        roles = [*roles[:1], *(("user", "assistant")[place % 2] for place in range(len(roles)))]
    messages = [Message(role=role, content="x") for role in roles]
    try:
        check_messages(messages, SimpleNamespace(spelled_special=lambda _: None))  # type: ignore[arg-type]
        refused = False
    except Refused as error:
        refused = error.reason == "roles out of order"
    answered = roles[-1:] == ["assistant"]
    assert refused == (turns_problem(messages) is not None or not answered)


def test_a_conversation_without_a_system_message_is_lawful_and_without_times_it_is_counted(tmp_path: Path) -> None:
    row = {"messages": [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    run("import", tmp_path / "x.jsonl", "--runtime", "persistent", "--out", tmp_path / "t")
    assert run("check", tmp_path / "t").stderr == "1 traces checked, 0 broken\n"
    (figures,) = json.loads(run("stats", "--json", tmp_path / "t").stdout)
    assert (figures["num_not_graded"], figures["num_graded"], figures["average_runtime"]) == (
        {"no verdict": 1},
        0,
        None,
    )
