"""`train/qwen3_8b_axolotl.py`: every option, on traces that the scripted teacher left."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import yaml
from made_tokenizers import make_tokenizer

from keepstate.dataset.manifest import read_manifest
from keepstate.places import SHIPPED
from keepstate.setup import basemodel
from keepstate.setup.environments import spec
from keepstate.train import read_done
from keepstate.train.axolotl_config import config_path, read_axolotl_config
from keepstate.vocabulary import RuntimeName

SCRIPT = SHIPPED / "train" / "qwen3_8b_axolotl.py"
TRACES = 6
A100 = read_axolotl_config(config_path(RuntimeName.REACT, laptop=False))
PATHS = {"datasets", "test_datasets", "base_model", "chat_template_jinja", "output_dir", "dataset_prepared_path"}
"""What every resolved config changes: places."""


def run(*arguments: str | Path, cwd: Path, module: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(("-m", module) if module else (SCRIPT,)), *arguments]
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=500, check=False)


class Done(NamedTuple):
    """How the script ended, and its words."""

    returncode: int
    stdout: str
    stderr: str


def run_here(*arguments: str | Path, cwd: Path) -> Done:
    """The script in this process: in one of its own it takes a second to load packages."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as here:
        here.enter_context(contextlib.chdir(cwd))
        here.enter_context(patch.object(sys, "argv", [str(SCRIPT), *map(str, arguments)]))
        here.enter_context(contextlib.redirect_stdout(out))
        here.enter_context(contextlib.redirect_stderr(err))
        ended = here.enter_context(pytest.raises(SystemExit))
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    made = ("tasks", "generate", "--difficulty", "mini", "--count", str(TRACES), "--seed-start", "0", "--out", "tasks")
    played = ("traces", "collect", "--tasks", "tasks", "--runtime", "react", "--out", ".")
    for command in (made, played):
        done = run(*command, cwd=folder, module="keepstate")
        assert done.returncode == 0, done.stderr
    return folder / "react"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with Qwen3's special tokens, of which nothing else is known; there are no weights."""
    folder = make_tokenizer("qwen3", tmp_path_factory.mktemp("model"))
    (folder / "config.json").write_text("{}")
    return folder


