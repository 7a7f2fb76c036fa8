"""Files as the published research code writes them: what an event tells lies in `data`, the task is the goal's text."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keepstate.cli import cli
from keepstate.traces import Trace, read_trace
from keepstate.traces.check import trace_problems
from keepstate.traces.importing import NOT_CARRIED
from keepstate.traces.reader import iter_conversations
from keepstate.vocabulary import FinishReason, RuntimeName

GOAL = "Choose items. Capacity: 117."
NOTES = {
    "permanent": ("Runtime state: PERMANENT.\n Globals persist eternally.", RuntimeName.PERSISTENT),
    "stateless": ("Runtime state: Python variables DO NOT persist across code blocks.", RuntimeName.FORGET),
    "reset": ("Execution Mode: RESET\n Python variables DO NOT persist. Redefine them.", RuntimeName.FORGET),
    "react": ("You are a simple ReAct-style autonomous agent.", RuntimeName.REACT),
}


def event(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": data, "timestamp": "2026-01-05T10:00:00.000000"}


def step(turn: int, text: str, result: dict[str, Any] | None) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return event("StepEvent", turn=turn, assistant_text=text, code="x", interpreter_result=result, token_usage=usage)


def ran(output: str, error: str | None = None) -> dict[str, Any]:
    return {"success": error is None, "result": None, "output": output, "error": error}


def write(
    folder: Path,
    *events: dict[str, Any],
    note: str = NOTES["permanent"][0],
    reason: str | None = "finish_tool",
    name: str = "knapsack-0a1b",
) -> Path:
    """A trace file of that code."""
    prompts = ["Act by writing code.", note, "Available tools: finish()"]
    opening = [event("StartEvent", task=GOAL), event("SystemPromptEvent", prompts=prompts)]
    closing = [event("FinishEvent", reason=reason, token_usage=None)] if reason else []
    summary = {
        "task": GOAL,
        "system_prompts": prompts,
        "num_steps": len(events),
        "finish_reason": reason,
        "errors": [],
        "token_usage": {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29},
    }
    value = {"started_at": "2026-01-05T10:00:00", "finished_at": None, "summary": summary}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.trace.json"
    path.write_text(json.dumps(value | {"events": [*opening, *events, *closing]}, indent=2))
    return path


def texts(trace: Trace) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in trace.messages]


def test_an_episode_is_read_from_the_data_of_its_events(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, step(1, "Done.", ran("")), step(0, "Look.", ran("[1]\n"))))
    assert texts(trace)[1:] == [
        ("user", GOAL),
        ("assistant", "Look."),
        ("user", '{"output":"[1]\\n"}'),
        ("assistant", "Done."),
    ]
    assert (trace.task.name, trace.runtime) == ("knapsack-0a1b", RuntimeName.PERSISTENT)
    assert (trace.finish_reason, trace.failure) == (FinishReason.FINISHED, None)
    assert trace.summary.token_usage.total_tokens == 29
    assert trace.started_at == "2026-01-05T10:00:00"
    assert "observations by keepstate" in trace.versions[NOT_CARRIED]


@pytest.mark.parametrize("name", NOTES)
def test_the_system_prompts_tell_the_runtime(name: str, tmp_path: Path) -> None:
    note, runtime = NOTES[name]
    trace = read_trace(write(tmp_path, step(0, "a", None), note=note))
    assert trace.runtime is runtime
    assert "which CodeAct runtime" not in trace.versions[NOT_CARRIED]


def test_recorded_observations_stand_as_they_were_shown(tmp_path: Path) -> None:
    shown = '{"observation": {"output": "1"}, "runtime_state": {"runtime": "persistent"}}'
    seen = event("UserObservationEvent", turn=0, content=shown)
    trace = read_trace(write(tmp_path, seen, step(0, "a", ran("1")), step(1, "b", ran(""))))
    assert texts(trace)[3] == ("user", shown)
    assert "observations by keepstate" not in trace.versions[NOT_CARRIED]


def test_a_react_step_holds_its_calls_and_their_input(tmp_path: Path) -> None:
    calls = [{"tool": "inspect", "input": {"item_id": "a"}, "output": "5"}]
    steps = (step(0, "Thought: t", {"tool_calls": calls, "memory": {}}), step(1, "Thought: end", None))
    trace = read_trace(write(tmp_path, *steps, note=NOTES["react"][0]))
    assert trace.steps[0].interpreter_result.results[0].arguments == {"item_id": "a"}
    assert texts(trace)[3] == ("user", "Observation: [inspect] 5")


def test_an_error_or_a_missing_end_is_a_failure_and_a_turn_limit_is_not(tmp_path: Path) -> None:
    crashed = read_trace(write(tmp_path, step(0, "a", ran("")), event("ErrorEvent", error="no server"), reason="error"))
    assert crashed.failure is not None
    assert crashed.failure.message == "no server"
    assert read_trace(write(tmp_path, step(0, "a", ran("")), reason=None)).failure is not None
    limited = read_trace(write(tmp_path, step(0, "a", ran("")), reason="max_turns"))
    assert (limited.failure, limited.finish_reason) == (None, FinishReason.TURN_LIMIT)


def test_the_verdict_beside_it_is_carried_by_the_import(tmp_path: Path) -> None:
    path = write(tmp_path / "in", step(0, "a", ran("")), note=NOTES["stateless"][0])
    metrics = {"gap": 0.25, "chosen": ["a"], "note": None}
    verdict = {"status": "completed", "error": None, "result": {"is_solved": False, "score": 0.75, "metrics": metrics}}
    path.with_name("knapsack-0a1b.json").write_text(json.dumps(verdict | {"started_at": 1.5, "finished_at": 2.5}))
    graded = read_trace(path).verdict
    assert graded is not None
    assert (graded.score, graded.metrics) == (0.75, {"gap": 0.25})
    done = CliRunner().invoke(cli, ["traces", "import", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert read_trace(tmp_path / "out/forget/knapsack-0a1b.trace.json").verdict == graded


def test_the_same_task_is_the_same_in_every_arm(tmp_path: Path) -> None:
    arms = [write(tmp_path / name, step(0, "a", ran("")), note=NOTES[name][0]) for name in ("permanent", "stateless")]
    other = write(tmp_path, step(0, "a", ran("")), name="knapsack-0a1c")
    hashes = [read_trace(path).task.content_hash for path in [*arms, other]]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_goal_that_prints_a_set_is_one_task_in_every_process(tmp_path: Path) -> None:
    """The order of a Python set differs by process; the file's name may say of which arm it is."""
    paths = []
    for arm, classes in (
        ("permanent", "{'A', 'B', \"C's\"}"),
        ("stateless", "{\"C's\", 'B', 'A'}"),
        ("react", "{'A', 'B'}"),
    ):
        path = write(
            tmp_path / arm, step(0, "a", ran("")), note=NOTES[arm][0], name=f"{arm}-run-knapsack-knapsack-0007"
        )
        path.write_text(path.read_text().replace("Choose items.", json.dumps(f"Classes: {classes}.")[1:-1]))
        paths.append(path)
    traces = [read_trace(path) for path in paths]
    assert {trace.task.name for trace in traces} == {"knapsack-knapsack-0007"}
    assert traces[0].task.content_hash == traces[1].task.content_hash != traces[2].task.content_hash
    assert "{\"C's\", 'B', 'A'}" in texts(traces[1])[1][1]  # what it was told stays as it was


