"""Building data sets: every trace is a row or left out for a named reason, arms see the same tasks."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_traces import ANSWERS, build_one, make_trace, write_traces
from odd_texts import TEXT

from keepstate.cli import cli
from keepstate.dataset import Manifest, build_datasets, read_manifest, scan
from keepstate.dataset.convert import Converter, LeftOut
from keepstate.dataset.manifest import BuildOptions
from keepstate.dataset.parity import MASKED
from keepstate.dataset.sample import REFUSALS, prove
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.traces import write_trace
from keepstate.vocabulary import FinishReason, RuntimeName

PERSISTENT, FORGET = RuntimeName.PERSISTENT, RuntimeName.FORGET


def build(root: Path, out: Path, tokenizer: TextTokenizer, **chosen: Any) -> Manifest:
    return build_one(root, PERSISTENT, out, template="chatml", tokenizer=tokenizer.path, **chosen)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_build_that_leaves_nothing_touches_no_data_set_of_any_arm(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    arms = {name: tmp_path / name for name in (PERSISTENT, FORGET)}
    out = {name: tmp_path / "d" / name for name in arms}
    write_traces(arms[PERSISTENT], [make_trace(number) for number in range(3)])
    write_traces(arms[FORGET], [make_trace(number, runtime=FORGET, score=0.5) for number in range(3)])
    before = build_datasets(
        arms, out, template="chatml", tokenizer_path=small_tokenizer.path, options=BuildOptions(), jobs=1
    )
    with pytest.raises(UserError, match="forget: none of 3 traces is left"):
        build_datasets(
            arms, out, template="chatml", tokenizer_path=small_tokenizer.path, options=BuildOptions(solved=True), jobs=1
        )
    assert {name: read_manifest(folder) for name, folder in out.items()} == before
    assert [before[name].changed_files(folder) for name, folder in out.items()] == [[], []]


def test_an_arm_whose_only_task_is_held_out_is_told_so(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    arms = {name: tmp_path / name for name in (PERSISTENT, FORGET)}
    out = {name: tmp_path / "d" / name for name in arms}
    write_traces(arms[PERSISTENT], [make_trace(number) for number in range(9)])
    write_traces(arms[FORGET], [make_trace(0, runtime=FORGET)])
    hold = {"template": "chatml", "tokenizer_path": small_tokenizer.path, "jobs": 1}
    with pytest.raises(UserError, match=r"forget: none of 1 traces is left to train on: held out 1$") as told:
        build_datasets(arms, out, options=BuildOptions(val_fraction=0.99), **hold)
    assert told.value.hint == "hold no task out: --val-fraction 0"
    assert build_datasets(arms, out, options=BuildOptions(val_fraction=0), **hold)[FORGET].splits["train"].rows == 1


def test_rows_are_the_traces_texts_and_the_counts_are_the_files(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    write_traces(tmp_path / "t", [make_trace(number) for number in range(10)])
    manifest = build(tmp_path / "t", tmp_path / "d", small_tokenizer, val_fraction=0.2)
    train, val = lines(tmp_path / "d/train.jsonl"), lines(tmp_path / "d/val.jsonl")
    assert (len(train), len(val)) == (8, 2)
    turns = train[0]["conversations"]
    assert [turn["from"] for turn in turns] == ["system", "human", "gpt", "human", "gpt"]
    assert [turn["value"] for turn in turns if turn["from"] == "gpt"] == list(ANSWERS)
    split = manifest.splits["train"]
    assert (split.rows, split.tasks, split.turns) == (8, 8, 16)
    texts = [
        load_template("chatml").render(make_trace(int(row["conversations"][1]["value"][5:-1])).messages)
        for row in train
    ]
    assert split.tokens == sum(len(small_tokenizer.raw.encode(text).ids) for text in texts)
    assert split.sha256 == hashlib.sha256((tmp_path / "d/train.jsonl").read_bytes()).hexdigest()
    assert (tmp_path / "d/chat_template.jinja").read_text() == load_template("chatml").text
    assert read_manifest(tmp_path / "d") == manifest
    index = lines(tmp_path / "d/index.jsonl")
    assert [(item["split"], item["row"]) for item in index] == [("train", n) for n in range(8)] + [
        ("val", 0),
        ("val", 1),
    ]


def test_nothing_is_lost_in_silence(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(
        tmp_path / "t",
        [
            *(make_trace(number) for number in range(4)),
            make_trace(4, score=0.5),
            make_trace(5, finish=FinishReason.TURN_LIMIT),
            make_trace(6, failed=True),
            make_trace(7, runtime=FORGET),
            make_trace(8, answers=["a <|im_end|> b"]),
            make_trace(9, goal="long " * 400),
        ],
    )
    write_traces(root / "again", [make_trace(0)])
    (root / "empty.trace.json").write_text("")
    manifest = build(root, tmp_path / "d", small_tokenizer, solved=True, max_tokens=500)
    assert manifest.left_out == {
        "another runtime": 1,
        "duplicate": 1,
        "failure of ours": 1,
        "not a trace": 1,
        "not finished": 1,
        "not good enough": 1,
        "special token in text": 1,
        "too long": 1,
    }
    assert manifest.read == manifest.rows + sum(manifest.left_out.values()) == 12
    named = {item["reason"]: item["path"] for item in lines(tmp_path / "d/left_out.jsonl")}
    assert named["not a trace"].endswith("empty.trace.json")
    assert named["special token in text"].endswith("knapsack-t8.trace.json")


def test_an_answer_that_was_cut_off_is_never_trained(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    """The model did not write the end of turn that a row would train after it."""
    root = write_traces(tmp_path / "t", [make_trace(0), make_trace(1, truncated=True)])
    assert build(root, tmp_path / "d", small_tokenizer).left_out == {"answer cut off": 1}


def test_a_score_that_is_no_score_is_a_broken_file(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [make_trace(number, score=0.5) for number in range(4)])
    for number, score in ((1, "NaN"), (2, "1e400"), (3, "85")):
        path = root / f"knapsack-t{number}.trace.json"
        path.write_text(path.read_text().replace('"score": 0.5', f'"score": {score}'))
    assert build(root, tmp_path / "d", small_tokenizer).left_out == {"not a trace": 3}


def test_pairing_and_balance_need_two_arms(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0)])
    for chosen in ({"paired": True}, {"balance": "total"}):
        with pytest.raises(UserError, match="two arms"):
            build(root, tmp_path / "d", small_tokenizer, **chosen)


def test_a_long_conversation_is_dropped_cut_or_stops_the_build(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0), make_trace(1, answers=[*ANSWERS, "x " * 300])])
    assert build(root, tmp_path / "d", small_tokenizer, max_tokens=400).left_out == {"too long": 1}
    manifest = build(root, tmp_path / "d", small_tokenizer, max_tokens=400, length="cut", val_fraction=0)
    assert (manifest.rows, manifest.shortened) == (2, {"cut to max_tokens": 1})
    (cut,) = [item for item in lines(tmp_path / "d/index.jsonl") if item["shortened"]]
    row = lines(tmp_path / "d/train.jsonl")[cut["row"]]["conversations"]
    assert [turn["from"] for turn in row] == ["system", "human", "gpt", "human", "gpt"]
    assert row[-1]["value"] == ANSWERS[1]
    with pytest.raises(UserError, match="knapsack-t1"):
        build(root, tmp_path / "d", small_tokenizer, max_tokens=400, length="raise")


def test_arms_are_paired_split_alike_and_balanced(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    long = [*ANSWERS, "and once more, with many words " * 20]
    arms = {
        PERSISTENT: write_traces(tmp_path / "t/persistent", [make_trace(n) for n in range(30)]),
        FORGET: write_traces(
            tmp_path / "t/forget", [make_trace(n, runtime=FORGET, answers=long) for n in range(5, 40)]
        ),
    }
    out = {runtime: tmp_path / "d" / runtime for runtime in arms}

    def both(**chosen: Any) -> dict[RuntimeName, Manifest]:
        options = BuildOptions(val_fraction=0.2, **chosen)
        return build_datasets(arms, out, template="chatml", tokenizer_path=small_tokenizer.path, options=options)

    paired = both(paired=True)
    assert [manifest.left_out["task missing in another arm"] for manifest in paired.values()] == [5, 10]
    tasks = [[(item["split"], item["task"]) for item in lines(folder / "index.jsonl")] for folder in out.values()]
    assert tasks[0] == tasks[1]
    assert {task for split, task in tasks[0] if split == "val"}.isdisjoint(
        t for split, t in tasks[0] if split == "train"
    )
    full = lines(out[FORGET] / "index.jsonl")
    balanced = both(paired=True, balance="trained")
    small, large = (balanced[runtime].splits["train"].trained_tokens for runtime in arms)
    longest = max(item["trained_tokens"] for item in lines(out[FORGET] / "index.jsonl"))
    assert small - longest < large <= small
    dropped = balanced[FORGET].left_out["over the balance of tokens"]
    assert dropped > 0
    before = [item["task"] for item in full if item["split"] == "train"]
    after = [item["task"] for item in lines(out[FORGET] / "index.jsonl") if item["split"] == "train"]
    assert after == before[: len(before) - dropped]  # from the end, so that no short episode is preferred


def test_the_same_traces_give_the_same_bytes_whatever_the_number_of_processes(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    root = write_traces(tmp_path / "t", [make_trace(number) for number in range(40)])
    build(root, tmp_path / "a", small_tokenizer, jobs=1)
    build(root, tmp_path / "b", small_tokenizer, jobs=2)
    for name in ("train.jsonl", "val.jsonl", "index.jsonl", "left_out.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    build(root, tmp_path / "c", small_tokenizer, seed=1)
    assert (tmp_path / "c/train.jsonl").read_bytes() != (tmp_path / "a/train.jsonl").read_bytes()


def test_two_traces_of_one_task_are_in_one_split(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t/a", [make_trace(number) for number in range(10)])
    write_traces(tmp_path / "t/b", [make_trace(number, answers=["Other words."]) for number in range(10)])
    build(root.parent, tmp_path / "d", small_tokenizer, val_fraction=0.3)
    splits: dict[str, set[str]] = {}
    for item in lines(tmp_path / "d/index.jsonl"):
        splits.setdefault(item["task"], set()).add(item["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert sum(found == {"val"} for found in splits.values()) == 3


def without_think_tokens(tokenizer: TextTokenizer, path: Path) -> Path:
    raw = json.loads(tokenizer.path.read_text())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if "think" not in token["content"]]
    path.write_text(json.dumps(raw))
    return path


def test_the_template_follows_the_tokenizer(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0), make_trace(1)])
    plain = without_think_tokens(small_tokenizer, tmp_path / "tokenizer.json")
    assert build_one(root, PERSISTENT, tmp_path / "d", tokenizer=plain).template.name == "chatml"
    with pytest.raises(UserError, match="melts into the prompt 2") as caught:
        build_one(root, PERSISTENT, tmp_path / "d", tokenizer=small_tokenizer.path)
    assert "--template chatml" in caught.value.hint
    assert "knapsack-t0.trace.json: message 2 begins with" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nfirst\n</think>\n\nLook.",
        "</think>\n\nLook.",
        "x <THINKING >",
        "<think/>x",
        "<|begin_of_thought|>x",
        "<thinking/>x",
        "</think/>x",
        "<seed:think/>x",
        "<|assistant_think|>x",
        "<|thinking_start|>x",
        "<|START_THINKING|>x",
        "<|channel|>analysis",
    ],
)
def test_thinking_is_never_trained_whatever_the_tokenizer_knows(
    text: str, tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    plain = TextTokenizer(without_think_tokens(small_tokenizer, tmp_path / "tokenizer.json"))
    root = write_traces(
        tmp_path / "t", [make_trace(0), make_trace(1, answers=[text]), make_trace(2, goal="A <think>?")]
    )
    assert build(root, tmp_path / "d", plain).left_out == {"thinking in an answer": 1}
    with pytest.raises(UserError, match="thinking in an answer 1") as caught:
        build(write_traces(tmp_path / "u", [make_trace(1, answers=[text])]), tmp_path / "d", plain)
    assert "collect with thinking off" in caught.value.hint


def test_an_empty_think_block_is_taken_off_when_asked_and_a_thought_is_refused_all_the_same(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    answers = [["<think>\n\n</think>\n\nLook.", "Done."], ["<think>\nhm\n</think>\n\nLook.", "Done."]]
    root = write_traces(tmp_path / "t", [make_trace(n, answers=each) for n, each in enumerate(answers)])
    with pytest.raises(UserError, match="thinking in an answer 2") as caught:
        build(root, tmp_path / "d", small_tokenizer)
    assert "--strip-empty-think" in caught.value.hint
    manifest = build(root, tmp_path / "d", small_tokenizer, strip_empty_think=True)
    assert manifest.left_out == {"thinking in an answer": 1}
    assert manifest.options["strip_empty_think"] is True
    (row,) = (json.loads(line) for name in manifest.splits for line in (tmp_path / f"d/{name}.jsonl").open())
    assert [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"] == ["Look.", "Done."]


def test_a_row_that_is_refused_names_file_line_and_what_to_do(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    talk = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    rows = [talk, [*talk, {"role": "system", "content": "x"}], [{**talk[0], "content": "v"}, talk[1]], talk]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    invoked = CliRunner().invoke(
        cli, ["traces", "import", str(source), "--runtime", "persistent", "--out", str(tmp_path / "t")]
    )
    assert invoked.exit_code == 0, invoked.output
    arguments = ("--traces", tmp_path / "t", "--out", tmp_path / "d", "--tokenizer", small_tokenizer.path)
    done = command("build", *arguments, "--template", "chatml")
    assert done.exit_code == 1
    assert f"(from {source}:2): roles out of order: message 2 is the system's" in done.stderr
    assert "hint:  roles out of order: join or leave out messages in the source" in done.stderr
    out = tmp_path / "d/persistent"
    assert {item["source"]: item["reason"] for item in lines(out / "left_out.jsonl")} == {
        f"{source}:2": "roles out of order",
        f"{source}:4": "duplicate",
    }
    assert sorted(item["source"] for item in lines(out / "index.jsonl")) == [f"{source}:1", f"{source}:3"]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["dataset", *map(str, arguments)])


def test_the_command_builds_every_arm_and_names_what_is_broken(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    write_traces(tmp_path / "t/persistent", [make_trace(number) for number in range(3)])
    write_traces(tmp_path / "t/forget", [make_trace(number, runtime=FORGET) for number in range(3)])
    arguments = ("build", "--traces", tmp_path / "t", "--out", tmp_path / "d", "--tokenizer", small_tokenizer.path)
    arguments += ("--template", "chatml")
    done = command(*arguments)
    assert done.exit_code == 0, done.output
    assert f"{tmp_path}/d/persistent: 3 rows of 3 traces" in done.stdout
    (tmp_path / "t/forget/bad.trace.json").write_text("{")
    done = command(*arguments)
    assert done.exit_code == 1
    assert "bad.trace.json: not a trace: no valid JSON" in done.stderr


def test_a_folder_that_cannot_be_looked_into_is_named_by_every_reader(
    tmp_path: Path, small_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0)])
    (root / "closed").mkdir()
    look = os.scandir

    def scandir(path: Any) -> Any:
        if str(path) == str(root / "closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert build(root, tmp_path / "d", small_tokenizer).left_out == {"not a trace": 1}
    assert lines(tmp_path / "d/left_out.jsonl")[0]["path"] == str(root / "closed")
    for command in (["check", root], ["import", root, "--out", tmp_path / "i"]):
        done = CliRunner().invoke(cli, ["traces", *map(str, command)])
        assert (done.exit_code, f"{root / 'closed'}: Permission denied" in done.output) == (1, True)


def test_a_pipe_among_traces_is_named_and_not_waited_for(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0)])
    os.mkfifo(root / "x.trace.json")
    os.mkfifo(root / "y.jsonl")
    assert build(root, tmp_path / "d", small_tokenizer).left_out == {"not a trace": 1}
    done = CliRunner().invoke(cli, ["traces", "import", str(root), "--out", str(tmp_path / "i")])
    assert done.stderr.count("it is a pipe, no file") == 2


def test_names_of_files_are_shown_without_control_codes_and_may_hold_any_byte(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0)])
    (root / "knapsack-t0.trace.json").rename(root / os.fsdecode(b"\x1b[31m\xff.trace.json"))
    (root / os.fsdecode(b"\x1b[31m\xfe.trace.json")).write_text("{")
    words = ["build", "--traces", root, "--runtime", "persistent", "--out", tmp_path / "d"]
    words += ["--template", "chatml", "--tokenizer", small_tokenizer.path]
    done = CliRunner().invoke(cli, ["dataset", *map(str, words)], color=True)
    assert (done.exit_code, "\x1b" in done.output, "\\x1b[31m\\udcfe" in done.output) == (1, False, True)
    words = ["dataset", "preview", tmp_path / "d/persistent", "--html", tmp_path / "page.html"]
    done = CliRunner().invoke(cli, [*map(str, words)], color=True)
    assert done.exit_code == 0
    assert "\\x1b[31m\\udcff.trace.json" in (tmp_path / "page.html").read_text()


def test_user_errors_leave_a_data_set_as_it_was(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0, score=0.2), make_trace(1)])
    manifest = build(root, tmp_path / "d", small_tokenizer)
    (root / "knapsack-t1.trace.json").unlink()
    with pytest.raises(UserError, match="not good enough 1"):
        build(root, tmp_path / "d", small_tokenizer, solved=True)
    assert read_manifest(tmp_path / "d") == manifest
    with pytest.raises(UserError, match="no such folder"):
        build(tmp_path / "none", tmp_path / "d", small_tokenizer)
    with pytest.raises(UserError, match="no tokenizer"):
        build_one(root, PERSISTENT, tmp_path / "d", template="chatml", tokenizer=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        build(root, tmp_path / "file" / "d", small_tokenizer)


def test_a_full_disk_is_named(tmp_path: Path, small_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_traces(tmp_path / "t", [make_trace(0)])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scan, "_record", full)
    with pytest.raises(UserError, match="no disk space left"):
        build(root, tmp_path / "d", small_tokenizer)
    assert list((tmp_path / "d").iterdir()) == []


def test_rows_of_jsonl_beside_traces_are_not_passed_over_in_silence(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    root = write_traces(tmp_path / "t/persistent", [make_trace(0)])
    (root / "more.jsonl").write_text("{}")
    done = command(
        "build",
        "--traces",
        tmp_path / "t",
        "--out",
        tmp_path / "d",
        "--tokenizer",
        small_tokenizer.path,
        "--template",
        "chatml",
    )
    assert "traces import" in done.stderr


def test_ten_thousand_mixed_files_with_broken_ones(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    """A hundredth of them here, two broken: ours, the research code's, and files that are neither."""
    root = write_traces(tmp_path / "t", [make_trace(number) for number in range(49)])
    for number in range(49):
        task = {"task_id": f"r{number}", "family": "knapsack", "nl": f"Research task {number}."}
        step = {"type": "StepEvent", "turn": 0, "assistant_text": "Done.", "interpreter_result": {}}
        events = [{"type": "StartEvent", "task": task}, step, {"type": "FinishEvent", "reason": "finished"}]
        (root / f"r{number}.trace.json").write_text(json.dumps({"events": events}))
    (root / "cut.trace.json").write_bytes((root / "r0.trace.json").read_bytes()[:40])
    (root / "list.trace.json").write_text("[1]")
    manifest = build(root, tmp_path / "d", small_tokenizer)
    assert (manifest.read, manifest.rows, manifest.left_out) == (100, 98, {"not a trace": 2})
    assert {Path(item["path"]).name for item in lines(tmp_path / "d/left_out.jsonl")} == {
        "cut.trace.json",
        "list.trace.json",
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(answers=st.lists(TEXT, min_size=1, max_size=3), goal=TEXT, observation=TEXT)
def test_any_trace_file_is_a_row_of_its_own_texts_or_named(
    answers: list[str], goal: str, observation: str, tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    trace = make_trace(0, answers=answers, goal=goal, observation=observation)
    path = write_trace(tmp_path, trace)
    done = Converter(load_template("chatml"), small_tokenizer, BuildOptions(), PERSISTENT).convert(path)
    assert done.path == str(path)
    if isinstance(done, LeftOut):
        assert done.reason in REFUSALS
        return
    turns = json.loads(done.line.encode())["conversations"]
    assert [turn["value"] for turn in turns] == [message["content"] for message in trace.messages]
    sample = prove(trace.messages, load_template("chatml"), small_tokenizer)
    trained = sum(label != MASKED for label in sample.labels())
    assert (done.tokens, done.trained) == (len(sample.ids), trained)


def test_the_preview_shows_trained_and_masked_text_and_escapes_hostile_text(
    tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    hostile = "<script>alert(1)</script> \x1b[2J & more"
    root = write_traces(tmp_path / "t", [make_trace(0, answers=[hostile])])
    manifest = build(root, tmp_path / "d", small_tokenizer)
    done = command("preview", tmp_path / "d")
    assert done.exit_code == 0, done.output
    assert "\x1b[2J" not in done.stdout
    split = manifest.splits["train"]
    assert f"{split.tokens} tokens, {split.trained_tokens} trained" in done.stdout
    page = tmp_path / "page.html"
    assert command("preview", tmp_path / "d", "--html", page).exit_code == 0
    text = page.read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\x1b[2J &amp; more&lt;|im_end|&gt;" in text
    assert isinstance(command("preview", tmp_path / "d", "--row", 1).exception, UserError)
