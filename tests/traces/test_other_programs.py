"""Files that other programs wrote, as traces. Each in `elsewhere/` was written by the library that its name tells."""

import gzip
import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from keepstate.cli import cli
from keepstate.dataset.manifest import TrainTurns
from keepstate.dataset.turns import WENT_WRONG, masked_answers
from keepstate.traces import Trace, TraceError, iter_traces
from keepstate.traces.check import trace_problems, turns_problem
from keepstate.traces.exporters import to_atif
from keepstate.traces.importing import NOT_CARRIED, PLACE, inspect_logs, sources, untrained_answers
from keepstate.traces.importing.formats import FORMATS, traces_of
from keepstate.traces.importing.sources import iter_values
from keepstate.vocabulary import FinishReason, RuntimeName

HERE = Path(__file__).parent / "elsewhere"
CALLED = 'Thought: I look.\nAction: [{"tool": "look", "args": {"item": "a"}}]'


def traces(path: Path, runtime: RuntimeName | None = RuntimeName.REACT) -> list[Trace]:
    found = [trace for place, value in iter_values(path) for trace in traces_of(value, runtime, place)]
    for trace in found:
        assert isinstance(trace, Trace), trace
        assert list(trace_problems(trace)) == []
    return found  # type: ignore[return-value]


def texts(trace: Trace) -> list[str]:
    return [message["content"] for message in trace.messages]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["traces", "import", *map(str, arguments)])


@pytest.mark.parametrize("name", ["inspect-0.3.285.eval", "inspect-0.3.90.eval", "inspect-0.3.90.json"])
def test_inspect_logs(name: str) -> None:
    by_task = {trace.task.name: trace for trace in traces(HERE / name)}
    assert set(by_task) == {"weights-w1", "weights-2"}
    trace = by_task["weights-w1"]
    assert texts(trace)[:3] == ["You are terse.", "What is the weight?", CALLED]
    assert "Observation: [look] error: not allowed" in texts(trace)
    assert texts(trace)[-1] == "The answer is 3"
    assert [by_task[task].verdict.score for task in sorted(by_task)] == [0.0, 1.0]  # type: ignore[union-attr]
    assert (trace.model, trace.finish_reason) == ("mockllm/model", FinishReason.FINISHED)
    if "285" in name:  # the older version tells neither
        assert trace.started_at.startswith("2026-11-29T")
        assert (trace.summary.token_usage.total_tokens or 0) > 100


@pytest.mark.parametrize(
    ("change", "finish"),
    [
        ({"error": {"message": "boom", "traceback": ""}}, FinishReason.FAILED),
        ({"limit": {"type": "context", "limit": 1}}, FinishReason.CONTEXT_LIMIT),
        ({"limit": {"type": "message", "limit": 1}}, FinishReason.TURN_LIMIT),
        ({"scores": {"a": {"value": 7}}}, FinishReason.FINISHED),
    ],
)
def test_a_sample_that_ended_otherwise(change: dict[str, Any], finish: FinishReason) -> None:
    log = json.loads((HERE / "inspect-0.3.90.json").read_text())
    log["samples"] = [{**log["samples"][0], **change}]
    (trace,) = traces_of(log, RuntimeName.REACT)
    assert isinstance(trace, Trace)
    assert trace.finish_reason is finish
    if finish is FinishReason.FAILED:
        assert trace.verdict is None
        assert trace.failure is not None
        assert trace.failure.message == "boom"
    if "scores" in change:
        assert trace.verdict is None
        assert "a score that is no number from 0 to 1" in trace.versions[NOT_CARRIED]


def test_one_broken_sample_of_an_archive_is_named_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(HERE / "inspect-0.3.90.eval") as good, zipfile.ZipFile(tmp_path / "x.eval", "w") as file:
        for name in good.namelist():
            if name != "header.json":  # as in a run that was cut
                file.writestr(name, b"{" if name == "samples/2_epoch_1.json" else good.read(name))
    done = run(tmp_path, "--runtime", "react", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "x.eval:samples/2_epoch_1.json: samples/2_epoch_1.json cannot be read" in done.stderr
    assert "1 react; 1 could not be read" in done.stderr
    ((_, trace),) = iter_traces(tmp_path / "out")
    assert isinstance(trace, Trace)
    assert trace.versions[PLACE].endswith("x.eval:samples/w1_epoch_1.json")


def test_a_python_that_knows_no_zstd_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_logs, "_zipfile", lambda: zipfile)
    if sys.version_info < (3, 14):
        ((_, error),) = iter_values(HERE / "inspect-0.3.285.eval")
        assert "install backports.zstd, or have inspect write it as JSON" in str(error)


