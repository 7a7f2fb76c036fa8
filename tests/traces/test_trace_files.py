"""Traces on disk: write, read, write gives the same bytes on any text; bad files are named, never fatal."""

import json
from pathlib import Path
from typing import Any

import pytest
from episode_notes import note_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from keepstate.agents.recorder import MAX_ARGUMENT_CHARS, Allowance, jsonable
from keepstate.errors import UserError
from keepstate.traces import BadTrace, TraceError, iter_traces, parse_trace, read_trace, write_trace
from keepstate.traces.schema import trace_json, verdict_json
from keepstate.traces.view import show
from keepstate.vocabulary import RuntimeName

NASTY = st.one_of(
    st.text(st.characters()),
    st.lists(st.sampled_from(["\ud83d", "\ude00", "\x00", "\x1b[2J", "\u2028", "<|im_end|>", "\\", '"', "é😀"])).map(
        "".join
    ),
    st.builds(lambda text, times: text * times, st.text(st.characters(), min_size=1), st.just(5_000)),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), NASTY),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)


@settings(max_examples=60)
@given(st.lists(NASTY, max_size=4), st.one_of(st.none(), NASTY), st.dictionaries(st.text(), JSON))
def test_write_read_write_gives_equal_bytes(
    texts: list[str], failure: str | None, arguments: dict[str, object]
) -> None:
    first = trace_json(note_episode(texts, failure=failure, arguments=arguments))
    again = parse_trace(first)
    assert trace_json(again) == first
    json.loads(first, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    json.loads(verdict_json(again))


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_the_models_text_is_kept_as_it_came(texts: list[str]) -> None:
    trace = parse_trace(trace_json(note_episode(texts)))
    assert [step.assistant_text for step in trace.steps] == texts
    assert [m["content"] for m in trace.messages if m["role"] == "assistant"] == texts


def test_the_verdict_lies_beside_the_trace(tmp_path: Path) -> None:
    trace = note_episode(["a"], score=0.5)
    path = write_trace(tmp_path, trace)
    assert path.name == "knapsack-t0.trace.json"
    assert read_trace(path) == trace
    assert json.loads((tmp_path / "knapsack-t0.json").read_text()) == {
        "status": "completed",
        "error": None,
        "origin": None,
        "result": {"is_solved": False, "score": 0.5, "metrics": {"value": 2.0}},
        "started_at": trace.started_at,
        "finished_at": trace.finished_at,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["knapsack-t0.json", "knapsack-t0.trace.json"]


def test_a_failure_of_ours_has_no_score() -> None:
    verdict = json.loads(verdict_json(note_episode(["a"], failure="worker died")))
    assert verdict["status"] == "failed"
    assert (verdict["error"], verdict["origin"]) == ("worker died", "sandbox")
    assert verdict["result"] == {"is_solved": None, "score": None, "metrics": {}}


def test_the_summary_counts() -> None:
    summary = note_episode(["a", "b"], error_type="NameError").summary
    assert (summary.num_steps, summary.errors) == (2, {"NameError": 2})
    usage = summary.token_usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens) == (30, 6, 36, 1)


def test_schema_of_the_design() -> None:
    value = json.loads(trace_json(note_episode(["a"])))
    assert value["schema"] == "keepstate.trace.v1"
    assert set(value["summary"]) == {"task", "system_prompts", "num_steps", "finish_reason", "errors", "token_usage"}
    assert [event["type"] for event in value["events"]] == [
        "StartEvent",
        "SystemPromptEvent",
        "ModelCallEvent",
        "ModelResponseEvent",
        "StepEvent",
        "FinishEvent",
    ]
    assert {"turn", "assistant_text", "code", "interpreter_result", "token_usage"} <= set(value["events"][4])
    assert value["sampling"] == {"temperature": 0.2, "max_tokens": 12288, "top_p": None}
    assert "secret" not in json.dumps(value)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "the file is empty"),
        (b"  \n", "the file is empty"),
        (b"{", "no valid JSON"),
        (b'{"schema": "keepstate.trace.v1"', "no valid JSON"),
        (b"[" * 200_000, "no valid JSON"),
        (b"\xff\xfe\x00", "no valid JSON"),
        (b"[]", "a JSON array"),
        (b"{}", "expected 'keepstate.trace.v1'"),
        (b'{"schema": "keepstate.trace.v2"}', "'keepstate.trace.v2'"),
        (b'{"schema": "keepstate.trace.v1"}', "missing key 'started_at' (and"),
    ],
)
def test_what_is_no_trace_is_explained(raw: bytes, reason: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(raw)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_named() -> None:
    value = json.loads(trace_json(note_episode(["a"])))
    value["messages"][1]["name"] = "x"
    with pytest.raises(TraceError, match=r"unknown key 'messages\.1\.name'"):
        parse_trace(json.dumps(value).encode())


def test_bad_files_among_good_ones(tmp_path: Path) -> None:
    for number in range(3):
        write_trace(tmp_path / "a", note_episode(["x"], task_id=f"t{number}"))
    (tmp_path / "a" / "knapsack-t1.trace.json").write_text("{")
    (tmp_path / "b.trace.json").mkdir()
    (tmp_path / ".c.trace.json.tmp").write_text("")
    (tmp_path / "d.json").write_text("{}")
    found = dict(iter_traces(tmp_path))
    bad = {path.name: trace.reason for path, trace in found.items() if isinstance(trace, BadTrace)}
    assert set(bad) == {"knapsack-t1.trace.json", "b.trace.json"}
    assert bad["b.trace.json"] == "Is a directory"
    assert len(found) == 4


def test_a_missing_folder_or_file_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        next(iter_traces(tmp_path / "no"))
    with pytest.raises(UserError, match="No such file") as caught:
        read_trace(tmp_path / "no" / "no.trace.json")
    assert caught.value.hint == f"see what is there: keepstate ls {tmp_path}"


def test_the_limits_of_a_trace_are_read_as_they_are_and_none_is_made_up() -> None:
    """Bounds bind a config: an episode that was played beyond them stays readable."""
    value = json.loads(trace_json(note_episode(["a"])))
    beyond = value["limits"] | {"turns": 0, "memory_mib": 1}
    again = parse_trace(json.dumps(value | {"limits": beyond}).encode())
    assert again.limits is not None
    assert again.limits.model_dump() == beyond
    assert again.limits.of(RuntimeName.REACT) == again.limits
    for wrong, words in (
        ({"turns": 40}, "missing key 'limits.seconds'"),
        (beyond | {"turns": "many"}, "limits.turns: Input should be a valid integer"),
        (beyond | {"steps": 3}, "unknown key 'limits.steps'"),
        (3, "limits: a mapping of keys is needed"),
    ):
        with pytest.raises(TraceError, match=words):
            parse_trace(json.dumps(value | {"limits": wrong}).encode())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            {"tool": "a", "arguments": {}, "id": 1},
            r"unknown key 'events\.4\.StepEvent\.interpreter_result\.results\.0\.id'",
        ),
        ({"tool": "a"}, r"missing key 'events\.4\.StepEvent\.interpreter_result\.results\.0\.arguments'"),
        ({"tool": 3, "arguments": {}}, r"results\.0\.tool: Input should be a valid string \(found 3\)"),
        (3, r"results\.0: a mapping of keys is needed \(found 3\)"),
    ],
)
def test_what_is_wrong_with_a_tool_call_is_named(call: object, words: str) -> None:
    value = json.loads(trace_json(note_episode(["a"])))
    value["events"][4]["interpreter_result"]["results"] = [call]
    with pytest.raises(TraceError, match=words):
        parse_trace(json.dumps(value).encode())