def dry_run(traces: Path, model: Path, cwd: Path, *options: str | Path) -> tuple[dict[str, Any], str]:
    done = run_here("--trace-root", traces, "--model", model, "--dry-run", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert isinstance(config, dict)
    return config, done.stderr


def test_nothing_given_keeps_the_yaml(traces: Path, model: Path, tmp_path: Path) -> None:
    """As a user starts it, in a process of its own."""
    done = run("--trace-root", traces, "--model", model, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config, said = yaml.safe_load(done.stdout), done.stderr
    assert {key for key in A100 if config.get(key) != A100[key]} == PATHS
    assert config["output_dir"] == str(tmp_path / "out" / "qwen3-8b-react-a100")
    assert f"{TRACES} rows of {TRACES} traces" in said
    data = tmp_path / "data" / "datasets" / "react.dry-run"
    rows = [json.loads(line) for name in ("train", "val") for line in (data / f"{name}.jsonl").open()]
    assert len(rows) == TRACES
    assert {turn["from"] for row in rows for turn in row["conversations"]} == {"system", "human", "gpt"}


def test_what_is_given_replaces_those_values_and_no_others(traces: Path, model: Path, tmp_path: Path) -> None:
    given = {
        "--max-seq-length": ("sequence_len", 9000),
        "--batch-size": ("micro_batch_size", 2),
        "--grad-accum": ("gradient_accumulation_steps", 8),
        "--lr": ("learning_rate", 1e-5),
        "--epochs": ("num_epochs", 0.5),
        "--seed": ("seed", 7),
        "--profile": ("keepstate_profile", "memory"),
    }
    options = [str(part) for option, (_, value) in given.items() for part in (option, value)]
    config, _ = dry_run(traces, model, tmp_path, *options)
    expected = dict(given.values())
    assert {key: config[key] for key in expected} == expected
    assert {key for key in A100 if config.get(key) != A100[key]} == PATHS | set(expected)
    single, _ = dry_run(traces, model, tmp_path, "--lr", "1e-5")
    assert {key for key in A100 if single.get(key) != A100[key]} == PATHS | {"learning_rate"}


def test_other_config_output_and_samples(traces: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "mine.yaml"
    other.write_text(yaml.safe_dump(A100 | {"weight_decay": 0.25}))
    options = ("--base-config", other, "--output-dir", tmp_path / "mine", "--trace-format", "react")
    config, said = dry_run(traces, model, tmp_path, *options, "--trace-samples", "3")
    assert (config["weight_decay"], config["output_dir"]) == (0.25, str(tmp_path / "mine"))
    assert "3 rows of 3 traces" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trace-format", "forget"), "no traces of the runtime forget, but of react"),
        (("--trace-format", "codeact"), "'codeact' is not one of"),
        (("--base-config", "none.yaml"), "cannot read the config none.yaml"),
        (("--base-config", str(config_path(RuntimeName.FORGET, laptop=False))), "this training is of react"),
        (("--model", "models/none"), "no such model folder: models/none"),
        (("--lr", "0"), "0"),
        (("--max-seq-length", "20"), "none of 6 traces is left to train on"),
    ],
)
def test_bad_inputs_are_named(
    traces: Path, model: Path, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    done = run_here("--trace-root", traces, "--model", model, "--dry-run", *options, cwd=tmp_path)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    missing = run_here("--trace-root", tmp_path / "none", "--dry-run", cwd=tmp_path)
    assert (missing.returncode, "no such folder" in missing.stderr) == (2, True)
    empty = run_here("--trace-root", tmp_path, "--dry-run", cwd=tmp_path)
    assert (empty.returncode, "no *.trace.json" in empty.stderr) == (2, True)
    assert "Traceback" not in missing.stderr + empty.stderr


def test_broken_files_are_skipped_named_and_counted(traces: Path, model: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "bad.trace.json").write_text('{"schema":')
    alone = run_here("--trace-root", mixed, "--dry-run", cwd=tmp_path)
    assert (alone.returncode, "none of 1 files is readable" in alone.stderr) == (2, True)
    for path in traces.glob("*.trace.json"):
        (mixed / path.name).write_bytes(path.read_bytes())
    for options in ((), ("--trace-samples", "3")):
        some = run_here("--trace-root", mixed, "--model", model, "--dry-run", *options, cwd=tmp_path)
        assert (some.returncode, f"skipped {mixed / 'bad.trace.json'}" in some.stderr) == (1, True), some.stderr
        assert "1 of" in some.stderr
        assert yaml.safe_load(some.stdout)["sequence_len"] == A100["sequence_len"]


@pytest.mark.train_env
@pytest.mark.timeout(900)
def test_traces_in_adapter_out(traces: Path, tmp_path: Path) -> None:
    if not spec("train").python.is_file() or not basemodel.is_ready():
        pytest.skip("the training environment or the base model is missing: make setup-train")
    laptop = config_path(RuntimeName.REACT, laptop=True)
    options = ("--base-config", laptop, "--output-dir", tmp_path / "adapter", "--trace-samples", "3", "--lr", "0.0005")
    done = run("--trace-root", traces, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    adapter, manifest = read_done(tmp_path / "adapter"), read_manifest(tmp_path / "data" / "datasets" / "react")
    assert adapter is not None
    assert manifest.certificate is not None
    assert adapter.steps == manifest.splits["train"].rows
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert f"data certificate | yes, {manifest.certificate.checked_at}" in card
    assert "learning_rate: 0.0005" in card
    assert (tmp_path / "tracking" / "keepstate.db").is_file()