def test_any_other_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("a.json", "{}")
    ((_, error),) = iter_values(tmp_path / "x.zip")
    assert "zip archive, and no log of inspect_ai's" in str(error)


def test_smolagents_code_is_persistent_and_calls_are_react(tmp_path: Path) -> None:
    (coded,) = traces(HERE / "smolagents-1.26-code.json", None)
    assert coded.runtime is RuntimeName.PERSISTENT
    assert texts(coded)[1] == "Thought: I look.\n```python\nx = look('a')\nprint(x)\n```"
    assert texts(coded)[2].startswith("Execution logs:\na weighs 3")
    assert texts(coded)[4].startswith("Error: Code execution failed")
    assert "system prompt" in coded.versions[NOT_CARRIED]
    (called,) = traces(HERE / "smolagents-1.26-tools.json", None)
    assert called.runtime is RuntimeName.REACT
    assert texts(called)[:4] == [
        "You act by tools.",
        "What is the weight of a?",
        CALLED,
        "Observation: [look] a weighs 3",
    ]
    assert called.summary.token_usage.completion_tokens == 15
    rows = [json.dumps(json.loads((HERE / f"smolagents-1.26-{kind}.json").read_text())) for kind in ("code", "tools")]
    result = json.dumps({"output": 3, "state": "max_steps_error", "steps": json.loads(rows[0]), "timing": {}})
    (tmp_path / "x.jsonl").write_text("\n".join([*rows, result]))
    assert [trace.finish_reason for trace in traces(tmp_path / "x.jsonl")][1:] == ["finished", "turn_limit"]


@pytest.mark.parametrize("name", ["verifiers-0.1.14.jsonl", "verifiers-0.4.0.jsonl"])
def test_verifiers_rollouts(name: str) -> None:
    first, second = traces(HERE / name)
    answers = ['Thought: I add.\nAction: [{"tool": "add", "args": {"a": 2, "b": 2}}]', "4"]
    assert texts(first)[2::2] == answers
    assert first.verdict is not None
    assert first.verdict.is_solved
    if "0.1" in name:
        assert (second.finish_reason, second.verdict and second.verdict.score) == (FinishReason.TURN_LIMIT, 0.25)
        assert first.summary.token_usage.prompt_tokens == 12
    else:
        assert (second.finish_reason, second.verdict) == (FinishReason.FAILED, None)
        assert [step.token_usage.prompt_tokens for step in first.steps] == [10, 17]
        assert first.model == "m"


def test_prompt_and_completion_are_read_where_they_are_messages_or_have_a_reward() -> None:
    talk = [[{"role": role, "content": text}] for role, text in (("user", "u"), ("assistant", "a"))]
    for prompt, completion, more in (
        (*talk, {}),
        ("u", "a", {"reward": 7.5}),
        (talk[0], "a", {"advantage": 0.1, "reward": 1}),
    ):
        (trace,) = traces_of({"prompt": prompt, "completion": completion, **more}, RuntimeName.FORGET)
        assert isinstance(trace, Trace)
        assert texts(trace) == ["u", "a"]
        assert (trace.verdict is not None) is (more.get("reward") == 1)
    with pytest.raises(TraceError, match="this is a row of prompt and completion, which is not read yet"):
        list(traces_of({"prompt": "u", "completion": "a"}, RuntimeName.FORGET))


def test_answers_that_the_model_did_not_give_are_not_to_be_trained() -> None:
    row = json.loads((HERE / "verifiers-0.1.14.jsonl").read_text().splitlines()[0])
    row["prompt"] += [{"role": "assistant", "content": "an example"}, {"role": "user", "content": "and now"}]
    (trace,) = traces_of(row, RuntimeName.REACT)
    assert isinstance(trace, Trace)
    assert untrained_answers(trace) == [0]
    episode = json.loads((HERE / "verifiers-0.4.0.jsonl").read_text().splitlines()[0])
    episode["traces"][0]["nodes"][2]["sampled"] = False
    (trace,) = traces_of(episode, RuntimeName.REACT)
    assert isinstance(trace, Trace)
    assert untrained_answers(trace) == [0]


