"""What `dataset check` holds against the traces; Axolotl's place is taken by the template and tokenizer themselves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_traces import build_one, make_trace, write_traces

from keepstate.cli import cli
from keepstate.dataset import check as checking
from keepstate.dataset import read_manifest
from keepstate.dataset.check import CheckOptions, check_dataset
from keepstate.dataset.convert import SHAREGPT_ROLES
from keepstate.dataset.sample import prove
from keepstate.dataset.templates import load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.models.base import Message
from keepstate.vocabulary import RuntimeName

ROLES = {told: role for role, told in SHAREGPT_ROLES.items()}


@pytest.fixture
def folder(tmp_path: Path, small_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of eight traces of keepstate's and one of the research code, in `t`."""

    def ids(several: Sequence[Any], _work: Path) -> None:
        (sides,) = several
        lines = [json.dumps({"axolotl": "0"})]
        for split in sides.manifest.splits:
            for row in (sides.options.folder / f"{split}.jsonl").read_text().splitlines():
                turns = json.loads(row)["conversations"]
                talk = [Message(role=ROLES[turn["from"]], content=turn["value"]) for turn in turns]  # type: ignore[typeddict-item]
                sample = prove(talk, load_template("chatml"), small_tokenizer)
                lines.append(json.dumps({"input_ids": sample.ids, "labels": sample.labels()}))
        sides.ids.write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(checking, "_run_axolotl", ids)
    root = write_traces(tmp_path / "t", [make_trace(number) for number in range(8)])
    step = {"type": "StepEvent", "data": {"turn": 0, "assistant_text": "Done.", "interpreter_result": None}}
    start = {"type": "StartEvent", "data": {"task": "A goal."}}
    finish = {"type": "FinishEvent", "data": {"reason": "finish_tool"}}
    (root / "knapsack-r.trace.json").write_text(json.dumps({"events": [start, step, finish]}))
    build_one(root, RuntimeName.PERSISTENT, tmp_path / "d", template="chatml", tokenizer=small_tokenizer.path)
    return tmp_path / "d"


def test_a_certificate_counts_rows_without_a_record_of_what_was_sent(folder: Path) -> None:
    done = CliRunner().invoke(cli, ["dataset", "check", str(folder)])
    assert (done.exit_code, f"{folder}: proven: 9 rows" in done.output) == (0, True), done.output
    assert "1 rows are of imported traces" in done.output
    certificate = read_manifest(folder).certificate
    assert certificate is not None
    assert (certificate.rows, certificate.unrecorded, certificate.server) == (9, 1, None)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("Look first", "Look last", "the row is not what the trace says"),
        ('"prompt_hash": "', '"prompt_hash": "0', "turn 0: what was sent is no prefix of the conversation"),
    ],
)
def test_a_trace_that_says_something_else_takes_the_certificate_away(
    old: str, new: str, problem: str, folder: Path
) -> None:
    check_dataset(CheckOptions(folder))
    path = folder.parent / "t/knapsack-t3.trace.json"
    path.write_text(path.read_text().replace(old, new))
    ((name, row),) = check_dataset(CheckOptions(folder)).bad
    assert (name, row.problem) == (str(path), problem)
    assert read_manifest(folder).certificate is None


def test_a_trace_that_is_gone_is_named(folder: Path) -> None:
    path = folder.parent / "t/knapsack-t3.trace.json"
    path.unlink()
    ((name, row),) = check_dataset(CheckOptions(folder)).bad
    assert name == str(path)
    assert "cannot read trace" in row.problem


def test_a_check_from_another_folder_is_refused_and_takes_no_certificate(folder: Path) -> None:
    check_dataset(CheckOptions(folder))
    for path in (folder.parent / "t").glob("*.trace.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of the traces that .* was built from is there"):
        check_dataset(CheckOptions(folder))
    assert read_manifest(folder).certificate is not None
