"""`keepstate dataset check` with the real Axolotl: what is proven, what is found wrong, who gets a certificate.

Axolotl takes 12 s to start, so data sets of every kind are built and then checked by one command.
"""

import ast
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import make_tokenizer
from made_traces import ANSWERS, build_one, make_trace, write_traces
from odd_texts import PLAIN, TEXT
from played import GOOD, NAME_ERROR, played

from keepstate.cli import cli
from keepstate.dataset import BuildOptions, build_mixed, read_manifest
from keepstate.dataset.manifest import Certificate
from keepstate.dataset.sample import PLACEHOLDERS, REFUSALS
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.setup import installing
from keepstate.setup.basemodel import ensure_base_model
from keepstate.traces.importing import UNTRAINED
from keepstate.traces.record import Trace
from keepstate.vocabulary import RuntimeName

pytestmark = [pytest.mark.train_env, pytest.mark.timeout(300)]

PERSISTENT, FORGET, _ = RuntimeName
FAMILIES = ("llama3", "gemma", "mistral")
ODD = ["🎒", "e\u0301", "\x00\x07", "\u2028", "\r\n", "<|im_", " \n ", "[[dummy_message]]", "{{x}}", "\ufeff"]
SPACED = "a  b\n\n\n\tc <b>x</b> 'tis 1234 \n"


def odd_answer(seed: int) -> str:
    rng = random.Random(seed)
    return "a" + "".join(rng.choice([*ODD, "word", " "]) for _ in range(30))


def odd_traces() -> list[Trace]:
    traces = [make_trace(n, answers=[*ANSWERS, odd_answer(n)], observation=odd_answer(-n)) for n in range(12)]
    return [*traces, make_trace(20, answers=["[[dummy_message]]]]", "zz"]), make_trace(21, answers=["x" * 100_000])]


def drawn_traces() -> list[Trace]:
    """By hypothesis, which never sees them checked: it shrinks nothing."""
    drawn: list[Trace] = []

    @settings(max_examples=400, deadline=None, database=None)
    @given(
        st.lists(PLAIN.map("a".__add__), min_size=1, max_size=4) | st.lists(TEXT, min_size=1, max_size=4), TEXT, PLAIN
    )
    def draw(answers: list[str], goal: str, observation: str) -> None:
        drawn.append(make_trace(len(drawn), answers=answers, goal=goal, observation=observation))

    draw()
    return drawn


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["dataset", "check", *map(str, arguments)])


@dataclass(frozen=True)
class Checked:
    """Data sets in folders named after what is in them, and what the check of all said."""

    root: Path
    said: str

    def certificate(self, name: str) -> Certificate:
        """Of the data set `name`, which is proven."""
        found = read_manifest(self.root / name).certificate
        assert found is not None, self.of(name)
        return found

    def of(self, name: str) -> str:
        """What was said of the data set `name`."""
        _, behind, rest = self.said.partition(f"{self.root / name}: ")
        assert behind, self.said
        return rest.partition(f"\n{self.root}/")[0]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, qwen3: TextTokenizer) -> Checked:
    root, traces = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("traces")

    def build(name: str, made: list[Trace], tokenizer: Path = qwen3.path.parent, **options: object) -> None:
        chosen = {"max_tokens": 10**6} | options
        build_one(write_traces(traces / name, made), PERSISTENT, root / name, tokenizer=tokenizer, **chosen)

    build("odd", odd_traces(), template="qwen3_nothink")
    build("drawn", drawn_traces(), max_tokens=BuildOptions().max_tokens)
    build("changed", odd_traces(), template="qwen3_nothink")
    path = traces / "changed" / "knapsack-t3.trace.json"
    path.write_text(path.read_text().replace("Look first", "Look last"))
    for family in FAMILIES:
        made = [make_trace(n, answers=[*ANSWERS, f"x {n}"], observation=SPACED) for n in range(4)]
        build(family, made, make_tokenizer(family, traces / f"tokenizer-{family}"))
    wrong = [played(n, GOOD, NAME_ERROR, GOOD) for n in range(3)]
    build("clean", wrong, ensure_base_model(), train_turns="clean")
    wrong[0] = wrong[0].model_copy(update={"versions": wrong[0].versions | {UNTRAINED: "0 2"}})
    build("unwanted", wrong, ensure_base_model())
    arms = {PERSISTENT: 4, FORGET: 3}
    for runtime, count in arms.items():
        made = [make_trace(n, runtime=runtime, system=f"You act in {runtime}.") for n in range(count)]
        write_traces(traces / "arms" / runtime, made)
    build_mixed(
        {runtime: traces / "arms" / runtime for runtime in arms}, root / "mixed", template="chatml",
        tokenizer_path=qwen3.path, options=BuildOptions(val_fraction=0.25), jobs=1,
    )  # fmt: skip
    done = command(*sorted(root.iterdir()))
    assert done.exit_code == 1, done.output  # of "changed"
    return Checked(root, done.output)