def test_what_the_agent_was_told_of_answers_that_did_not_come_is_in_the_conversation(tmp_path: Path) -> None:
    cut, failed = "LLM ended unexpectedly (reason: length). Please continue.", "LLM Call Failed: timeout"
    events = [event("ErrorEvent", error=cut), step(1, "Look.", ran("1")), event("ErrorEvent", error=failed)]
    trace = read_trace(write(tmp_path, *events, step(3, "Done.", ran(""))))
    assert texts(trace)[1] == ("user", f"{GOAL}\n\n{cut}")
    assert texts(trace)[3] == ("user", f'{{"output":"1"}}\n\n{failed}')
    assert "they are joined" in trace.versions[NOT_CARRIED]
    assert trace.failure is None
    assert list(trace_problems(trace)) == []


def test_a_message_recorded_for_a_turn_without_an_answer_is_carried(tmp_path: Path) -> None:
    events = [event("UserObservationEvent", turn=turn, content=f"seen {turn}") for turn in (0, 1)]
    trace = read_trace(write(tmp_path, *events, step(1, "Look.", ran("1")), step(2, "Done.", ran(""))))
    assert [text for role, text in texts(trace) if role == "user"] == [f"{GOAL}\n\nseen 0", "seen 1"]


def test_the_agents_own_errors_are_no_failures_of_ours_and_others_are_named(tmp_path: Path) -> None:
    own = "Traceback (most recent call last):\nlab.tool.ToolRuntimeException: Item class 'K' not allowed."
    errors = [event("ErrorEvent", error=text) for text in (own, "Disk is slow")]
    trace = read_trace(
        write(tmp_path, *errors, step(0, "a", ran("", own)), event("OddEvent", x=1), step(1, "b", ran("")))
    )
    assert trace.failure is None
    assert trace.summary.errors == {"ToolRuntimeException": 1}
    assert [each for each in trace.events if each.type == "ErrorEvent"] == []
    for words in ("errors that did not end it and stand in no step", "events of kind OddEvent"):
        assert words in trace.versions[NOT_CARRIED]