def test_atif_of_every_version() -> None:
    found = traces(HERE / "harbor-0.26.0-atif.jsonl")
    assert len(found) == 9
    for trace in found:
        assert texts(trace)[0] == "Be terse."
        assert texts(trace)[3] == "Observation: [ls] a.txt\nObservation: [pwd] /work", "in the order of the calls"
        assert trace.summary.token_usage.total_tokens == 72
        assert [step.token_usage.cached_tokens for step in trace.steps] == [4, None]
    assert "key reasoning_content" in found[8].versions[NOT_CARRIED]
    (plain,) = traces(HERE / "harbor-0.26.0-text.json", RuntimeName.FORGET)
    assert texts(plain) == ["Do it.", '{"commands": ["ls"]}', "a.txt", '{"done": true}']


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "judge"}, "source 'judge'"),
        ({"message": [{"type": "image", "source": {"path": "x.png"}}]}, "part of type image"),
        ({"observation": {"results": [{"content": "a"}] * 3}}, "3 results do not tell which of 2 calls"),
    ],
)
def test_what_a_trajectory_holds_and_a_trace_cannot_is_refused(change: dict[str, Any], words: str) -> None:
    trajectory = json.loads((HERE / "harbor-0.26.0-atif.jsonl").read_text().splitlines()[8])
    trajectory["steps"][2] |= change
    with pytest.raises(TraceError, match=words):
        raise next(error for error in traces_of(trajectory, RuntimeName.REACT) if isinstance(error, TraceError))


@pytest.mark.parametrize("change", [{"is_copied_context": True}, {"llm_call_count": 0}])
def test_a_step_that_the_model_did_not_make_here_is_not_to_be_trained(change: dict[str, Any]) -> None:
    trajectory = json.loads((HERE / "harbor-0.26.0-atif.jsonl").read_text().splitlines()[8])
    trajectory["steps"][2] |= change
    (trace,) = traces_of(trajectory, RuntimeName.REACT)
    assert isinstance(trace, Trace)
    assert untrained_answers(trace) == [0]


def test_what_is_exported_as_atif_comes_back(tmp_path: Path) -> None:
    for trace in [*traces(HERE / "inspect-0.3.90.json"), *traces(HERE / "smolagents-1.26-code.json")]:
        (back,) = traces_of(json.loads(json.dumps(to_atif(trace))), None)
        assert isinstance(back, Trace)
        for name in ("messages", "task", "runtime", "model", "verdict", "finish_reason", "started_at"):
            assert getattr(back, name) == getattr(trace, name), name
        assert back.summary.token_usage == trace.summary.token_usage


