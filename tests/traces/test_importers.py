"""Traces from elsewhere: what is carried over, what is named as lost, and that nothing hostile gets through."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from keepstate.cli import cli
from keepstate.dataset.manifest import TrainTurns
from keepstate.dataset.turns import masked_answers, training_flags
from keepstate.tasks import make_tasks
from keepstate.traces import Trace, TraceError, parse_trace, read_trace
from keepstate.traces.check import trace_problems
from keepstate.traces.exporters import to_atif, to_messages, to_sharegpt
from keepstate.traces.importing import NOT_CARRIED, PLACE, stripped, untrained_answers
from keepstate.traces.importing.formats import traces_of
from keepstate.vocabulary import FinishReason, Origin, RuntimeName

TASK = {"task_id": "a1", "family": "knapsack", "seed": 3, "difficulty": {"name": "easy"}, "nl": "Fill the sack."}


def conversation_trace(row: Any, runtime: RuntimeName, place: str = "") -> Trace:
    """The one trace in a value."""
    (trace,) = traces_of(row, runtime, place)
    if isinstance(trace, TraceError):
        raise trace
    return trace


def step(turn: int, text: str, **result: Any) -> dict[str, Any]:
    return {"type": "StepEvent", "turn": turn, "assistant_text": text, "code": "x", "interpreter_result": result}


def research(*events: dict[str, Any], **keys: Any) -> bytes:
    start = {"type": "StartEvent", "task": TASK}
    prompts = {"type": "SystemPromptEvent", "prompts": ["Act.", "Tools."]}
    return json.dumps({"events": [start, prompts, *events], **keys}).encode()


FINISH = {"type": "FinishEvent", "reason": "finish_called"}


def texts(trace: Trace) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in trace.messages]


def test_a_codeact_episode_is_put_together_in_order_of_turns() -> None:
    late = step(1, "then", output="")
    first = step(0, "look", output="[1]\n", error="NameError: x", globals=["b", "a"])
    trace = parse_trace(research(FINISH, late, first, runtime="stateless"))
    assert texts(trace) == [
        ("system", "Act.\n\nTools."),
        ("user", "Fill the sack."),
        ("assistant", "look"),
        ("user", '{"output":"[1]\\n","error":"NameError: x","globals":["a","b"]}'),
        ("assistant", "then"),
    ]
    assert (trace.runtime, trace.finish_reason, trace.failure) == (RuntimeName.FORGET, FinishReason.FINISHED, None)
    assert trace.summary.errors == {"NameError": 1}
    assert trace.task.name == "knapsack-a1"
    assert "2 system messages" in trace.versions[NOT_CARRIED]


@pytest.mark.parametrize("key", ["results", "tool_calls"])
def test_react_results_of_both_generations(key: str) -> None:
    calls = [{"tool": "inspect", "args": {"item_id": "a"}, "output": "5"}]
    trace = parse_trace(research(step(0, "Thought", **{key: calls}), step(1, "Done"), FINISH))
    assert trace.runtime is RuntimeName.REACT
    assert trace.messages[3]["content"] == "Observation: [inspect] 5"
    assert trace.steps[0].interpreter_result.results[0].arguments == {"item_id": "a"}


def test_a_file_that_breaks_off_is_a_failure_and_not_a_bad_score() -> None:
    trace = parse_trace(research(step(0, "look")))
    assert trace.failure is not None
    assert trace.failure.origin is Origin.RUNTIME
    assert trace.verdict is None
    assert parse_trace(research(step(0, "a"), summary={"finish_reason": "max_turns"})).finish_reason == "turn_limit"


def test_the_runtime_that_a_file_does_not_tell_is_marked_as_assumed() -> None:
    assert "CodeAct runtime" in parse_trace(research(step(0, "a"), FINISH)).versions[NOT_CARRIED]


def test_the_goal_is_the_tasks_own_or_its_familys_and_never_invented() -> None:
    (task,) = make_tasks("knapsack", "mini", 1, 0)
    raw = task.model_dump(by_alias=True) | {"schema": "pythonformer.task.v1"}
    event = {"type": "StartEvent", "task": raw}
    told = parse_trace(json.dumps({"events": [event, step(0, "a"), FINISH]}).encode())
    assert str(task.public["capacity"]) in told.messages[0]["content"]
    alone = {"events": [{"prompts": ["Only one."]}, step(0, "a"), FINISH]}
    with pytest.raises(TraceError, match="goal"):
        parse_trace(json.dumps(alone).encode())


def test_a_task_id_cannot_leave_the_folder(tmp_path: Path) -> None:
    evil = {"type": "StartEvent", "task": {**TASK, "task_id": "../../evil"}}
    source = tmp_path / "in" / "x.trace.json"
    source.parent.mkdir()
    source.write_text(json.dumps({"events": [evil, step(0, "a"), FINISH]}))
    done = CliRunner().invoke(cli, ["traces", "import", str(source), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    (written,) = tmp_path.rglob("out/**/*.trace.json")
    assert read_trace(written).task.task_id.startswith("x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("turn", "assistant_text", "interpreter_result", "results", "tool_calls", "task", "prompts", "reason", "type")


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON | st.just("StepEvent"), max_size=5), max_size=4), JSON)
def test_any_event_list_is_a_trace_or_refused(events: list[dict[str, Any]], summary: Any) -> None:
    with suppress(TraceError):
        parse_trace(json.dumps({"events": events, "summary": summary}).encode())


@given(st.dictionaries(st.sampled_from(["messages", "conversations", "id", "x"]), JSON))
def test_any_row_is_a_trace_or_refused(row: dict[str, Any]) -> None:
    with suppress(TraceError):
        conversation_trace(row, RuntimeName.REACT)


TALK = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "o"), ("assistant", "b")]


def test_messages_and_sharegpt_go_in_and_out_unchanged() -> None:
    row = {"messages": [{"role": role, "content": text} for role, text in TALK]}
    trace = conversation_trace(row, RuntimeName.PERSISTENT)
    assert texts(trace) == TALK
    assert to_messages(trace)["messages"] == row["messages"]
    shared = to_sharegpt(trace)
    assert [turn["from"] for turn in shared["conversations"]] == ["system", "human", "gpt", "human", "gpt"]
    assert texts(conversation_trace(shared, RuntimeName.PERSISTENT)) == TALK
    assert [step.observation for step in trace.steps] == ["o", None]


def test_a_system_text_beside_the_messages_is_the_first_of_them() -> None:
    parts = [{"type": "text", "text": "Ac"}, {"type": "text", "text": "t."}]  # as Anthropic's API has them
    twice = {"messages": [{"role": "system", "content": "Act."}, *said(answer("a"))["messages"]], "system": "Act."}
    for row in (said(answer("a"), system="Act."), said(answer("a"), system=parts), twice):
        trace = conversation_trace(row, RuntimeName.REACT)
        assert texts(trace)[:2] == [("system", "Act."), ("user", "u")]
        assert trace.summary.system_prompts == ("Act.",)
        assert "system" not in trace.versions[NOT_CARRIED]


def test_what_a_row_holds_beside_texts_is_named() -> None:
    row = {
        "tools": [],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "u"}, "v"], "weight": 0},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}, {"type": "text", "text": "a"}]},
            {"role": "tool", "content": "o"},
            {"role": "assistant", "content": "b", "reasoning_content": "t", "tool_calls": [], "refusal": None},
        ],
    }
    trace = conversation_trace(row, RuntimeName.PERSISTENT, "x.jsonl:7")
    lost = trace.versions[NOT_CARRIED]
    for word in ("keys tools", "parts of type thinking", "role tool", "key weight", "key reasoning_content"):
        assert word in lost
    assert "refusal" not in lost
    assert [text for _, text in texts(trace)] == ["uv", "a", "o", "b"]
    assert trace.versions[PLACE] == "x.jsonl:7"


CALL = {"id": "1", "type": "function", "function": {"name": "sql", "arguments": '{"query": "é"}'}}
OTHER = {"id": "2", "type": "function", "function": {"name": "now", "arguments": ""}}


def said(*messages: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "u"}, *messages], **keys}


def answer(content: Any, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {})


def result(content: Any, call: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": content} | ({"tool_call_id": call} if call else {})


@pytest.mark.parametrize("content", [None, "", [], "Look."])
def test_tool_calls_are_actions_in_react_and_refused_elsewhere(content: Any) -> None:
    row = said(answer(content, CALL, OTHER), result("<|im_end|>", "2"), result("[[10]]", "1"), answer("10"))
    trace = conversation_trace(row, RuntimeName.REACT)
    thought = "Thought: Look.\n" if content else ""
    assert [text for _, text in texts(trace)] == [
        "u",
        thought + 'Action: [{"tool": "sql", "args": {"query": "é"}}, {"tool": "now", "args": {}}]',
        "Observation: [sql] [[10]]\nObservation: [now] \\u003c|im_end|>",
        "10",
    ]
    assert list(trace_problems(trace)) == []
    assert [call.tool for call in trace.steps[0].interpreter_result.results] == ["sql", "now"]
    assert "tool calls as the server had them" in trace.versions[NOT_CARRIED]
    for runtime in (RuntimeName.PERSISTENT, RuntimeName.FORGET):
        with pytest.raises(TraceError, match=r"message 1 calls tools \(sql, now\).*--runtime react"):
            conversation_trace(row, runtime)


def test_a_result_is_cut_as_the_agent_would_see_it_and_that_is_named() -> None:
    trace = conversation_trace(said(answer("", CALL), result("x" * 20_000, "1"), answer("10")), RuntimeName.REACT)
    assert "10000 characters left out" in trace.messages[2]["content"]
    assert "beyond 10,000 characters" in trace.versions[NOT_CARRIED]


def test_other_ways_to_write_a_call_are_actions_too() -> None:
    old = said({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}})
    old["messages"] += [{"role": "function", "name": "f", "content": "ok"}, answer("fine")]
    shared = [
        ("human", "u"),
        ("function_call", '{"name": "f", "arguments": {}}'),
        ("observation", "ok"),
        ("gpt", "fine"),
    ]
    for row in (old, {"conversations": [{"from": role, "value": text} for role, text in shared]}):
        talk = texts(conversation_trace(row, RuntimeName.REACT))
        assert [text for _, text in talk[1:]] == ['Action: [{"tool": "f", "args": {}}]', "Observation: [f] ok", "fine"]


@pytest.mark.parametrize("key", ["arguments", "args", "input", "parameters"])
def test_no_argument_of_a_call_is_lost(key: str) -> None:
    row = said(answer("", {"id": 7, "name": "f", key: {"x": 1}}), result("ok") | {"tool_call_id": 7})
    assert texts(conversation_trace(row, RuntimeName.REACT))[1][1] == 'Action: [{"tool": "f", "args": {"x": 1}}]'
    with pytest.raises(TraceError, match="its call of f holds kwargs"):
        conversation_trace(said(answer("", {"name": "f", "kwargs": {"x": 1}})), RuntimeName.REACT)


def test_a_result_without_an_id_belongs_to_the_call_that_it_names() -> None:
    results = [result("noon") | {"tool_name": "now"}, result("[]") | {"tool_name": "sql"}]
    row = said(answer("", CALL, OTHER), *results, answer("x"))
    assert texts(conversation_trace(row, RuntimeName.REACT))[2][1] == "Observation: [sql] []\nObservation: [now] noon"
    with pytest.raises(TraceError, match="result of call 'rm'"):
        conversation_trace(said(answer("", CALL), result("x") | {"name": "rm"}), RuntimeName.REACT)


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (said(answer("a", CALL), answer("b")), "before message 2, calls have no result: sql"),
        (said(answer("a", CALL, OTHER), result("x", "1")), "calls have no result: now"),
        (said(answer("a", CALL), result("x", "9")), "result of call '9', which the answer before does not make"),
        (said(result("x", "1"), answer("a")), "message 1 is the result of a tool call, and no answer before"),
        (said(answer("x\nAction: []", CALL)), "its text spells an action as well"),
        (said(answer('Action: [{"tool": "f", "args": {}}]', CALL)), "its text spells an action as well"),
        (said(answer("x", CALL) | {"function_call": OTHER}), "`tool_calls` and `function_call`"),
        (said({"type": "ai", "data": {"content": "x"}}), "as LangChain dumps it, which is not read yet"),
        (said(answer("a", {"type": "function"})), "a tool call without a name"),
        (
            said(answer("a", {"function": {"name": "f", "arguments": "x"}})),
            "the arguments of its call of f are no JSON",
        ),
        (said({"role": "user", "content": "", "tool_calls": [CALL]}), "calls tools \\(sql\\) and is the user's"),
        (said(answer(["a", IMAGE])), "message 1 holds a part of type image_url"),
        (said(answer([{"type": {}, "text": "a"}])), "message 1 holds a part of type {}"),
        (said(answer([{"type": "tool_use", "name": "f"}])), "message 1 holds a part of type tool_use"),
        (said(answer("a"), images=["x.png"]), "it holds images"),
        (said(answer("a") | {"audio": {"id": "1"}}), "message 1 holds audio"),
        (said(answer("a") | {"image_url": "x"}), "message 1 holds image_url"),
        (said(answer("a"), attachments=["x"]), "it holds attachments"),
        *(
            (said(answer("Look.") | {key: [CALL]}), f"message 1 holds `{key}`")
            for key in ("toolCalls", "tool_call", "toolInvocations", "function_calls", "action")
        ),
        *(
            (said(answer("a"), {"role": "user", "content": told}), "message 2 .user. holds no text")
            for told in (None, [])
        ),
        (said(answer({"a": 1})), "message 1 holds a JSON object where its text is due"),
        *((said(answer(content)), "message 1 is an answer without text") for content in (None, "", [])),
    ],
)
def test_a_row_that_would_lose_something_is_refused(row: dict[str, Any], words: str) -> None:
    with pytest.raises(TraceError, match=words):
        conversation_trace(row, RuntimeName.REACT)


def test_user_messages_that_follow_one_another_are_joined_and_that_is_named() -> None:
    more = {"role": "user", "content": "and be quick"}
    trace = conversation_trace(said(more, answer("a", CALL), result("x", "1"), more, answer("b")), RuntimeName.REACT)
    assert [text for _, text in texts(trace)][::2] == ["u\n\nand be quick", "Observation: [sql] x\n\nand be quick"]
    assert trace.steps[0].observation == "Observation: [sql] x\n\nand be quick"
    assert "they are joined" in trace.versions[NOT_CARRIED]
    assert list(trace_problems(trace)) == []


def test_an_empty_think_block_is_taken_off_when_asked_and_a_thought_never() -> None:
    empty = "<think>\n\n</think>\n\n"
    told = conversation_trace(said(answer(f"{empty}yes"), answer("<think>x</think>no")), RuntimeName.FORGET)
    assert [text for _, text in texts(told)] == ["u", f"{empty}yes", "<think>x</think>no"]
    assert stripped(stripped(told)) == stripped(told)
    trace = stripped(told)
    assert [text for _, text in texts(trace)] == ["u", "yes", "<think>x</think>no"]
    assert trace.steps[0].assistant_text == "yes"
    acting = conversation_trace(said(answer(empty, CALL), result("", "1"), answer(empty * 2 + "b")), RuntimeName.REACT)
    assert texts(acting)[1][1].startswith(f"{empty}Action: ")
    acting = stripped(acting)
    assert [text for _, text in texts(acting)][1::2] == ['Action: [{"tool": "sql", "args": {"query": "é"}}]', "b"]
    events = stripped(parse_trace(research(step(0, f"{empty}a"), step(1, "b"), FINISH)))
    assert [step.assistant_text for step in events.steps] == ["a", "b"]
    assert list(trace_problems(events)) == []
    for made in (trace, acting, events):
        assert "the empty think block before answers" in made.versions[NOT_CARRIED]


@pytest.mark.parametrize("key", ["weight", "train", "trainable", "loss"])
def test_an_answer_that_is_not_to_be_trained_is_told_in_the_trace_and_its_exports(key: str) -> None:
    go_on = {"role": "user", "content": "go on"}
    for value in (0, 0.0, False):
        row = said(answer("a"), go_on, answer("b") | {key: value}, go_on, answer("c"))
        trace = conversation_trace(row, RuntimeName.REACT)
        assert untrained_answers(trace) == [1]
        assert key not in trace.versions[NOT_CARRIED]
        for export in (to_messages, to_sharegpt):
            assert untrained_answers(conversation_trace(export(trace), RuntimeName.REACT)) == [1]
        for choice, trained in ((TrainTurns.ALL, [0, 2]), (TrainTurns.CLEAN, [0, 2]), (TrainTurns.LAST, [2])):
            masked = masked_answers(trace, trace.messages, choice)
            flags = training_flags(trace.messages, masked, choice)
            assert flags is not None
            assert [turn for turn, is_trained in enumerate(flags) if is_trained] == trained
    for odd in ("0", 0.5):
        with pytest.raises(TraceError, match=f"message 1 has {key} .*where 0 and 1 are known"):
            conversation_trace(said(answer("a") | {key: odd}, answer("b")), RuntimeName.REACT)
    kept = said({"role": "system", "content": "s", key: 0}, answer("a") | {key: 1}, answer("b") | {key: None})
    assert len(conversation_trace(kept, RuntimeName.REACT).messages) == 4
    with pytest.raises(TraceError, match="the row is not to be trained"):
        conversation_trace(said(answer("a"), **{key: 0}), RuntimeName.REACT)


def test_a_verdict_that_contradicts_itself_is_told(tmp_path: Path) -> None:
    (tmp_path / "knapsack-a1.trace.json").write_bytes(research(step(0, "a"), FINISH))
    for solved, score, odd in ((True, 0.1, True), (False, 1.0, True), (True, 1.0, False), (False, 0.9, False)):
        told = {"status": "completed", "result": {"is_solved": solved, "score": score}}
        (tmp_path / "knapsack-a1.json").write_text(json.dumps(told))
        trace = read_trace(tmp_path / "knapsack-a1.trace.json")
        assert ("verdict contradicts itself" in trace.versions[NOT_CARRIED]) is odd
        assert trace.verdict is not None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"schema_version": "ATIF-v1.8", "steps": []}, "ATIF trajectory without steps"),
        (
            {"schema_version": "ATIF-v2.0", "steps": [{}]},
            "trajectory of version ATIF-v2.0, .* not read yet",
        ),
        ({"type": "user", "message": {}, "uuid": "1"}, "this is one event of a Claude Code session.* not read yet"),
        ({"object": "response", "output": []}, "Responses API"),
        ({"contents": []}, "Gemini"),
        ({"prompt": "q", "completion": "a"}, "prompt and completion"),
        ({"instruction": "q", "input": "", "output": "a"}, "Alpaca"),
        ({"trajectory": []}, "trajectory"),
        ({"status": "completed", "error": None, "result": {}}, "this is a verdict; name its trace"),
        ({"messages": "[]"}, "`messages` is text"),
        ({"chosen": [], "rejected": []}, "preferences"),
        ({"y": 1, "x": 1}, "neither `messages` nor `conversations` is a list; its keys: x, y"),
        ({}, "its keys: none"),
        ({"messages": {"role": ["user"]}}, "`messages` is a JSON object, where a list"),
        ({"type": "summary", "summary": "s", "leafUuid": "1"}, "Claude Code"),
        ({"type": "item.completed", "item": {}}, "Codex"),
        ({"title": "t", "mapping": {}, "current_node": "a"}, "ChatGPT"),
        ({"simulations": []}, "tau2-bench"),
        ([{"type": "human", "content": "q"}], "message 0 is as LangChain dumps it"),
        ([{"type": "TextMessage", "source": "user", "content": "q"}], "its keys: content, source, type"),
        ([{"id": 0, "source": "user", "action": "message"}], "an event of OpenHands"),
        ([{"role": "user", "parts": [{"text": "q"}]}], "holds `parts`, as Gemini's and"),
        (7, "a JSON number"),
    ],
)
def test_a_format_that_is_not_read_is_named(row: Any, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        conversation_trace(row, RuntimeName.REACT)


def test_a_trace_of_another_format_is_named_in_a_trace_file_too() -> None:
    with pytest.raises(TraceError, match="it is an ATIF trajectory, no trace: keepstate traces import reads it"):
        parse_trace(b'{"schema_version": "ATIF-v1.8"}')
    with pytest.raises(TraceError, match="it is a row of messages"):
        parse_trace(json.dumps(said(answer("a"))).encode())


def test_the_command_names_every_bad_line_and_ends_with_1(tmp_path: Path) -> None:
    lines = [json.dumps({"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]})] * 2
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, "{", "[]", '{"messages": [{"role": "judge"}]}']))
    out = tmp_path / "out"
    done = CliRunner().invoke(
        cli, ["traces", "import", str(tmp_path / "in.jsonl"), "--runtime", "react", "--out", str(out)]
    )
    assert done.exit_code == 1
    assert [f"in.jsonl:{number}" in done.stderr for number in (1, 2, 3, 4, 5)] == [False, False, True, True, True]
    assert "'judge'" in done.stderr
    assert len(list(out.rglob("*.trace.json"))) == 2


def test_atif_holds_steps_observations_and_totals() -> None:
    trace = parse_trace(research(step(0, "look", output="1"), step(1, "then"), FINISH))
    atif = to_atif(trace)
    assert [(step["step_id"], step["source"]) for step in atif["steps"]] == [
        (1, "system"),
        (2, "user"),
        (3, "agent"),
        (4, "agent"),
    ]
    assert atif["steps"][2]["observation"]["results"] == [{"content": trace.messages[3]["content"]}]
    assert "observation" not in atif["steps"][3]
    assert atif["final_metrics"]["total_steps"] == 4
    json.dumps(atif)


def test_a_folder_is_searched_for_rows_too_and_nothing_is_imported_twice(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}
    other = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "in/deep/x.jsonl").write_text("\n".join(map(json.dumps, [row, other])))
    out = tmp_path / "out"
    for _ in range(2):
        arguments = ["traces", "import", str(tmp_path / "in"), "--runtime", "persistent", "--out", str(out)]
        assert CliRunner().invoke(cli, arguments).exit_code == 0
        found = [read_trace(path).messages[-1]["content"] for path in sorted(out.rglob("*.trace.json"))]
        assert sorted(found) == ["a", "b"]
