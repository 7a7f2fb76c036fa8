"""Training one adapter: checks, then Axolotl as a process of its own in `.venv-train`, then the finished mark.

    from keepstate.train import TrainingRequest, train
    train(TrainingRequest(Path("train/configs/axolotl_smollm2_135m_persistent_laptop.yaml"), dataset=...))

However this process ends, Axolotl ends with it. Does not import Axolotl or torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from keepstate import machine
from keepstate.errors import UserError
from keepstate.places import caches
from keepstate.processes import GuardedProcess, log_end, log_text, sigterm_interrupts
from keepstate.resume import OtherWork
from keepstate.setup import environments, installing
from keepstate.train import preflight, tracking
from keepstate.train.axolotl_config import PLUGIN_FOLDER, needs_gpu
from keepstate.train.estimate import TimeEstimate
from keepstate.train.evaluation import Evaluation, Evaluations
from keepstate.train.progress import PROGRESS, Follower, TrainingProgress
from keepstate.train.result import WEIGHTS, TrainedAdapter, read_done, write_result
from keepstate.train.run_folder import LOG, RESOLVED, STOP, alone, checkpoints, finished, prepare
from keepstate.train.training_plan import TrainingPlan, TrainingRequest, plan_training
from keepstate.vocabulary import Tracker

POLL_SECONDS = 0.5
STOP_SECONDS = 900.0
"""How long a Ctrl-C waits for the step in progress and its checkpoint: 262,144 tokens, on a slow GPU minutes."""
MEASURED_STEPS = 3
"""After which the speed is told: they differ by their rows' lengths."""
KILLED = 128 + 9
OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "cudaErrorMemoryAllocation")
"""What torch and CUDA call it."""
KILLED_RANK = "failed (exitcode: -9)"
"""What torch says of the first of several processes that failed."""
ENDS_THE_OTHERS = "torch/distributed/elastic/multiprocessing/api.py"
"""What it names when it then ends the others: what failed stands before."""
GOES_ON = "the same command goes on"
DISK_FULL = "No space left on device"
LEAST_FREE_GIB = 1 / 1024
"""Of disk: with fewer the log may lack its end, and so those words."""
WITHOUT_GPU = {
    "GOMP_SPINCOUNT": "1000",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
"""How long OpenMP threads spin before they sleep. On two cores a forward and backward of 300 tokens takes, in seconds,
with 10,000 / 1,000 / 0: alone 1.6 to 1.9 / 1.7 / 2.1 to 2.6, beside a busy program 5.6 / 3.3 / 3.0, beside two
6.3 / 4.1 / 4.3; with libgomp's default up to 30 times as long.
And glibc keeps what a step frees for the next one, which otherwise begins with thousands of page faults. On two cores
596 -> 675 tokens/s at 650 tokens a step, 420 to 530 -> 660 at 1,480; the peak grows by .4 GiB."""


def train(
    request: TrainingRequest,
    *,
    fresh: bool = False,
    tracker: Tracker = Tracker.TRACKIO,
    evaluate: Callable[[TrainingPlan], Evaluation] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    on_remark: Callable[[str], None] | None = None,
) -> TrainedAdapter:
    """Train one adapter: from the last checkpoint of the same training, or not at all where it is finished.

    Args:
        request: What is to be trained.
        fresh: Replace another training that lies in the folder; see `keepstate.resume`.
        tracker: Who draws the curves; by default a database beside the adapter's folder.
        evaluate: Plans what is played of checkpoints, see `keepstate.bench.checkpoints`; nothing is where None.
        on_progress: Called with every logged step.
        on_remark: Called with what a user should know; by default it is printed to stderr.

    Raises:
        UserError: A check failed, the folder holds another training, or Axolotl failed; names the log.
        KeyboardInterrupt: At Ctrl-C or SIGTERM, once the step in progress is saved, or could not be in 15 minutes.
    """
    say = on_remark or (lambda text: print(text, file=sys.stderr, flush=True))
    show = on_progress or (lambda _: None)
    # What is finished is so whatever this machine could train; else that comes first, before data is asked for.
    checked = read_done(request.folder()) is None
    planned = plan_training(request, machine=checked)
    with alone(planned.output), sigterm_interrupts():
        try:
            done, replaces = finished(planned), False
        except OtherWork as other:
            if not fresh:
                raise
            planned = planned if checked else plan_training(request)
            done, replaces = None, True
            say(f"{other.message}\n  it makes way")
        if done is not None:
            say(f"{planned.output} is trained already from this config and data: to repeat it, name another --out")
            if evaluate:
                _play_what_is_left(Evaluations(evaluate(planned), planned.output, say), planned, done, show, say)
            return done
        return _train(planned, tracker, evaluate, show, say, fresh=replaces)


def _train(
    planned: TrainingPlan,
    tracker: Tracker,
    evaluate: Callable[[TrainingPlan], Evaluation] | None,
    on_progress: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
    *,
    fresh: bool,
) -> TrainedAdapter:
    """Train what is planned, in a folder that is ours."""
    for remark in planned.remarks:
        say(remark)
    tracking.check_tracker(tracker)
    evaluation = evaluate(planned) if evaluate else None  # or it is refused
    python = installing.ensure("train")
    run = f"{planned.output.name}-{planned.key[:8]}"
    last = prepare(planned, tracking.config_keys(tracker, run), fresh=fresh)
    evaluations = Evaluations(evaluation, planned.output, say) if evaluation else None
    if last:
        say(f"going on from {last.name}")
    if tracker is Tracker.TRACKIO:
        say(f"curves: {tracking.dashboard(planned.output, python)}")
    follower = Follower(planned.output / PROGRESS)
    follower.take_in_earlier()
    env = _environment(planned) | tracking.environment(tracker, planned.output, run)
    env |= evaluations.environment if evaluations else {}
    _run(planned, python, env, follower, evaluations, on_progress, say)
    adapter = _summary(planned, follower)
    write_result(planned.output, adapter, planned.of_a_process, planned.manifest)
    if evaluations:
        _play_what_is_left(evaluations, planned, adapter, on_progress, say)
    return adapter


def _run(
    planned: TrainingPlan,
    python: Path,
    env: Mapping[str, str],
    follower: Follower,
    evaluations: Evaluations | None,
    on_progress: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
) -> None:
    """Run Axolotl to its end."""
    output = planned.output
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={planned.processes}"]
    command: list[str | Path] = [
        python,
        *(several if planned.processes > 1 else []),
        "-m",
        "axolotl.cli.train",
        output / RESOLVED,
    ]
    with (
        (output / LOG).open("ab") as log,
        GuardedProcess(command, output=log, env=env, cwd=output) as process,
    ):
        earlier = log.tell()
        try:
            code = _follow(process, follower, planned.assumed, evaluations, on_progress, say)
        except KeyboardInterrupt:
            if evaluations:
                evaluations.stop()
            say("stopping after this step and saving it; Ctrl-C again stops at once")
            (output / STOP).touch()
            try:
                process.poll(STOP_SECONDS)
            finally:
                kept = checkpoints(output)
                say(
                    f"kept: {kept[-1]}; {GOES_ON} from it"
                    if kept
                    else "nothing was saved yet: the same command begins anew"
                )
            raise
        finally:
            if evaluations:
                evaluations.stop()
    if code or not follower.finished or not (output / WEIGHTS).is_file():
        raise _failure(planned, code, earlier)


def _follow(
    process: GuardedProcess,
    follower: Follower,
    assumed: TimeEstimate | None,
    evaluations: Evaluations | None,
    on_progress: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
) -> int:
    """Pass on how far it is until it ends; say once what the first steps took."""
    shown: TrainingProgress | None = None
    while True:
        code = process.poll(POLL_SECONDS)
        newest = follower.look()
        while follower.warnings:
            say(follower.warnings.pop(0))
        doing = evaluations.tend(follower) if evaluations and code is None else ""
        if (latest := newest or shown) and (newest or doing != latest.doing):
            shown = replace(latest, doing=doing)
            on_progress(shown)
        if newest and assumed is not None and MEASURED_STEPS <= newest.timed_steps < newest.steps:
            say(assumed.against(newest))
            assumed = None
        if code is not None:
            return code


def _play_what_is_left(
    evaluations: Evaluations,
    planned: TrainingPlan,
    adapter: TrainedAdapter,
    on_progress: Callable[[TrainingProgress], None],
    say: Callable[[str], None],
) -> None:
    """The checkpoints of a finished training that have no scores yet, which then stand in its card."""
    last = TrainingProgress(adapter.steps, adapter.steps, adapter.final_loss, None, None, None)
    try:
        evaluations.finish(adapter, lambda doing: on_progress(replace(last, doing=doing)))
    except KeyboardInterrupt:
        say(f"{planned.output} is finished; {GOES_ON} with its scores")
        raise
    finally:
        evaluations.stop()
        write_result(planned.output, adapter, planned.of_a_process, planned.manifest)


def _environment(planned: TrainingPlan) -> dict[str, str]:
    """Ours, without telemetry; without the network too where nothing is needed from it."""
    own = {
        **environments.NO_TELEMETRY,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": f"{PLUGIN_FOLDER}{os.pathsep}{environments.ROOM_FOLDER}",
        "KEEPSTATE_PROGRESS": str(planned.output / PROGRESS),
        "KEEPSTATE_STOP": str(planned.output / STOP),
    }
    if planned.offline:
        own["HF_HUB_OFFLINE"] = "1"
    own |= machine.only(planned.gpus)  # the trainer would split rows over all it sees
    if needs_gpu(planned.config):  # as Axolotl's own command sets it: less memory lost between blocks
        own["PYTORCH_ALLOC_CONF"] = os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    else:
        own["CUDA_VISIBLE_DEVICES"] = ""
        own |= environments.unless_set(WITHOUT_GPU)
        if planned.processes > 1:
            own |= environments.unless_set({"OMP_NUM_THREADS": str(max(1, machine.cores() // planned.processes))})
    return os.environ | caches(planned.output / "prepared") | own


def _failure(planned: TrainingPlan, code: int, earlier: int) -> UserError:
    """Why Axolotl failed, by what it said in this run: behind the first `earlier` bytes of the log."""
    log = planned.output / LOG
    text = log_text(log, earlier)[-20_000:]
    if any(words in text for words in OUT_OF_MEMORY):
        return UserError(f"the GPU's memory did not suffice (log: {log})", preflight.smaller(planned.config, ran=True))
    if code == KILLED or KILLED_RANK in text:
        what = "Axolotl" if planned.processes == 1 else f"one of the {planned.processes} training processes"
        return UserError(
            f"{what} was killed from outside, most often for want of main memory (log: {log})",
            f"end other programs, then {GOES_ON}; with less memory: {preflight.smaller(planned.config, ran=True)}",
        )
    if DISK_FULL in text or machine.free_disk_gib(planned.output) < LEAST_FREE_GIB:
        return UserError(f"no disk space left for {planned.output} (log: {log})", f"free some, then {GOES_ON}")
    text, _, _ = text.partition(ENDS_THE_OTHERS)
    return UserError(
        f"Axolotl ended with code {code}; the end of {log}:\n{log_end(text)}",
        f"mend it, then {GOES_ON} where it stopped",
    )


def _summary(planned: TrainingPlan, follower: Follower) -> TrainedAdapter:
    losses = [loss for _, loss in follower.losses]
    return TrainedAdapter(
        key=planned.key,
        name=planned.name,
        trained_for=planned.trained_for,
        base_model=str(planned.config["base_model"]),
        base_revision=follower.revision or planned.decisive["base_model"].get("weights"),
        data_sha256=planned.manifest.splits["train"].sha256,
        template_sha256=planned.template_sha256,
        steps=follower.losses[-1][0] if follower.losses else 0,
        first_loss=losses[0] if losses else None,
        final_loss=sum(losses[-10:]) / len(losses[-10:]) if losses and follower.diverged is None else None,
        eval_loss=follower.eval_loss,
        seconds=round(follower.seconds, 1),
        tokens=follower.tokens,
        peak_gib=round(follower.peak_bytes / 2**30, 2),
        processes=planned.processes,
        evaluation_seconds=round(follower.stood, 1),
        versions=follower.versions,
    )