def test_a_trajectory_in_a_file_named_as_a_trace_is_imported(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/x.trace.json"
    path.write_bytes((HERE / "harbor-0.26.0-text.json").read_bytes())
    for source in (path, tmp_path / "in"):
        done = run(source, "--runtime", "forget", "--out", tmp_path / source.name)
        assert (done.exit_code, "1 forget; 0 could not be read" in done.stderr) == (0, True), done.output


@pytest.mark.parametrize(
    ("beside", "score", "failure"),
    [
        ({}, None, None),
        ({"result.json": {"verifier_result": {"rewards": {"reward": 0.5, "tests": 3}}}}, 0.5, None),
        ({"result.json": {"verifier_result": {"rewards": {"tests": 1.0}}}}, 1.0, None),
        ({"result.json": {"verifier_result": None}, "verifier/reward.txt": 0}, 0.0, None),
        ({"verifier/reward.json": {"reward": 1}}, 1.0, None),
        ({"result.json": {"exception_info": {"exception_type": "E", "exception_message": "m"}}}, None, "E: m"),
        ({"result.json": {"verifier_result": {"rewards": {"reward": 7}}}}, None, None),
    ],
)
def test_what_lies_beside_a_trajectory_of_harbors_grades_it(
    beside: dict[str, Any], score: float | None, failure: str | None, tmp_path: Path
) -> None:
    trial = tmp_path / "trial"
    (trial / "agent").mkdir(parents=True)
    (trial / "verifier").mkdir()
    (trial / "agent/trajectory.json").write_bytes((HERE / "harbor-0.26.0-text.json").read_bytes())
    for name, told in beside.items():
        named = {"task_name": "org/t", "trial_name": "t__1", **told} if name == "result.json" else told
        (trial / name).write_text(json.dumps(named))
    done = run(tmp_path, "--runtime", "forget", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    ((_, trace),) = iter_traces(tmp_path / "out")
    assert isinstance(trace, Trace)
    assert trace.verdict == (None if score is None else trace.verdict)
    assert trace.verdict is None or (trace.verdict.score, trace.verdict.is_solved) == (score, score == 1)
    assert (trace.failure and trace.failure.message) == failure
    assert (trace.task.name == "harbor-org-t") == ("result.json" in beside)


def test_what_the_user_says_after_the_last_answer_need_not_be_text() -> None:
    image = {"role": "user", "content": [{"type": "image", "source": {"path": "x.png"}}]}
    row = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, image]
    (trace,) = traces_of(row, RuntimeName.REACT)
    assert isinstance(trace, Trace)
    assert texts(trace) == ["a", "b"]
    assert "what the user says after the last answer, which is more than text" in trace.versions[NOT_CARRIED]
    (bad,) = traces_of([*row, row[1]], RuntimeName.REACT)
    assert "part of type image, which text cannot carry" in str(bad)
    assert "this is an ATIF trajectory; step 1: source" in str(
        next(traces_of({"schema_version": "ATIF-v1.8", "steps": [{"step_id": 1}]}, RuntimeName.REACT))
    )


def test_exports_of_harbor_hold_model_task_and_result() -> None:
    talk = [{"role": role, "content": text} for role, text in (("user", "u"), ("assistant", "a"))]
    row = {
        "conversations": talk,
        "agent": "terminus-2",
        "model": "m",
        "task": "org/t-1",
        "trial_name": "t",
        "run_id": "r",
    }
    for told, score in (("1.0", 1.0), (None, None), ("0.5", 0.5)):
        (trace,) = traces_of({**row, "episode": "episode-0", "result": told}, RuntimeName.FORGET)
        assert isinstance(trace, Trace)
        assert (trace.task.name, trace.model) == ("harbor-org-t-1", "m")
        assert (trace.verdict.score if trace.verdict else None) == score
    (failed,) = traces_of({**row, "episode": "episode-0", "result": "AgentTimeoutError"}, RuntimeName.FORGET)
    assert isinstance(failed, Trace)
    assert failed.failure is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "steps",
                    "nodes",
                    "traces",
                    "samples",
                    "messages",
                    "eval",
                    "status",
                    "task",
                    "env",
                    "prompt",
                    "completion",
                    "reward",
                    "role",
                    "content",
                    "message",
                    "source",
                    "parent",
                    "sampled",
                    "step_number",
                    "model_output",
                    "code_action",
                    "tool_calls",
                    "observation",
                    "results",
                    "agent",
                    "extra",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
ODD: tuple[Any, ...] = (None, 5, -1, True, 1e308, 10**400, "x", "", "[]", [], {}, [5], [None], [[]], {"a": 1})


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every object or array within a value, with each of its keys."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inside for place in [(value, key), *places_in(item)]]


@given(st.data())
def test_a_sample_with_anything_in_any_place_is_read_or_refused_by_itself(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([path.name for path in sorted(HERE.iterdir())]))
    value = deepcopy(data.draw(st.sampled_from([value for _, value in iter_values(HERE / name)])))
    for _ in range(data.draw(st.integers(1, 3))):
        if places := places_in(value):
            inside, key = data.draw(st.sampled_from(places))
            inside[key] = deepcopy(data.draw(st.sampled_from(ODD)))
    with suppress(TraceError):  # it is of no format any more
        for trace in traces_of(value, RuntimeName.REACT):
            told = isinstance(trace, TraceError) or turns_problem(trace.messages)
            assert told or list(trace_problems(trace)) == []


def test_a_file_with_one_row_that_is_misbuilt_loses_that_row_alone(tmp_path: Path) -> None:
    good = (HERE / "harbor-0.26.0-atif.jsonl").read_text().splitlines()[0]
    bad = json.loads(good)
    bad["steps"][0]["source"] = ["user"]
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(bad)}\n{good}\n")
    result = run(tmp_path / "rows.jsonl", "--runtime", "react", "--out", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "rows.jsonl:1: this is an ATIF trajectory, and not built as one: TypeError" in result.output
    assert len(list(iter_traces(tmp_path / "out"))) == 1


def test_an_action_that_went_wrong_is_known_by_what_the_source_says_of_it() -> None:
    def said(*messages: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": "u"}, *messages, {"role": "assistant", "content": "b"}]}

    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": {}}}]}
    for mark in ({"is_error": True}, {"status": "error"}):
        (trace,) = traces_of(
            said(call, {"role": "tool", "tool_call_id": "1", "content": "no", **mark}), RuntimeName.REACT
        )
        assert isinstance(trace, Trace)
        assert masked_answers(trace, trace.messages, TrainTurns.CLEAN) == {0: WENT_WRONG}
        assert texts(trace)[2] == "Observation: [look] error: no"
        assert "status" not in trace.versions[NOT_CARRIED]
    ((_, memory),) = iter_values(HERE / "smolagents-1.26-code.json")  # whose second step raised
    (trace,) = traces_of(memory, None)
    assert isinstance(trace, Trace)
    assert masked_answers(trace, trace.messages, TrainTurns.CLEAN) == {1: WENT_WRONG}


def test_steps_out_of_order_are_refused() -> None:
    trajectory = json.loads((HERE / "harbor-0.26.0-text.json").read_text())
    trajectory["steps"][:2] = trajectory["steps"][1::-1]
    (error,) = traces_of(trajectory, RuntimeName.FORGET)
    assert "its steps are out of order: step 1 comes after step 2" in str(error)


@pytest.mark.parametrize(
    ("more", "finish"),
    [
        ({"is_truncated": True}, FinishReason.CONTEXT_LIMIT),
        ({"stop_condition": "generation_truncated"}, FinishReason.CONTEXT_LIMIT),
        ({"is_completed": False}, FinishReason.FAILED),
        ({"is_completed": True, "is_truncated": False}, FinishReason.FINISHED),
    ],
)
def test_a_rollout_that_was_cut_is_not_finished(more: dict[str, Any], finish: FinishReason) -> None:
    (trace,) = traces_of({"prompt": "u", "completion": "a", "reward": 1.0, **more}, RuntimeName.REACT)
    assert isinstance(trace, Trace)
    assert trace.finish_reason is finish


def test_an_example_in_a_sample_of_inspects_is_not_to_be_trained() -> None:
    log = json.loads((HERE / "inspect-0.3.90.json").read_text())
    example = [
        {"role": "user", "content": "2?", "source": "input"},
        {"role": "assistant", "content": "4", "source": "input"},
    ]
    log["samples"] = [log["samples"][0] | {"messages": [*example, *log["samples"][0]["messages"][-2:]]}]
    log["samples"][0]["messages"][-2:] = [{"role": "user", "content": "3?"}, {"role": "assistant", "content": "6"}]
    (trace,) = traces_of(log, RuntimeName.FORGET)
    assert isinstance(trace, Trace)
    assert untrained_answers(trace) == [0]


@pytest.mark.parametrize(
    ("wrote", "code", "answer"),
    [
        ("Error code: 5 means no.\n<code>\nx = 1\n</code>", "x = 1", "Error code: 5 means no.\n```python\nx = 1\n```"),
        ("Thought: so.\nCode:\n```py\nx = 1\n```<end_code>", "x = 1", "Thought: so.\n```python\nx = 1\n```"),
        ("I call f(5).\n<code>\nf(5)\n</code>", "f(5)", "I call f(5).\n```python\nf(5)\n```"),
        ("Is x it?\nCode:\n```py\nx\n```", "x", "Is x it?\n```python\nx\n```"),
        ('{"thought": "So.", "code": "x = \\"1\\""}', 'x = "1"', 'So.\n```python\nx = "1"\n```'),
        ("So.\nx = 1", "x = 1", "So.\n```python\nx = 1\n```"),
        ("A\n```py\nx\n```\nB\n```py\ny\n```", "x\n\ny", "A\n```python\nx\n\ny\n```"),
        ("<code>\ns = '''\n```\n'''\n</code>", "s = '''\n```\n'''", "````python\ns = '''\n```\n'''\n````"),
    ],
)
def test_the_thought_before_code_is_whole_and_the_code_one_block(wrote: str, code: str, answer: str) -> None:
    steps = [{"task": "t"}, {"step_number": 1, "model_output": wrote, "code_action": code, "observations": ""}]
    (trace,) = traces_of(steps, None)
    assert isinstance(trace, Trace)
    assert texts(trace)[1] == answer


OPENINGS: tuple[dict[str, Any], ...] = (
    {"schema_version": "ATIF-v1.6", "agent": {"name": "keepstate-x"}},
    {"eval": {}, "status": "success"},
    {"prompt": [], "completion": [], "reward": 1},
    {"task": {}, "env": {}, "traces": []},
    {"conversations": [], "agent": "", "trial_name": "", "run_id": "", "episode": ""},
)


@given(
    st.sampled_from(OPENINGS),
    st.dictionaries(st.sampled_from(["steps", "samples", "traces", "completion", "agent", "nodes"]), JSON),
)
def test_any_value_is_a_trace_or_refused(opening: dict[str, Any], more: dict[str, Any]) -> None:
    try:
        for trace in traces_of({**opening, **more}, RuntimeName.REACT):
            assert isinstance(trace, Trace | TraceError)
    except TraceError:
        pass


def test_every_sample_is_known_to_one_format_and_rows_come_last() -> None:
    for path in HERE.iterdir():
        for _, value in iter_values(path):
            assert next(each for each in FORMATS if each.known(value)) is not FORMATS[-1]
    assert FORMATS[-1].name == "a row of messages"


def rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        talk = [{"role": "user", "content": f"u{number}"}, {"role": "assistant", "content": "a"}]
        yield {"id": number, "messages": talk}


@pytest.mark.parametrize("glue", ["", "\ufeff", " ", "\r\n\ufeff", "\r"])
def test_files_that_were_glued_together_are_read_to_the_last_row(glue: str, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows(4)]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "x.jsonl").write_bytes("\n".join([lines[0], glue.join(lines[1:3]), lines[3]]).encode(encoding))
        assert len(traces(tmp_path / "x.jsonl")) == 4
        (tmp_path / "y.jsonl").write_bytes(glue.join(lines).encode(encoding))
        assert len(traces(tmp_path / "y.jsonl")) == 4


def test_what_memory_cannot_hold_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MOST_CHARS", 1000)
    many = [json.dumps(row) for row in rows(100)]
    (tmp_path / "x.jsonl").write_text("\n".join(many))
    assert len(traces(tmp_path / "x.jsonl")) == 100, "one a line has no bound"
    for number, text in enumerate((f"[{','.join(many)}]", "[\n" + ",\n".join(many) + "]")):
        for pack in (bytes, gzip.compress):
            (tmp_path / f"{number}.json").write_bytes(pack(text.encode()))
            ((_, error),) = iter_values(tmp_path / f"{number}.json")
            assert "jq -c" in str(error)


def test_empty_think_blocks_are_stripped_on_the_command_line(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "<think>\n</think>\n\na"}]}
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    kept, stripped = (tmp_path / name for name in ("kept", "stripped"))
    told = run(tmp_path / "x.jsonl", "--runtime", "forget", "--out", kept)
    assert (told.exit_code, "before answers in 1: --strip-empty-think" in told.stderr) == (0, True)
    done = run(tmp_path / "x.jsonl", "--runtime", "forget", "--out", stripped, "--strip-empty-think")
    assert "not carried over in 1: the empty think block" in done.stderr
    for folder, text in ((kept, "<think>\n</think>\n\na"), (stripped, "a")):
        ((_, trace),) = iter_traces(folder)
        assert isinstance(trace, Trace)
        assert trace.messages[-1]["content"] == text
    again = run(kept, "--out", tmp_path / "again", "--strip-empty-think")
    assert again.exit_code == 0
    ((_, trace),) = iter_traces(tmp_path / "again")
    assert isinstance(trace, Trace)
    assert trace.messages[-1]["content"] == "a"
