"""`dataset build --train-turns`: which answers are trained, counted and proven; the rest of the row is as ever."""

import json
from pathlib import Path

import pytest
from acted import acted
from click.testing import CliRunner
from made_traces import build_one, make_trace, write_traces
from played import GOOD, NAME_ERROR, played

from keepstate.cli import cli
from keepstate.dataset import read_manifest
from keepstate.dataset.manifest import BuildOptions, TrainTurns
from keepstate.dataset.parity import MASKED, TrainingRow, compare, local_prompts
from keepstate.dataset.sample import prove
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.dataset.turns import UNWANTED, masked_answers
from keepstate.traces.importing import SOURCE, UNTRAINED
from keepstate.traces.record import ToolCall, Trace
from keepstate.vocabulary import RuntimeName

PERSISTENT, REACT = RuntimeName.PERSISTENT, RuntimeName.REACT
CAPPED = acted("25", error="ToolCallLimit: 25 calls", error_type="ToolCallLimit")
TOOL_ERROR = (ToolCall("take_item", {}, error="no such item"),)


def turns_trained(trace: Trace, choice: TrainTurns) -> list[int]:
    masked = masked_answers(trace, trace.messages, choice)
    return [turn for turn in range(len(trace.steps)) if turn not in masked]


def test_clean_leaves_out_errors_and_caps_of_actions() -> None:
    trace = played(0, GOOD, NAME_ERROR, GOOD, CAPPED, GOOD)
    assert turns_trained(trace, TrainTurns.CLEAN) == [0, 2, 4]
    assert turns_trained(trace, TrainTurns.LAST) == [4]
    assert turns_trained(trace, TrainTurns.ALL) == [0, 1, 2, 3, 4]


def test_a_tools_error_is_the_actions_in_react_and_the_codes_to_handle_elsewhere() -> None:
    handled = acted("handled", results=TOOL_ERROR)
    assert turns_trained(played(0, handled, GOOD), TrainTurns.CLEAN) == [0, 1]
    assert turns_trained(played(0, handled, GOOD, runtime=REACT), TrainTurns.CLEAN) == [1]


@pytest.mark.parametrize(
    ("observation", "clean"),
    [
        ('{"output": "1"}', True),
        ('{"error": "NameError: x"}', False),
        ('{"error": ""}', True),
        ("Observation: [take_item] taken\nObservation: [take_item] error: no such item", False),
        ("Observation: error: 25 calls", False),
        ("Traceback (most recent call last):\n  File ...\nNameError: x", False),
        ("the error: none", True),
    ],
)
def test_what_an_imported_conversation_was_told_decides(observation: str, clean: bool) -> None:
    trace = make_trace(0, observation=observation)
    imported = trace.model_copy(update={"versions": {SOURCE: "messages"}})
    assert turns_trained(imported, TrainTurns.CLEAN) == ([0, 1] if clean else [1])
    assert turns_trained(trace, TrainTurns.CLEAN) == [0, 1]  # recorded: nothing is guessed from what code printed


def build(root: Path, out: Path, tokenizer: TextTokenizer, choice: str) -> Path:
    build_one(root, PERSISTENT, out, template="chatml", tokenizer=tokenizer.path, train_turns=choice, val_fraction=0)
    return out


