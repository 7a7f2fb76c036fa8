"""Files as the published research code writes them: what an event tells lies in `data`, the task is the goal's text."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keepstate.cli import cli
from keepstate.traces import Trace, read_trace
from keepstate.traces.imported import NOT_CARRIED, with_verdict
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
    graded = with_verdict(path, read_trace(path)).verdict
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
