"""Training one adapter: checks, then Axolotl as a process of its own in `.venv-train`, then the finished mark.

    from keepstate.training import train
    train(Path("train/configs/axolotl_smollm2_135m_persistent_laptop.yaml"), dataset=..., output=...)

However this process ends, Axolotl ends with it. Does not import Axolotl or torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keepstate import environments
from keepstate.errors import UserError
from keepstate.processes import GuardedProcess
from keepstate.training import preflight, tracking
from keepstate.training.config import PLUGIN_FOLDER, needs_gpu
from keepstate.training.planning import Plan, plan
from keepstate.training.progress import Follower, Progress
from keepstate.training.result import WEIGHTS, TrainedAdapter, base_revision, read_done, write_result
from keepstate.training.run_folder import LOG, PROGRESS, RESOLVED, STOP, checkpoints, prepare
from keepstate.vocabulary import Tracker

POLL_SECONDS = 0.5
STOP_SECONDS = 900.0
"""How long a Ctrl-C waits for the step in progress and its checkpoint: 262,144 tokens, on a slow GPU minutes."""
TAIL_LINES = 8
KILLED = 128 + 9
KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""glibc keeps what a step frees for the next one, which otherwise begins with thousands of page faults. On two cores
596 -> 675 tokens/s at 650 tokens a step, 420 to 530 -> 660 at 1,480; the peak grows by .4 GiB."""


def train(  # noqa: PLR0913 - one parameter an option of the command
    config: Path,
    *,
    dataset: Path,
    output: Path | None = None,
    base_model: str | Path | None = None,
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
    tracker: Tracker = Tracker.TRACKIO,
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
        tracker: Who draws the curves.
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
    tracking.check_tracker(tracker)
    python = environments.ensure("train")
    run = f"{planned.output.name}-{planned.key[:8]}"
    resolved = planned.config | tracking.config_keys(tracker, run)
    last = prepare(planned.output, resolved, planned.key, resume=resume)
    if resume:
        say(f"going on from {last.name}" if last else "nothing to resume here: the training starts at the beginning")
    if tracker is Tracker.TRACKIO:
        say(f"curves: {tracking.dashboard(planned.output, python)}")
    follower = Follower(planned.output / PROGRESS)
    env = _environment(planned) | tracking.environment(tracker, planned.output, run)
    _run(planned, python, env, follower, on_progress or (lambda _: None), say)
    adapter = _summary(planned, follower)
    write_result(planned.output, adapter, planned.config, planned.manifest)
    return adapter


def _run(
    planned: Plan,
    python: Path,
    env: Mapping[str, str],
    follower: Follower,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
) -> None:
    """Run Axolotl to its end."""
    output = planned.output
    command: list[str | Path] = [python, "-m", "axolotl.cli.train", output / RESOLVED]
    with (
        (output / LOG).open("ab") as log,
        GuardedProcess(command, output=log, env=env, cwd=output) as process,
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
                _say_what_is_kept(output, say)
            raise
    follower.look()
    if code or not follower.finished or not (output / WEIGHTS).is_file():
        raise _failure(planned, code)


def _say_what_is_kept(output: Path, say: Callable[[str], None]) -> None:
    kept = checkpoints(output)
    say(f"kept: {kept[-1]}; go on later: the same command with --resume" if kept else "nothing was saved yet")


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
    if planned.gpu is not None:  # the trainer would split rows over all it sees
        own |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(planned.gpu)}
    if needs_gpu(planned.config):  # as Axolotl's own command sets it: less memory lost between blocks
        own["PYTORCH_ALLOC_CONF"] = os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    else:
        own["CUDA_VISIBLE_DEVICES"] = ""
        own |= environments.CPU_VARIABLES | KEPT_MEMORY
    return os.environ | own


def _failure(planned: Plan, code: int) -> UserError:
    log = planned.output / LOG
    text = log.read_text(errors="replace")[-20_000:]
    tail = "\n".join(text.strip().splitlines()[-TAIL_LINES:])
    if "OutOfMemoryError" in text:
        hint = preflight.smaller(planned.config, ran=True)
        return UserError(f"the GPU's memory did not suffice (log: {log})", hint)
    if code == KILLED:
        return UserError(
            f"Axolotl was killed from outside, most often for want of main memory (log: {log})",
            f"the same command with --resume; for less memory {preflight.smaller(planned.config, ran=True)}",
        )
    return UserError(
        f"Axolotl ended with code {code}; the end of {log}:\n{tail}", "mend it, then the same command with --resume"
    )


def _summary(planned: Plan, follower: Follower) -> TrainedAdapter:
    losses = [loss for _, loss in follower.losses]
    return TrainedAdapter(
        key=planned.key,
        runtime=planned.manifest.runtime,
        base_model=str(planned.config["base_model"]),
        base_revision=base_revision(str(planned.config["base_model"]), follower.revision),
        data_sha256=planned.manifest.splits["train"].sha256,
        template_sha256=planned.template_sha256,
        steps=follower.losses[-1][0] if follower.losses else 0,
        first_loss=losses[0] if losses else None,
        final_loss=sum(losses[-10:]) / len(losses[-10:]) if losses else None,
        eval_loss=follower.eval_loss,
        seconds=round(follower.seconds, 1),
        tokens=follower.tokens,
        peak_gib=round(follower.peak_bytes / 2**30, 2),
        versions=follower.versions,
    )