def test_hostile_arguments_become_bounded_json() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    value = {"deep": deep, "big": 10**5000, "nan": float("nan"), "long": "x" * 20_000, "object": object(), "t": (True,)}
    safe = jsonable(value, Allowance())
    text = json.dumps(safe, allow_nan=False)
    assert "nested too deep" in text
    assert safe["nan"] == "nan"
    assert safe["big"].startswith("<integer of")
    assert len(safe["long"]) < MAX_ARGUMENT_CHARS + 50
    assert (safe["object"], safe["t"]) == ("<object>", [True])


@pytest.mark.parametrize(
    "value", [[0] * 300_000, {str(n): n for n in range(300_000)}, [["x"] * 50] * 9_000, ["y" * 9_000] * 1_000]
)
def test_what_is_recorded_of_a_step_is_bounded_in_all(value: Any) -> None:
    safe = jsonable(value, Allowance())
    text = json.dumps(safe, allow_nan=False)
    assert len(text) < 1_000_000
    assert "left out" in text
    allowance = Allowance()
    for _ in range(25):
        safe = jsonable({"value": value}, allowance)
    assert len(json.dumps(safe)) < 1_000, "nothing is left for the last of many calls"


def test_what_an_action_took_is_not_shown_where_nobody_measured_it(capsys: pytest.CaptureFixture[str]) -> None:
    trace = note_episode(["a"])
    show(trace, Console())
    assert "action 0.00 s" not in capsys.readouterr().out
