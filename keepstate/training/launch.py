"""Training one adapter: checks, then Axolotl as a process of its own in `.venv-train`, then the finished mark.

    from keepstate.training import train
    train(Path("train/configs/axolotl_smollm2_135m_persistent_laptop.yaml"), dataset=..., output=...)

However this process ends, Axolotl ends with it. Does not import Axolotl or torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keepstate import environments
from keepstate.datasets.manifest import TEMPLATE, Manifest
from keepstate.errors import UserError
from keepstate.files import content_hash, file_hash, write_atomic
from keepstate.processes import GuardedProcess
from keepstate.training import preflight
from keepstate.training.config import PLUGIN_FOLDER, needs_gpu, read_config, resolve
from keepstate.training.progress import Follower, Progress
from keepstate.training.result import DONE, WEIGHTS, TrainedAdapter, read_done, write_result

RESOLVED = "axolotl.yaml"
KEY = "keepstate-key.txt"
LOG = "train.log"
PROGRESS = "progress.jsonl"
STOP = "stop-requested"
POLL_SECONDS = 0.5
STOP_SECONDS = 120.0
"""How long a Ctrl-C waits for the step in progress and its checkpoint."""
TAIL_LINES = 8
SPIN_COUNT = "10000"
"""How long OpenMP threads spin before they sleep. A forward and backward of 656 tokens on two cores: 1.5 s alone, as
with the default, 3.2 s beside a second such program; by default steps then took up to 50 s."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was decided before a training starts."""

    config: dict[str, Any]
    """As Axolotl gets it."""
    output: Path
    manifest: Manifest
    template_sha256: str
    key: str
    offline: bool
    remarks: tuple[str, ...]


def plan(
    config: Path,
    *,
    dataset: Path,
    output: Path | None = None,
    base_model: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    machine: bool = True,
) -> Plan:
    """Check everything that can be checked before Axolotl starts.

    Args:
        config: An Axolotl YAML file.
        dataset: Folder made by `keepstate dataset build`.
        output: The adapter's folder; by default the config's.
        base_model: Instead of the config's.
        overrides: Keys of the config to replace; None means not given.
        machine: Also refuse what this machine cannot run.

    Raises:
        UserError: Says what is wrong and what to do.
    """
    raw = read_config(config)
    dataset, output = dataset.resolve(), (output or Path(raw["output_dir"])).resolve()
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    if machine:
        preflight.check_machine(raw | given, output)
    manifest, remarks = preflight.check_data(dataset, raw)
    longest = max(split.longest for split in manifest.splits.values())
    if longest > int((raw | given)["sequence_len"]):
        remarks.append(
            f"rows longer than {(raw | given)['sequence_len']} tokens are dropped; the longest has {longest}"
        )
    data = {name: split.sha256 for name, split in manifest.splits.items()}
    resolved = resolve(
        raw,
        dataset=dataset,
        output=output,
        base_model=base_model,
        data_hash=content_hash(data),
        has_validation=bool("val" in manifest.splits and manifest.splits["val"].rows),
        overrides=given,
    )
    offline = preflight.check_model(resolved["base_model"])
    template = file_hash(dataset / TEMPLATE)
    return Plan(
        config=resolved,
        output=output,
        manifest=manifest,
        template_sha256=template,
        key=content_hash({"config": resolved, "data": data, "template": template}),
        offline=offline,
        remarks=tuple(remarks),
    )


def train(
    config: Path,
    *,
    dataset: Path,
    output: Path | None = None,
    base_model: str | Path | None = None,
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_remark: Callable[[str], None] | None = None,
) -> TrainedAdapter:
    """Train one adapter, unless the same config and data were trained into `output` before.

    Args:
        config: See `plan`, as the next four.
        dataset: Data.
        output: Adapter.
        base_model: Base.
        overrides: Keys.
        resume: Go on from the last checkpoint of the same config and data, where there is one.
        on_progress: Called with every logged step.
        on_remark: Called with what a user should know.

    Raises:
        UserError: A check failed, or Axolotl did; names the log.
        KeyboardInterrupt: After the step in progress was saved.
    """
    say = on_remark or (lambda text: print(text, file=sys.stderr, flush=True))
    planned = plan(config, dataset=dataset, output=output, base_model=base_model, overrides=overrides)
    done = read_done(planned.output)
    if done is not None and done.key == planned.key:
        say(f"{planned.output} is trained already from this config and data")
        return done
    for remark in planned.remarks:
        say(remark)
    python = environments.ensure("train")
    _prepare(planned, resume=resume, say=say)
    follower = Follower(planned.output / PROGRESS)
    _run(planned, python, follower, on_progress or (lambda _: None), say)
    adapter = _summary(planned, follower)
    write_result(planned.output, adapter, planned.config, planned.manifest)
    return adapter


