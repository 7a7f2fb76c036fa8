"""`keepstate dataset check` with the real Axolotl: what is proven, what is found wrong, who gets a certificate."""

import json
import random
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from made_traces import ANSWERS, build_one, make_trace, write_traces
from odd_texts import PLAIN, TEXT

from keepstate.cli import cli
from keepstate.dataset import read_manifest
from keepstate.dataset.check import CheckOptions, check_dataset
from keepstate.dataset.inside.axolotl_ids import DATASET
from keepstate.dataset.sample import PLACEHOLDERS, REFUSALS
from keepstate.dataset.templates import FOLDER
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.setup import installing
from keepstate.vocabulary import RuntimeName

ROOT = Path(__file__).parents[2]
ODD = ["🎒", "e\u0301", "\x00\x07", "\u2028", "\r\n", "<|im_", " \n ", "[[dummy_message]]", "{{x}}", "\ufeff"]


def odd_answer(seed: int) -> str:
    rng = random.Random(seed)
    return "a" + "".join(rng.choice([*ODD, "word", " "]) for _ in range(30))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["dataset", *map(str, arguments)])


def build(tmp_path: Path, tokenizer: TextTokenizer, template: str = "qwen3_nothink") -> Path:
    traces = [make_trace(n, answers=[*ANSWERS, odd_answer(n)], observation=odd_answer(-n)) for n in range(12)]
    traces += [make_trace(20, answers=["[[dummy_message]]]]", "zz"]), make_trace(21, answers=["x" * 100_000])]
    build_one(
        write_traces(tmp_path / "t", traces),
        RuntimeName.PERSISTENT,
        tmp_path / "d",
        template=template,
        tokenizer=tokenizer.path.parent,
        max_tokens=10**6,
    )
    return tmp_path / "d"


def test_the_check_reads_a_data_set_as_every_training_config_does() -> None:
    configs = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "train/configs").glob("*.yaml"))]
    assert len(configs) >= 3
    for config in configs:
        assert (ROOT / config["chat_template_jinja"]).parent == FOLDER
        for entry in [*config["datasets"], *config.get("test_datasets", [])]:
            assert {key: entry[key] for key in entry.keys() - {"path", "ds_type", "split"}} == DATASET


@pytest.mark.train_env
def test_axolotls_own_ids_and_labels_are_what_the_server_sees(tmp_path: Path, qwen3: TextTokenizer) -> None:
    folder = build(tmp_path, qwen3)
    done = command("check", folder)
    assert done.exit_code == 0, done.output
    manifest = read_manifest(folder)
    assert manifest.certificate is not None
    assert manifest.certificate.rows == manifest.rows == 14
    assert manifest.certificate.tokens == sum(split.tokens for split in manifest.splits.values())
    assert manifest.certificate.trained_tokens == sum(split.trained_tokens for split in manifest.splits.values())
    assert manifest.certificate.data_sha256 == {name: split.sha256 for name, split in manifest.splits.items()}


@pytest.mark.train_env
def test_any_text_is_proven_by_axolotl_or_refused_with_its_file_named(tmp_path: Path, qwen3: TextTokenizer) -> None:
    """Drawn by hypothesis, then built and checked at once: Axolotl takes 8 s to start."""
    drawn: list[tuple[list[str], str, str]] = []

    @settings(max_examples=400, deadline=None, database=None)
    @given(
        st.lists(PLAIN.map("a".__add__), min_size=1, max_size=4) | st.lists(TEXT, min_size=1, max_size=4), TEXT, PLAIN
    )
    def draw(answers: list[str], goal: str, observation: str) -> None:
        drawn.append((answers, goal, observation))

    draw()
    traces = [
        make_trace(n, answers=answers, goal=goal, observation=observation)
        for n, (answers, goal, observation) in enumerate(drawn)
    ]
    root = write_traces(tmp_path / "t", traces)
    manifest = build_one(root, RuntimeName.PERSISTENT, tmp_path / "d", tokenizer=qwen3.path.parent)
    left_out = [json.loads(line) for line in (tmp_path / "d/left_out.jsonl").read_text().splitlines()]
    assert {item["reason"] for item in left_out} <= REFUSALS | {"duplicate"}
    assert manifest.rows + len({item["path"] for item in left_out}) == len(drawn)
    report = check_dataset(CheckOptions(tmp_path / "d"))
    assert [(path, row.first) for path, row in report.bad] == []
    assert report.rows == manifest.rows > len(drawn) // 4


@pytest.mark.train_env
def test_the_placeholders_are_axolotls_own() -> None:
    script = "from axolotl.prompt_strategies.chat_template import ChatTemplateStrategy as S; print(*S._SENTINELS)"
    done = subprocess.run([installing.ensure("train"), "-Ic", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()[-2:]) == PLACEHOLDERS


@pytest.mark.train_env
def test_qwens_own_template_is_shown_to_be_wrong_and_earns_no_certificate(tmp_path: Path, qwen3: TextTokenizer) -> None:
    folder = build(tmp_path, qwen3)
    done = command("check", folder, "--training-template", "qwen3-stock", "--serving-template", "qwen3-stock")
    assert done.exit_code == 1
    assert "NOT proven" in done.stdout
    assert "25 turns are trained out of context" in done.stdout
    assert "'<think>'" in done.stdout
    assert read_manifest(folder).certificate is None


@pytest.mark.train_env
def test_a_trace_that_changed_is_found(tmp_path: Path, qwen3: TextTokenizer) -> None:
    folder = build(tmp_path, qwen3)
    path = tmp_path / "t/knapsack-t3.trace.json"
    path.write_text(path.read_text().replace("Look first", "Look last"))
    report = check_dataset(CheckOptions(folder))
    ((name, row),) = report.bad
    assert (name, row.problem) == (str(path), "the row is not what the trace says")


def test_files_that_changed_since_they_were_built_are_refused(tmp_path: Path, small_tokenizer: TextTokenizer) -> None:
    folder = build(tmp_path, small_tokenizer, "chatml")
    rows = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(rows.replace("Look first", "Look last"))
    with pytest.raises(UserError, match=r"train\.jsonl changed"):
        check_dataset(CheckOptions(folder))
    (folder / "train.jsonl").write_text(rows)
    (folder / "chat_template.jinja").write_text("other")
    with pytest.raises(UserError, match="jinja changed"):
        check_dataset(CheckOptions(folder))
    assert json.loads((folder / "manifest.json").read_text())["certificate"] is None