def test_axolotls_own_ids_and_labels_are_what_the_server_sees(checked: Checked) -> None:
    manifest, certificate = read_manifest(checked.root / "odd"), checked.certificate("odd")
    assert certificate.rows == manifest.rows == 14
    assert certificate.tokens == sum(split.tokens for split in manifest.splits.values())
    assert certificate.trained_tokens == sum(split.trained_tokens for split in manifest.splits.values())
    assert certificate.data_sha256 == {name: split.sha256 for name, split in manifest.splits.items()}


def test_any_text_is_proven_by_axolotl_or_refused_with_its_file_named(checked: Checked) -> None:
    manifest = read_manifest(checked.root / "drawn")
    left_out = [json.loads(line) for line in (checked.root / "drawn/left_out.jsonl").read_text().splitlines()]
    assert {item["reason"] for item in left_out} <= REFUSALS | {"duplicate"}
    assert manifest.rows + len({item["path"] for item in left_out}) == manifest.read
    assert checked.certificate("drawn").rows == manifest.rows > manifest.read // 4
    assert manifest.read >= 300


def test_a_trace_that_changed_is_found_among_others(checked: Checked) -> None:
    said = checked.of("changed")
    assert "NOT proven: 14 rows" in said
    assert "1 rows differ" in said
    assert "knapsack-t3.trace.json: the row is not what the trace says" in said
    assert read_manifest(checked.root / "changed").certificate is None


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_proven(checked: Checked, family: str) -> None:
    certificate = checked.certificate(family)
    assert (certificate.rows, certificate.turns) == (4, 12)


@pytest.mark.parametrize("name", ["clean", "unwanted"])
def test_axolotl_masks_the_turns_that_are_not_trained(checked: Checked, name: str) -> None:
    """Of `unwanted`, beside rows that say nothing of it."""
    certificate, manifest = checked.certificate(name), read_manifest(checked.root / name)
    assert (certificate.rows, certificate.turns, manifest.trains_by_turn) == (3, 9, True)
    assert certificate.trained_tokens == sum(split.trained_tokens for split in manifest.splits.values())


def test_every_runtime_is_proven_and_stands_in_the_certificate(checked: Checked) -> None:
    assert "of forget: 3 rows, 6 turns, 0 rows differ" in checked.of("mixed")
    certificate = checked.certificate("mixed")
    assert {name: proven.rows for name, proven in certificate.by_runtime.items()} == {PERSISTENT: 4, FORGET: 3}
    assert certificate.trained_tokens == sum(proven.trained_tokens for proven in certificate.by_runtime.values())


def test_qwens_own_template_is_shown_to_be_wrong_and_earns_no_certificate(
    checked: Checked, tmp_path: Path, qwen3: TextTokenizer
) -> None:
    root = write_traces(tmp_path / "t", odd_traces())
    chosen = {"template": "qwen3_nothink", "max_tokens": 10**6}
    build_one(root, PERSISTENT, tmp_path / "d", tokenizer=qwen3.path.parent, **chosen)
    stock = ("--training-template", "qwen3-stock", "--serving-template", "qwen3-stock")
    done = command(tmp_path / "d", *stock)
    assert done.exit_code == 1
    assert "NOT proven" in done.stdout
    assert "25 turns are trained out of context" in done.stdout
    assert "'<think>'" in done.stdout
    assert read_manifest(tmp_path / "d").certificate is None


def test_the_placeholders_are_axolotls_own() -> None:
    """Read, not imported: that takes 12 s."""
    script = "from importlib.util import find_spec; print(*find_spec('axolotl').submodule_search_locations)"
    done = subprocess.run([installing.ensure("train"), "-Ic", script], capture_output=True, text=True, check=True)
    source = (Path(done.stdout.strip()) / "prompt_strategies" / "chat_template.py").read_text()
    (found,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_SENTINELS"
    )
    assert set(found) == PLACEHOLDERS