def test_rows_say_it_and_the_manifest_counts_it(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    traces = [played(0, GOOD, NAME_ERROR, GOOD), played(1, GOOD, GOOD), played(2, NAME_ERROR)]
    root = write_traces(tmp_path / "t", traces)
    every, clean, last = (build(root, tmp_path / name, small_tokenizer, name) for name in ("all", "clean", "last"))
    rows = [json.loads(line)["conversations"] for line in (clean / "train.jsonl").read_text().splitlines()]
    assert sorted([turn["train"] for turn in row if turn["from"] == "gpt"] for row in rows) == [
        [True, False, True],
        [True, True],
    ]
    assert all("train" not in turn for row in rows for turn in row if turn["from"] != "gpt")
    manifest = read_manifest(clean)
    assert manifest.masked == {"its action ended in an error or a cap": 1}
    assert manifest.left_out == {"no turn to train": 1}
    assert "  turns not trained: its action ended in an error or a cap: 1" in manifest.words(clean)
    assert manifest.options["train_turns"] == "clean"
    whole = {name: read_manifest(folder).splits["train"] for name, folder in (("all", every), ("last", last))}
    answer = whole["last"].trained_tokens // 3  # all answers are of one length
    assert whole["all"].trained_tokens == 6 * answer
    assert manifest.splits["train"].trained_tokens == 4 * answer
    assert (manifest.splits["train"].turns, whole["all"].turns) == (5, 6)
    assert read_manifest(last).masked == {"not the last of its row": 3}
    assert '"masked"' in (last / "index.jsonl").read_text()


def test_the_default_is_what_it_was_byte_for_byte(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    folder = build(write_traces(tmp_path / "t", [played(0, NAME_ERROR, GOOD)]), tmp_path / "d", small_tokenizer, "all")
    for name in ("train.jsonl", "index.jsonl", "manifest.json"):
        text = (folder / name).read_text()
        assert not any(word in text for word in ('"train": true', "masked", "train_turns")), name
    assert BuildOptions.model_validate({}).train_turns is TrainTurns.ALL


def test_a_preview_shows_what_is_masked(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [played(0, NAME_ERROR, GOOD)])
    folder = build(root, tmp_path / "d", small_tokenizer, "clean")
    shown = CliRunner().invoke(cli, ["dataset", "preview", str(folder)]).output
    trained = read_manifest(folder).splits["train"].trained_tokens
    assert f", {trained} trained" in shown
    assert shown.count("tokens trained") == 1


def test_the_comparison_finds_a_masked_answer_that_is_trained(small_tokenizer: TextTokenizer) -> None:
    messages = played(0, NAME_ERROR, GOOD, GOOD).messages
    sample = prove(messages, load_template("chatml"), small_tokenizer)
    prompts = local_prompts(load_template("chatml"), small_tokenizer)
    labels, flags = sample.labels(), [False, True, True]
    wrong = compare(
        messages,
        TrainingRow(sample.ids, labels),
        prompts,
        small_tokenizer,
        small_tokenizer.specials["<|im_end|>"],
        flags,
    )
    assert wrong.mask_wrong
    assert wrong.first is not None
    assert (wrong.first.turn, wrong.first.what) == (0, "mask")
    span = sample.answers[0]
    labels[span.start : span.end] = [MASKED] * (span.end - span.start)
    right = TrainingRow(sample.ids, labels)
    assert compare(messages, right, prompts, small_tokenizer, small_tokenizer.specials["<|im_end|>"], flags).good
    assert not compare(messages, right, prompts, small_tokenizer, small_tokenizer.specials["<|im_end|>"]).good


def test_answers_that_the_source_wants_left_out_are_masked_whatever_is_asked_for(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    marked, plain = played(0, GOOD, GOOD), played(1, GOOD, GOOD)
    marked = marked.model_copy(update={"versions": marked.versions | {UNTRAINED: "0"}})
    folder = build(write_traces(tmp_path / "t", [marked, plain]), tmp_path / "d", small_tokenizer, "all")
    manifest = read_manifest(folder)
    assert manifest.masked == {UNWANTED: 1}
    assert manifest.trains_by_turn
    assert manifest.splits["train"].trained_tokens * 4 == 3 * sum(
        len(sample.labels()) - sample.labels().count(MASKED)
        for sample in (prove(t.messages, load_template("chatml"), small_tokenizer) for t in (marked, plain))
    )
    lines = (folder / "train.jsonl").read_text().splitlines()
    assert sorted(line.count('"train": ') for line in lines) == [0, 2]