def _prepare(planned: Plan, *, resume: bool, say: Callable[[str], None]) -> None:
    """Make the output folder ready: kept checkpoints if they are to be used, none otherwise."""
    output = planned.output
    key_file = output / KEY
    same = key_file.is_file() and key_file.read_text().strip() == planned.key
    checkpoints = sorted(output.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    go_on = resume and same and bool(checkpoints)
    if resume and not go_on:
        say("nothing to resume here: the training starts at the beginning")
    if output.is_dir() and any(output.iterdir()) and not key_file.is_file():
        raise UserError(f"{output} holds files that no keepstate training made", "name another folder: --out")
    for old in (DONE, WEIGHTS, PROGRESS, STOP):
        (output / old).unlink(missing_ok=True)
    if go_on:
        say(f"going on from {checkpoints[-1].name}")
    else:
        for folder in checkpoints:
            shutil.rmtree(folder)
    planned.config["auto_resume_from_checkpoints"] = go_on
    write_atomic(key_file, planned.key + "\n")
    write_atomic(output / RESOLVED, yaml.safe_dump(planned.config, sort_keys=False))


def _run(
    planned: Plan,
    python: Path,
    follower: Follower,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
) -> None:
    """Run Axolotl to its end."""
    output = planned.output
    command: list[str | Path] = [python, "-m", "axolotl.cli.train", output / RESOLVED]
    with (
        (output / LOG).open("ab") as log,
        GuardedProcess(command, output=log, env=_environment(planned), cwd=output) as process,
    ):
        try:
            code = _follow(process, follower, on_progress)
        except KeyboardInterrupt:
            say("stopping after this step and saving it; Ctrl-C again stops at once")
            (output / STOP).touch()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            finally:
                say("go on later: the same command with --resume")
            raise
    follower.look()
    if code or not follower.finished or not (output / WEIGHTS).is_file():
        raise _failure(planned, code)


def _follow(process: GuardedProcess, follower: Follower, on_progress: Callable[[Progress], None]) -> int:
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            newest = follower.look()
            if newest:
                on_progress(newest)


def _environment(planned: Plan) -> dict[str, str]:
    """Ours, without telemetry; without the network too where nothing is needed from it."""
    own = {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(PLUGIN_FOLDER),
        "KEEPSTATE_PROGRESS": str(planned.output / PROGRESS),
        "KEEPSTATE_STOP": str(planned.output / STOP),
    }
    if planned.offline:
        own["HF_HUB_OFFLINE"] = "1"
    if not needs_gpu(planned.config):
        own["CUDA_VISIBLE_DEVICES"] = ""
        own["GOMP_SPINCOUNT"] = SPIN_COUNT
    return os.environ | own


def _failure(planned: Plan, code: int) -> UserError:
    log = planned.output / LOG
    text = log.read_text(errors="replace")[-20_000:]
    tail = "\n".join(text.strip().splitlines()[-TAIL_LINES:])
    if "OutOfMemoryError" in text:
        return UserError(f"the GPU's memory did not suffice (log: {log})", preflight.smaller(planned.config))
    return UserError(
        f"Axolotl ended with code {code}; the end of {log}:\n{tail}", "mend it, then the same command with --resume"
    )


def _summary(planned: Plan, follower: Follower) -> TrainedAdapter:
    losses = [loss for _, loss in follower.losses]
    return TrainedAdapter(
        key=planned.key,
        runtime=planned.manifest.runtime,
        base_model=str(planned.config["base_model"]),
        data_sha256=planned.manifest.splits["train"].sha256,
        template_sha256=planned.template_sha256,
        steps=follower.losses[-1][0] if follower.losses else 0,
        first_loss=losses[0] if losses else None,
        final_loss=sum(losses[-10:]) / len(losses[-10:]) if losses else None,
        seconds=round(follower.seconds, 1),
        tokens=follower.tokens,
        peak_gib=round(follower.peak_bytes / 2**30, 2),
    )