def test_of_an_answer_without_one_action_the_agent_was_told_the_error_alone(tmp_path: Path) -> None:
    error = "Error: You emitted multiple code blocks."
    two = step(0, "a", ran("", error))
    two["data"]["code"] = None
    trace = read_trace(write(tmp_path, two, event("ErrorEvent", error=error), step(1, "b", ran(""))))
    assert texts(trace)[3] == ("user", error)
    assert "did not end it" not in trace.versions[NOT_CARRIED]


def beside(path: Path, status: str, result: Any, **more: Any) -> None:
    path.with_name(path.name.replace(".trace", "")).write_text(json.dumps({"status": status, "result": result, **more}))


GRADED = {"is_solved": False, "score": 0.25, "metrics": {}}


def test_a_run_cut_by_its_clock_is_a_time_limit_with_its_verdict(tmp_path: Path) -> None:
    path = write(tmp_path, step(0, "a", ran("")), reason=None)
    beside(path, "timeout", GRADED, error="")
    trace = read_trace(path)
    assert (trace.finish_reason, trace.failure) == (FinishReason.TIME_LIMIT, None)
    assert trace.verdict is not None
    assert trace.verdict.score == 0.25
    beside(path, "timeout", None)
    assert read_trace(path).failure is not None
    beside(path, "max_steps", GRADED)
    assert read_trace(path).finish_reason is FinishReason.TURN_LIMIT
    beside(path, "completed", GRADED)  # a recording that is not whole, whatever its verdict
    trace = read_trace(path)
    assert trace.failure is not None
    assert "the verdict beside it" in trace.versions[NOT_CARRIED]


def test_a_run_that_its_verdict_calls_failed_is_not_graded(tmp_path: Path) -> None:
    path = write(tmp_path, step(0, "a", ran("")))
    beside(path, "error", GRADED, error="no server")
    trace = read_trace(path)
    assert trace.verdict is None
    assert trace.failure is not None
    assert trace.failure.message == "no server"
    assert read_trace(write(tmp_path / "b", step(0, "a", ran("")), reason="runtime_error")).failure is not None


def test_every_command_reads_the_verdict_beside_a_trace(tmp_path: Path) -> None:
    path = write(tmp_path, step(0, "a", ran("")))
    beside(path, "completed", GRADED)

    def say(*arguments: object) -> str:
        return CliRunner().invoke(cli, ["traces", *map(str, arguments)]).output

    assert "score 0.250" in say("view", path)
    (row,) = json.loads(say("stats", tmp_path, "--json"))
    assert (row["num_graded"], row["average_score"], row["num_not_graded"], row["average_runtime"]) == (
        1,
        0.25,
        {},
        None,
    )
    beside(path, "completed", GRADED | {"score": 85})
    for name in ("check", "import"):
        assert "the verdict beside it is none: score" in say(name, tmp_path)
    path.with_name("knapsack-0a1b.json").write_text("{")
    assert "the verdict beside it, knapsack-0a1b.json, cannot be read" in say("check", tmp_path)


def test_a_verdict_put_beside_imported_rows_is_read(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    CliRunner().invoke(
        cli, ["traces", "import", str(tmp_path / "x.jsonl"), "--runtime", "forget", "--out", str(tmp_path)]
    )
    (path,) = tmp_path.rglob("*.trace.json")
    assert read_trace(path).verdict is None
    beside(path, "completed", GRADED)
    verdict = read_trace(path).verdict
    assert verdict is not None
    assert verdict.score == 0.25


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("timeout", "time_limit"),
        ("TimeoutError", "time_limit"),
        ("max_time", "time_limit"),
        ("runtime_error", "failed"),
        ("max_turns", "turn_limit"),
        ("cancelled", "failed"),
        ("KeyboardInterrupt", "failed"),
        ("length", "turn_limit"),
        ("context_length_error", "context_limit"),
        ("finish_tool", "finished"),
    ],
)
def test_reasons_of_the_research_code(told: str, reason: str, tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, step(0, "a", ran("")), reason=told)).finish_reason == reason


def test_traces_in_a_file_of_rows_are_not_named_after_it(tmp_path: Path) -> None:
    path = write(tmp_path, step(0, "a", ran("")))
    beside(path, "completed", GRADED)
    value = path.read_bytes()
    found = {}
    for name in ("forget-runs.jsonl", "persistent-runs.jsonl", f"{path.name}.gz"):
        (tmp_path / name).write_bytes(gzip.compress(value) if name.endswith("gz") else value)
        ((_, found[name]),) = iter_conversations(tmp_path / name, None)
    rows, packed = [found.pop(name) for name in list(found)[:2]], found.popitem()[1]
    assert all(isinstance(trace, Trace) for trace in (*rows, packed))
    assert rows[0].task == rows[1].task
    assert packed == read_trace(path)
